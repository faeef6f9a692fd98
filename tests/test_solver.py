"""The differentiable solve: transformations, outcomes, one forward solve a call."""

from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import diffqcp
from diffqcp import (
    Clarabel,
    Function,
    InteriorPoint,
    QCPSolver,
    QCPStructureCPU,
    QCPStructureDense,
    Status,
)

from .helpers import csr, entries
from .reference import random_direction, random_problem
from .test_forward import clarabel_function


QP = {"z": 1, "l": 3}


def dense(problem):
    return tuple(jnp.asarray(getattr(problem, part)) for part in "PAqb")


def dense_solver(problem, **options):
    P, A, _, _ = dense(problem)
    structure = QCPStructureDense(P, A, problem.dims, psd_order=problem.order)
    return QCPSolver(structure, **options)


def cotangents(problem, seed=0):
    rng = np.random.default_rng(seed)
    m, n = problem.A.shape
    return [jnp.asarray(rng.normal(size=size)) for size in (n, m, m)]


def loss_of(solver, problem):
    """A function of the data that sees all of the solution, nonlinearly."""
    cx, cy, cs = cotangents(problem)

    def loss(P, A, q, b):
        solution = solver(P, A, q, b)
        linear = cx @ solution.x + cy @ solution.y + cs @ solution.s
        return linear + 0.1 * solution.objective**2

    return loss


def shifted(data, direction, step):
    return tuple(part + step * d for part, d in zip(data, direction, strict=True))


def difference(function, data, direction, step=1e-5):
    """Fourth order; a pytree like `function`'s."""
    ends = [function(*shifted(data, direction, k * step)) for k in (1, -1, 2, -2)]
    return jax.tree.map(lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * step), *ends)


def inner(left, right):
    return float(sum(jnp.vdot(a, b) for a, b in zip(left, right, strict=True)))


CONES = {
    "qp": QP,
    "soc": {"z": 1, "q": [4]},
    "psd": {"l": 1, "s": [3]},
    "exponential": {"l": 1, "ep": 1},
    "dual exponential": {"ed": 1},
    "power": {"p": [0.3, 0.6, -0.7]},
}


@pytest.mark.parametrize("dims", CONES.values(), ids=CONES)
def test_derivatives_of_both_orders(dims):
    """The gradient, a JVP and a Hessian-vector product against differences of solutions
    and of gradients. The differences are good to 1e-9.
    """
    problem, solution = random_problem(dims, 3)
    loss = loss_of(dense_solver(problem), problem)
    data = dense(problem)
    direction = dense(random_direction(problem, 1))
    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))

    @jax.jit
    def second(data, direction):
        gradient = jax.grad(loss, argnums=(0, 1, 2, 3))
        return jax.jvp(gradient, data, direction)

    found = dense_solver(problem)(*data)
    for part, exact in zip((found.x, found.y, found.s), solution, strict=True):
        np.testing.assert_allclose(part, exact, rtol=0, atol=1e-11)

    slope, curvature = difference(value_and_grad, data, direction)
    gradient, bend = second(data, direction)
    assert inner(gradient, direction) == pytest.approx(float(slope), rel=1e-7)
    np.testing.assert_allclose(gradient[0], gradient[0].T, rtol=0, atol=1e-12)
    for got, expected in zip(bend, curvature, strict=True):
        scale = np.linalg.norm(np.concatenate([np.ravel(part) for part in curvature]))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7 * scale)


def test_adjoint_identity_and_agreement_with_qcp():
    """Reverse mode is the transpose of forward mode, and both are a QCP's."""
    problem, _ = random_problem(QP, 3)
    data, direction = dense(problem), dense(random_direction(problem, 1))
    solver = dense_solver(problem)

    def solution(*data):
        found = solver(*data)
        return found.x, found.y, found.s

    (x, y, s), tangents = jax.jvp(solution, data, direction)
    g = cotangents(problem)
    pulled = jax.vjp(solution, *data)[1](tuple(g))
    assert inner(tangents, g) == pytest.approx(inner(pulled, direction), rel=1e-12)

    P, A = entries(problem.P, np.triu(problem.P)), entries(problem.A, problem.A)
    structure = QCPStructureCPU(P, A, problem.dims)
    qcp = diffqcp.HostQCP(P, A, problem.q, problem.b, x, y, s, structure)
    dP, dA, dq, db = qcp.vjp(*g)
    np.testing.assert_allclose(pulled[1][problem.A != 0], dA.todense()[problem.A != 0])
    np.testing.assert_allclose(pulled[2], dq, atol=1e-11)
    np.testing.assert_allclose(pulled[3], db, atol=1e-11)

    def sparse(P, A, q, b):
        return g[0] @ diffqcp.solve(P, A, q, b, problem.dims).x

    # Both sparse formats: gradients on the stored entries, as a QCP's.
    only_x = jax.vjp(lambda *data: solver(*data).x, *data)[1](g[0])
    got = eqx.filter_grad(lambda args: sparse(*args))((P, A, *data[2:]))
    twice = np.triu(only_x[0] + only_x[0].T) - np.diag(np.diag(only_x[0]))
    rows, cols = np.nonzero(np.triu(problem.P))
    np.testing.assert_allclose(got[0].data, twice[rows, cols], atol=1e-11)
    np.testing.assert_allclose(got[2], only_x[2], atol=1e-11)
    P, A = csr(problem.P, problem.P), csr(problem.A, problem.A)
    got = eqx.filter_grad(lambda args: sparse(*args))((P, A, *data[2:]))
    np.testing.assert_allclose(got[0].data, only_x[0][np.nonzero(problem.P)], atol=1e-11)


