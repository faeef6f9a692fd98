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
    # By the extension, or by JAX.
    assert sum(text.count(name) for name in ("lu_factor", " lu ", " lu[")) == 1


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


def test_elimination_and_what_takes_over():
    """A batch of which `x` can be eliminated from the first item only: in the others `P`
    is singular, an equality is there twice, and there is no feasible point.
    """
    rng = np.random.default_rng(3)
    n, p, k = 20, 3, 10
    root = rng.normal(size=(n, n))
    P = np.stack([root @ root.T / n + np.eye(n)] * 4)
    flat = root[:, :17]
    P[1] = flat @ flat.T
    A, G = np.stack([rng.normal(size=(p, n))] * 4), rng.normal(size=(k, n))
    A[2:, 2] = A[2:, 1]
    x = rng.normal(size=n)
    z, s = np.where(np.arange(k) < 4, 1.0, 0.0), np.where(np.arange(k) < 4, 0.0, 1.0)
    q = np.stack([-(Q @ x + E.sum(axis=0) + G.T @ z) for Q, E in zip(P, A, strict=True)])
    b, h = A @ x, G @ x + s
    b[3, 2] += 1
    cotangent = rng.normal(size=n)

    @jax.jit
    @jax.vmap
    def gradients(P, q, A, b):
        def loss(P, q, A, b):
            found = diffqcp.solve_qp(P, q, A, b, G, h, polish=False, throw=False)
            return cotangent @ found.x, found

        return jax.value_and_grad(loss, argnums=(1, 3), has_aux=True)(P, q, A, b)

    (_, found), (dq, db) = gradients(P, q, A, b)
    np.testing.assert_array_equal(found.status, [0, 0, 0, diffqcp.Status.INFEASIBLE])
    np.testing.assert_allclose(found.x[:3], np.stack([x] * 3), atol=1e-8)
    for i in range(3):
        B = np.concatenate([A[i], G[:4]])
        K = np.block([[P[i], B.T], [B, np.zeros((len(B), len(B)))]])
        right = np.concatenate([cotangent, np.zeros(len(B))])
        w, u = np.split(np.linalg.pinv(K, rcond=1e-10) @ right, [n])
        np.testing.assert_allclose(dq[i], -w, atol=1e-8)
        np.testing.assert_allclose(db[i], u[:p], atol=1e-8)
    assert np.isnan(dq[3]).all()
