"""QPs as arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffqcp


def difference(function, data, direction, step=1e-4):
    def at(k):
        return function(*(a + k * step * d for a, d in zip(data, direction, strict=True)))

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)


def test_equality_qp_has_the_textbook_gradients():
    rng = np.random.default_rng(0)
    n, m = 5, 2
    root = rng.normal(size=(n, n))
    P, A = jnp.asarray(root @ root.T + np.eye(n)), jnp.asarray(rng.normal(size=(m, n)))
    c, b = jnp.asarray(rng.normal(size=n)), jnp.asarray(rng.normal(size=m))
    (x, y), pull = jax.vjp(diffqcp.solve_equality_qp, P, c, A, b)
    np.testing.assert_allclose(A @ x, b, atol=1e-13)
    np.testing.assert_allclose(P @ x + A.T @ y + c, 0, atol=1e-12)
    gx, gy = jnp.asarray(rng.normal(size=n)), jnp.asarray(rng.normal(size=m))
    dP, dc, dA, db = pull(diffqcp.EqualityQPSolution(gx, gy))
    K = np.block([[P, A.T], [A, np.zeros((m, m))]])
    w, u = np.split(np.linalg.solve(K, np.concatenate([gx, gy])), [n])
    np.testing.assert_allclose(dP, -(np.outer(w, x) + np.outer(x, w)) / 2, atol=1e-12)
    np.testing.assert_allclose(dA, -(np.outer(y, w) + np.outer(u, x)), atol=1e-12)
    np.testing.assert_allclose(dc, -w, atol=1e-12)
    np.testing.assert_allclose(db, u, atol=1e-12)

    direction = [jnp.asarray(rng.normal(size=part.shape)) for part in (P, c, A, b)]

    def loss(*data):
        return jnp.sum(diffqcp.solve_equality_qp(*data).x ** 3)

    gradient = jax.grad(loss, argnums=2)
    _, bend = jax.jvp(gradient, (P, c, A, b), tuple(direction))
    expected = difference(gradient, (P, c, A, b), direction)
    np.testing.assert_allclose(bend, expected, rtol=0, atol=1e-8 * np.abs(bend).max())


def test_equality_qp_factorises_once():
    text = str(
        jax.make_jaxpr(
            lambda *data: jax.vjp(diffqcp.solve_equality_qp, *data)[1](
                diffqcp.EqualityQPSolution(jnp.ones(3), jnp.ones(1))
            )
        )(jnp.eye(3), jnp.ones(3), jnp.ones((1, 3)), jnp.ones(1))
    )
    assert text.count(" lu ") + text.count(" lu[") == 1


@pytest.mark.parametrize("equalities", [0, 1])
def test_batched_nonnegative_least_squares(equalities):
    """All six gradients in one call, against differences of the loss."""
    rng = np.random.default_rng(1)
    batch, n = 6, 4
    F, g = rng.normal(size=(batch, 8, n)), rng.normal(size=(batch, 8))
    data = (
        np.einsum("bij,bik->bjk", F, F),
        -np.einsum("bij,bi->bj", F, g),
        rng.normal(size=(batch, equalities, n)),
        np.zeros((batch, equalities)),
        -np.tile(np.eye(n), (batch, 1, 1)),
        np.full((batch, n), 0.1),
    )
    data = tuple(jnp.asarray(part) for part in data)

    def loss(*data):
        solution = diffqcp.solve_qp(*data, polish=False, throw=False)
        return jnp.sum(solution.x**2) + solution.objective

    compiled = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=tuple(range(6)))))
    _, gradient = compiled(*data)
    direction = [jnp.asarray(rng.normal(size=part.shape)) for part in data]
    expected = difference(lambda *data: compiled(*data)[0], data, direction, 1e-5)
    got = sum(
        jnp.sum((a * d).reshape(batch, -1), axis=1)
        for a, d in zip(gradient, direction, strict=True)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    tall = diffqcp.solve_qp(*(part[0] for part in data))
    assert tall.status == diffqcp.Status.SOLVED and tall.residuals.dual < 1e-12