def test_transformations_agree():
    problem, _ = random_problem(QP, 3)
    solver = dense_solver(problem)
    P, A, q, b = dense(problem)

    def x(q):
        return solver(P, A, q, b).x

    forward, reverse = jax.jacfwd(x)(q), jax.jacrev(x)(q)
    np.testing.assert_allclose(forward, reverse, atol=1e-11)
    value, linear = jax.linearize(x, q)
    np.testing.assert_allclose(value, x(q), atol=1e-11)
    np.testing.assert_allclose(linear(q), forward @ q, atol=1e-11)
    batch = jnp.stack([q, 1.1 * q, 0.9 * q])
    together = jax.vmap(jax.jacrev(x))(batch)
    one_by_one = jnp.stack([jax.jacrev(x)(item) for item in batch])
    np.testing.assert_allclose(together, one_by_one, atol=1e-11)
    nested = jax.vmap(jax.vmap(x))(jnp.stack([batch, batch]))
    np.testing.assert_allclose(nested[1], jax.vmap(x)(batch), atol=1e-11)


def counting():
    """A forward solver that counts its calls."""
    calls = []

    def function(P, A, q, b, dims):
        calls.append(q)
        return clarabel_function(P, A, q, b, dims)

    return Function(function), calls


def test_one_forward_solve_a_call():
    """For the value, gradients, and second derivatives; and no retracing."""
    problem, _ = random_problem(QP, 3)
    forward, calls = counting()
    solver = dense_solver(problem, forward=forward)
    data = dense(problem)
    direction = dense(random_direction(problem, 1))
    loss = loss_of(solver, problem)
    traces = Counter()

    def counted(name, function):
        def traced(*arguments):
            traces[name] += 1
            return function(*arguments)

        return jax.jit(traced)

    functions = {
        "value": loss,
        "gradient": jax.value_and_grad(loss, argnums=(0, 1, 2, 3)),
        "jvp": lambda *data: jax.jvp(loss, data, direction),
        "hessian": lambda *data: jax.jvp(
            jax.value_and_grad(loss, argnums=2), data, direction
        ),
    }
    for name, function in functions.items():
        compiled = counted(name, function)
        for k in range(3):
            calls.clear()
            jax.block_until_ready(compiled(*shifted(data, direction, 1e-3 * k)))
            assert len(calls) == 1, name
        assert traces[name] == 1
    calls.clear()
    jax.grad(loss)(*data)  # eager
    assert len(calls) == 1
    calls.clear()
    P, A, q, b = data
    jax.jit(jax.vmap(lambda q: jax.grad(loss, argnums=2)(P, A, q, b)))(jnp.stack([q] * 5))
    assert len(calls) == 5


def test_hessian_of_a_loss_that_is_linear():
    """The projection of `-q` onto a ball, whose cotangent does not depend on anything."""
    A, b = jnp.concatenate([jnp.zeros((1, 3)), -jnp.eye(3)]), jnp.array([1.0, 0, 0, 0])

    def loss(q):
        return jnp.sum(diffqcp.solve(jnp.eye(3), A, q, b, {"q": [4]}).x)

    q = jnp.array([1.0, -2.0, 0.5])
    expected = jax.hessian(lambda q: -jnp.sum(q / jnp.sqrt(q @ q)))(q)
    np.testing.assert_allclose(jax.hessian(loss)(q), expected, rtol=0, atol=1e-10)


def infeasible_batch(size, bad):
    """minimise |x - c|^2 s.t. x <= u, -x <= -l: infeasible where u < l."""
    rng = np.random.default_rng(0)
    n = 3
    A = np.concatenate([np.eye(n), -np.eye(n)])
    c = rng.normal(size=(size, n))
    b = np.concatenate([np.full((size, n), 0.5), np.full((size, n), 0.5)], axis=1)
    b[bad, 0] = -2.0
    return jnp.eye(n), jnp.asarray(A), jnp.asarray(-c), jnp.asarray(b), c


@pytest.mark.parametrize("forward", [Clarabel(), InteriorPoint()])
def test_a_thousand_problems_ten_of_them_infeasible(forward):
    size, bad = 1000, np.arange(7, 1000, 100)
    P, A, q, b, c = infeasible_batch(size, bad)
    solver = diffqcp.QCPSolver(
        QCPStructureDense(P, A, {"l": 6}), forward=forward, throw=False
    )

    def loss(q, b):
        solution = solver(P, A, q, b)
        return jnp.sum(solution.x**2), solution

    compiled = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True)))
    (_, solution), gradient = compiled(q, b)
    good = np.setdiff1d(np.arange(size), bad)
    assert np.all(solution.status[bad] == Status.INFEASIBLE)
    assert np.all(solution.status[good] == Status.SOLVED)
    assert np.all(np.isnan(solution.x[bad])) and np.all(np.isnan(gradient[bad]))
    # The solution is c clipped to the box, and -q is c.
    np.testing.assert_allclose(
        solution.x[good], np.clip(c[good], -0.5, 0.5), rtol=0, atol=1e-10
    )
    inside = np.abs(c[good]) < 0.5
    np.testing.assert_allclose(
        gradient[good], np.where(inside, -2 * c[good], 0), rtol=0, atol=1e-9
    )


def test_throw_names_the_status_and_the_item():
    P, A, q, b, _ = infeasible_batch(4, [2])
    solver = QCPSolver(QCPStructureDense(P, A, {"l": 6}))
    with pytest.raises(RuntimeError, match="status is 'infeasible'"):
        solver(P, A, q[2], b[2])
    x = lambda q, b: solver(P, A, q, b).x  # noqa: E731
    with pytest.raises(RuntimeError, match="item 2 of the batch is 'infeasible'"):
        jax.block_until_ready(jax.vmap(x)(q, b))
    with pytest.raises(RuntimeError, match="item 2 of the batch is 'infeasible'"):
        jax.block_until_ready(jax.jit(jax.vmap(jax.jacrev(x)))(q, b))
    assert np.all(np.isfinite(jax.jit(jax.vmap(x))(q[:2], b[:2])))


def test_bad_arguments(monkeypatch):
    # Its own checks come before ours.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    problem, _ = random_problem(QP, 3)
    P, A, q, b = dense(problem)
    solver = dense_solver(problem)
    with pytest.raises(ValueError, match="q: expected shape"):
        solver(P, A, q[:-1], b)
    with pytest.raises(TypeError, match="P: expected a dense array"):
        solver(entries(problem.P, problem.P), A, q, b)
    with pytest.raises(TypeError, match="A: expected a dense array"):
        diffqcp.solve(P, entries(problem.A, problem.A), q, b, QP)
    with pytest.raises(TypeError, match="forward: expected"):
        dense_solver(problem, forward="clarabel")
    with pytest.raises(TypeError, match="structure: expected"):
        QCPSolver(None)
    with pytest.raises(ValueError, match="onto_dual"):
        QCPSolver(QCPStructureDense(P, A, QP, onto_dual=False))
    with pytest.raises(ValueError, match="start: expected"):
        solver(P, A, q, b, start=(q, b))
    with pytest.raises(ValueError, match="zero and nonnegative cones only"):
        diffqcp.solve(P, A, q, b, {"q": [4]}, forward=InteriorPoint())
    with pytest.raises(RuntimeError, match="'not finite'"):
        solver(P, A, q * jnp.nan, b)


@pytest.mark.parametrize("part", ["x", "y", "s", "objective"])
def test_items_without_a_solution_spoil_no_gradient(part):
    """A projection onto an interval that is empty for one of three items; all share W."""
    structure = QCPStructureDense(jnp.eye(1), jnp.ones((2, 1)), {"l": 2})
    solver = QCPSolver(structure, throw=False)
    A, z = jnp.array([[1.0], [-1.0]]), jnp.array([[1.0], [2.0], [3.0]])
    b = jnp.array([[1.0, 1.0], [-1.0, -1.0], [9.0, 9.0]])
    solved = np.array([True, False, True])

    @jax.jit
    def gradients(W, A, rows, weights):
        def loss(W, A):
            found = jax.vmap(lambda z, b: solver(jnp.eye(1), A, W @ z, b))(
                z[rows], b[rows]
            )
            values = getattr(found, part).reshape(len(rows), -1)
            return jnp.sum(jnp.where(weights[:, None], values, 0) ** 2)

        return jax.grad(loss, argnums=(0, 1))(W, A)

    W = jnp.array([[-2.0]])
    got = gradients(W, A, jnp.arange(3), solved)
    want = gradients(W, A, jnp.array([0, 2]), np.array([True, True]))
    for left, right in zip(got, want, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)
    for asked in gradients(W, A, jnp.arange(3), np.array([True, True, True])):
        assert np.isnan(asked).any()
    # No tangent without a change; NaN for one whose column sums to zero.
    b_none, q = b[1], jnp.ones(1)
    change = jnp.array([[1.0], [-1.0]])
    for scale in (0.0, 1.0):
        _, tangent = jax.jvp(
            lambda A: solver(jnp.eye(1), A, q, b_none).x, (A,), (scale * change,)
        )
        assert np.isnan(tangent).all() if scale else np.all(tangent == 0)
