"""Solutions are right to rounding errors, or said not to be, whatever the data are like.

Truth: closed forms, the same problem in other units or without a row, and central
differences of solutions whose optimality conditions are checked here in NumPy.
"""

import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

import diffqcp
from diffqcp import (
    _convexity,
    Clarabel,
    Function,
    InteriorPoint,
    Newton,
    QCPSolver,
    QCPStructureCPU,
    QCPStructureDense,
    Status,
)
from diffqcp._scaling import equilibrate
from diffqcp.integrations.cvxpy import backward, host_qcp, sensitivity
from diffqcp.linear_solve._native import NativeFactorisation
from diffqcp.linear_solve._qdldl import QDLDLFactorisation

from .helpers import gradient_of_solve, host
from .reference import random_problem


def denoising(rng):
    """minimise |x|_1 subject to |A x - b| <= sigma, over (x, t) with |x| <= t."""
    rows, n, sparse = 8, 20, 3
    A, x = rng.normal(size=(rows, n)), np.zeros(n)
    x[rng.choice(n, sparse, replace=False)] = rng.normal(size=sparse)
    sigma, noise = 10 ** rng.uniform(-4, -1), rng.normal(size=rows)
    b = A @ x + 0.9 * sigma * noise / np.linalg.norm(noise)
    eye, zero = np.eye(n), np.zeros((rows + 1, n))
    cone = np.concatenate([np.concatenate([np.zeros((1, n)), A]), zero], axis=1)
    G = np.concatenate([np.block([[eye, -eye], [-eye, -eye]]), cone])
    h = np.concatenate([np.zeros(2 * n), [sigma], b])
    return G, np.repeat([0.0, 1.0], n), h


def test_polishing_gets_there():
    """At Clarabel's default tolerance the active set is wrong in one of twenty."""
    rng = np.random.default_rng(0)
    items = [denoising(rng) for _ in range(60)]
    G, q, h = (np.stack(part) for part in zip(*items, strict=True))
    P, dims = np.zeros((40, 40)), {"l": 40, "q": [9]}
    solver = QCPSolver(QCPStructureDense(P, G[0], dims))

    @jax.jit
    @jax.vmap
    def solve(G, q, h):
        def objective(sigma):
            found = solver(P, G, q, h.at[40].set(sigma))
            return found.objective, found

        return jax.value_and_grad(objective, has_aux=True)(h[40])

    (value, found), slope = solve(G, q, h)
    assert np.all(found.status == Status.SOLVED)
    x, y, s = (np.asarray(part) for part in (found.x, found.y, found.s))
    # A hundred epsilon, of terms up to a hundred.
    assert np.max(np.abs(np.einsum("kij,ki->kj", G, y) + q)) < 3e-12
    assert np.max(np.abs(np.einsum("kij,kj->ki", G, x) + s - h)) < 3e-12
    assert np.max(np.abs(np.sum(y * s, axis=1))) < 3e-12
    # The derivative of the optimal value is the multiplier. The tolerance: one of the
    # systems has a condition of 1e8.
    np.testing.assert_allclose(slope, -y[:, 40], rtol=1e-7)
    step = 1e-4
    ahead, behind = h.copy(), h.copy()
    ahead[:, 40] *= 1 + step
    behind[:, 40] *= 1 - step
    change = np.asarray(solve(G, q, ahead)[0][0]) - np.asarray(solve(G, q, behind)[0][0])
    np.testing.assert_allclose(slope, change / (2 * step * h[:, 40]), rtol=1e-5)


def nearly_active():
    """minimise |x|^2 / 2 subject to x1 + x2 = 1 - 1e-6, x1 - 2 x2 <= -1/2."""
    A, b = np.array([[1.0, 1.0], [1.0, -2.0]]), np.array([1 - 1e-6, -0.5])
    return np.eye(2), A, np.zeros(2), b, {"z": 1, "l": 1}


@pytest.mark.parametrize("tol", [1e-8, 1e-12])
def test_a_small_multiplier(tol):
    P, A, q, b, dims = nearly_active()
    found = diffqcp.solve(P, A, q, b, dims, forward=Clarabel(tol=tol))
    # Both are active, and the second multiplier is (x2 - x1) / 3.
    np.testing.assert_allclose(found.x, np.linalg.solve(A, b), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.y[1], 1e-6 / 9, rtol=1e-9)


def rough(P, A, q, b, dims):
    """Far from the solution of any problem."""
    return np.ones(q.size), np.ones(b.size), np.ones(b.size)


def test_inaccurate_is_a_status():
    """A user's function is the only solver that is called. One that returns a point from
    which Newton's method does not get there has not solved the problem.
    """
    rng = np.random.default_rng(2)
    G, q, h = denoising(rng)
    P, dims = np.zeros((40, 40)), {"l": 40, "q": [9]}
    found = diffqcp.solve(P, G, q, h, dims, forward=Function(rough), throw=False)
    assert found.status == Status.INACCURATE
    assert np.all(np.isfinite(found.x))
    with pytest.raises(RuntimeError, match="inaccurate"):
        diffqcp.solve(P, G, q, h, dims, forward=Function(rough))


CONES = {"polyhedral": {"z": 1, "l": 4}, "mixed": {"z": 1, "l": 2, "q": [3], "ep": 1}}
FORWARDS = {
    "clarabel": Clarabel(),
    "newton": Newton(),
    "interior point": InteriorPoint(),
}


@pytest.mark.parametrize(
    ("cones", "forward"),
    [
        ("polyhedral", "interior point"),
        ("polyhedral", "newton"),
        ("mixed", "clarabel"),
        ("mixed", "newton"),
    ],
)
def test_a_bound_far_away_is_none(cones, forward):
    """From 1e3 to infinity: as without the row."""
    problem, (x, y, s) = random_problem(CONES[cones], 3)
    n, z = x.size, 1
    row = np.random.default_rng(0).normal(size=n)
    A = np.insert(problem.A, z, row, axis=0)
    dims = CONES[cones] | {"l": CONES[cones]["l"] + 1}

    def gradients(A, dims, **options):
        return jax.jit(gradient_of_solve(problem, A, dims, **options))

    (_, truth), expected = gradients(problem.A, CONES[cones])(
        *(problem.P, problem.A, problem.q, problem.b, (x, y, s))
    )
    np.testing.assert_allclose(truth.x, x, rtol=0, atol=1e-9)
    bounded = gradients(A, dims, forward=FORWARDS[forward])
    for bound in (1e3, 1e8, 1e12, 1e20, 1e30, np.inf):
        b = np.insert(problem.b, z, bound)
        start = x + 0.01, np.insert(y, z, 0), np.insert(s, z, bound)
        (_, found), (dP, dA, dq, db) = bounded(problem.P, A, problem.q, b, start)
        np.testing.assert_allclose(found.x, truth.x, rtol=0, atol=1e-10)
        assert found.y[z] == 0 and (found.s[z] == np.inf) == (bound == np.inf)
        assert not np.any(dA[z]) and db[z] == 0
        got = dP, np.delete(dA, z, axis=0), dq, np.delete(db, z)
        for part, expected_part in zip(got, expected, strict=True):
            np.testing.assert_allclose(part, expected_part, rtol=0, atol=1e-9)


def test_a_bound_that_is_none_in_a_qcp():
    problem, (x, y, s) = random_problem({"z": 1, "l": 3}, 4)
    expected = host(problem, (x, y, s)).vjp(x, y, s)
    row = np.ones(x.size)
    longer = problem._replace(
        A=np.insert(problem.A, 1, row, axis=0),
        b=np.insert(problem.b, 1, np.inf),
        dims={"z": 1, "l": 4},
    )
    solution = x, np.insert(y, 1, 0), np.insert(s, 1, np.inf)
    _, dA, dq, db = host(longer, solution).vjp(x, np.insert(y, 1, 0), np.insert(s, 1, 0))
    np.testing.assert_allclose(dq, expected[2], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.delete(db, 1), expected[3], rtol=0, atol=1e-12)
    assert db[1] == 0 and not np.any(dA.todense()[1])
    for bad in (-np.inf, np.nan):
        wrong = longer._replace(b=np.insert(problem.b, 1, bad))
        with pytest.raises(ValueError, match="b: expected finite"):
            host(wrong, solution)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.inf])
def test_what_is_not_finite_is_refused(bad):
    """Also if the last solution is at hand; infinity is no bound in an equality."""
    P, A, q, b, dims = nearly_active()
    found = diffqcp.solve(P, A, q, b, dims)
    for forward in (Newton(), Clarabel()):
        worse = diffqcp.solve(
            *(P, A, q, np.array([bad, -0.5]), dims),
            forward=forward,
            start=found,
            throw=False,
        )
        assert worse.status == Status.NOT_FINITE
        assert np.all(np.isnan(worse.x))


def test_units():
    """Rows in units that differ by 12 orders of magnitude, and all data in others."""
    rng = np.random.default_rng(0)
    n, p, k = 8, 2, 12
    F, A, x = (rng.normal(size=size) for size in ((10, n), (p + k, n), n))
    slack = rng.uniform(size=k) * (rng.uniform(size=k) < 0.7)
    P, q, b = F.T @ F, rng.normal(size=n), A @ x + np.append(np.zeros(p), slack)
    solver = QCPSolver(QCPStructureDense(P, A, {"z": p, "l": k}))

    @jax.jit
    def gradients(P, A, q, b):
        loss = lambda *data: jnp.sum(jnp.sin(solver(*data).x))  # noqa: E731
        return jax.grad(loss, argnums=(0, 1, 2, 3))(P, A, q, b)

    expected = gradients(P, A, q, b)
    rows = 10 ** rng.uniform(-6, 6, size=p + k)
    for r, c in ((rows, 1.0), (np.ones(p + k), 1e-6), (np.full(p + k, 1e-6), 1e6)):
        dP, dA, dq, db = gradients(c * P, r[:, None] * A, c * q, r * b)
        scaled_back = c * dP, r[:, None] * dA, c * dq, r * db
        for got, part in zip(scaled_back, expected, strict=True):
            np.testing.assert_allclose(got, part, rtol=0, atol=1e-10)


def test_scaling_is_exact_and_undone():
    problem, solution = random_problem({"z": 2, "l": 3, "q": [3, 4], "s": [2]}, 5)
    wild = problem._replace(b=problem.b * np.array([1e9, 1] + [1e-4] * 13))
    structure = host(wild, solution).problem_structure
    qcp = host(wild, solution)
    data = qcp.P_values, qcp.A_values, qcp.q, qcp.b
    scaling = equilibrate(structure, data)
    for part in scaling:
        assert np.all(np.frexp(np.asarray(part))[0] == 0.5)  # powers of two
    for start in (5, 8, 12):  # one factor for a cone
        size = {5: 3, 8: 4, 12: 3}[start]
        assert np.ptp(scaling.rows[start : start + size]) == 0
    restored = scaling.restore(scaling.scale((qcp.x, qcp.y, qcp.s)))
    for part, given in zip(restored, (qcp.x, qcp.y, qcp.s), strict=True):
        np.testing.assert_array_equal(part, given)


def soft_mpc(weight, state):
    """Feasible, whatever the state: the bounds on it are soft."""
    T = 10
    x, u, e = cp.Variable((T + 1, 2)), cp.Variable((T, 1)), cp.Variable((T + 1, 2))
    A, B = np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([[0.125], [0.5]])
    constraints = [x[0] == state, e >= 0, cp.abs(x) <= 1 + e, cp.abs(u) <= 1]
    constraints += [x[t + 1] == A @ x[t] + B @ u[t] for t in range(T)]
    cost = cp.sum_squares(x) + 0.1 * cp.sum_squares(u) + weight * cp.sum(e)
    return cp.Problem(cp.Minimize(cost), constraints)


@pytest.mark.parametrize(("weight", "state"), [(1e5, (3, 3)), (1.0, (1e4, 1e4))])
def test_no_false_verdict(weight, state):
    """For the second, interior-point methods find what looks like a certificate."""
    data, _, _ = soft_mpc(weight, state).get_problem_data(cp.CLARABEL)
    P, A, q, b = data["P"].toarray(), data["A"].toarray(), data["c"], data["b"]
    dims = {"z": data["dims"].zero, "l": data["dims"].nonneg}
    found = diffqcp.solve(P, A, q, b, dims)
    x, y, s = (np.asarray(part) for part in (found.x, found.y, found.s))
    size = np.max(np.abs(y))
    assert np.max(np.abs(P @ x + A.T @ y + q)) < 1e-12 * size
    # Rounding errors in the units of the solve, where the slack variables are larger.
    assert np.max(np.abs(A @ x + s - b)) < 1e-10 * np.max(np.abs(x))
    y_rows, s_rows = y[dims["z"] :], s[dims["z"] :]
    assert np.min(y_rows) >= 0 and np.min(s_rows) >= 0 and not np.any(y_rows * s_rows)


@pytest.mark.parametrize("forward", [Clarabel(), Newton(), InteriorPoint()])
@pytest.mark.parametrize("size", [1e-5, 1.0, 1e5])
def test_true_verdicts(forward, size):
    options = {"forward": forward, "throw": False}
    A, b = np.array([[1.0, 1.0], [-1.0, -1.0]]), -size * np.ones(2)
    found = diffqcp.solve(np.eye(2), A, np.zeros(2), b, {"l": 2}, **options)
    assert found.status == Status.INFEASIBLE
    P, q = np.zeros((2, 2)), -size * np.ones(2)
    found = diffqcp.solve(P, -np.eye(2), q, np.zeros(2), {"l": 2}, **options)
    assert found.status == Status.UNBOUNDED


@pytest.mark.parametrize("n", [2, 20])
def test_not_convex(n):
    """In a box it would have a local solution, which is none."""
    Q = np.diag(np.where(np.arange(n) == n - 1, -1.0, 1.0))
    box = np.concatenate([np.eye(n), -np.eye(n)])
    with pytest.raises(RuntimeError, match="not convex"):
        diffqcp.solve_qp(Q, np.full(n, 0.3), None, None, box, np.ones(2 * n))
    singular = np.diag(np.where(np.arange(n) == n - 1, 0.0, 1.0))
    found = diffqcp.solve_qp(singular, np.full(n, 0.3), None, None, box, np.ones(2 * n))
    expected = np.where(np.arange(n) == n - 1, -1.0, -0.3)
    np.testing.assert_allclose(found.x, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("factorisation", [NativeFactorisation, QDLDLFactorisation])
def test_not_convex_and_sparse(monkeypatch, factorisation):
    """An eigenvalue of -1e-6 is one; zero is none, and neither is a rounding error."""
    monkeypatch.setattr(_convexity, "factorisation", factorisation)
    _convexity._factorisation.cache_clear()
    n = 40
    laplacian = sp.diags_array(
        [np.r_[1.0, np.full(n - 2, 2.0), 1.0], np.full(n - 1, -1.0)],
        offsets=[0, 1],
        shape=(n, n),
    )
    upper = BCOO.from_scipy_sparse(sp.coo_array(laplacian))
    box = BCOO.from_scipy_sparse(sp.coo_array(sp.eye_array(n)))
    structure = QCPStructureCPU(upper, box, {"l": n})

    @jax.jit
    @jax.vmap
    def convex(values):
        return _convexity.is_convex(structure, values)

    shifts = np.array([0.0, -1e-6, 1e-3, -1e-17, -1.0])
    values = np.tile(np.asarray(upper.data), (shifts.size, 1))
    on = structure.P_pattern.rows == structure.P_pattern.cols
    values[:, on] += shifts[:, None]
    np.testing.assert_array_equal(
        convex(jnp.asarray(values)), [True, False, True, True, False]
    )
    _convexity._factorisation.cache_clear()


def test_single_precision():
    """Polishing does not make anything worse: residuals are rounding errors."""
    rng = np.random.default_rng(0)
    n, k, p, count = 15, 10, 3, 300
    F, G, A = (rng.normal(size=(count, rows, n)) for rows in (n, k, p))
    x, slack = rng.normal(size=(count, n)), rng.uniform(size=(count, k))
    Q = F @ F.swapaxes(1, 2) + 1e-3 * np.eye(n)
    data = (
        *(Q, rng.normal(size=(count, n)), A, np.einsum("kij,kj->ki", A, x)),
        *(G, np.einsum("kij,kj->ki", G, x) + slack),
    )
    Q, q, A, b, G, h = (np.asarray(part, np.float32) for part in data)
    solve = lambda *data: diffqcp.solve_qp(*data, throw=False)  # noqa: E731
    found = jax.jit(jax.vmap(solve))(Q, q, A, b, G, h)
    assert found.x.dtype == np.float32 and np.all(found.status == Status.SOLVED)
    rows = np.concatenate([A, G], axis=1)
    pulled = np.einsum("kij,ki->kj", rows, found.y)
    residual = np.max(np.abs(np.einsum("kij,kj->ki", Q, found.x) + pulled + q), axis=1)
    sizes = np.max(np.abs(found.x), axis=1) * np.max(np.abs(Q), axis=(1, 2))
    sizes += np.max(np.abs(found.y), axis=1) * np.max(np.abs(rows), axis=(1, 2)) + 1
    assert np.max(residual / sizes) < 1.4e-5  # what counts as solved in float32


def entropy():
    w, x = cp.Parameter(nonneg=True, value=0.02), cp.Variable(5)
    cost = np.array([0.1, -0.2, 0.3, 0.0, 0.05]) @ x - w * cp.sum(cp.entr(x))
    return cp.Problem(cp.Minimize(cost), [cp.sum(x) == 1]), w, x


def test_derivatives_after_a_default_solve():
    """x is the softmax of -c / w: dx / dw = x (c - x'c) / w^2."""
    problem, w, x = entropy()
    problem.solve(solver=cp.CLARABEL)
    c = np.array([0.1, -0.2, 0.3, 0.0, 0.05])
    weights = np.exp(-c / 0.02)
    truth = weights / np.sum(weights)
    slope = truth * (c - truth @ c) / 0.02**2
    g = np.arange(5.0)
    x.gradient = g
    backward(problem)
    np.testing.assert_allclose(w.gradient, g @ slope, rtol=1e-10)
    got = sensitivity(problem, g @ x)
    np.testing.assert_allclose(got[w], g @ slope, rtol=1e-10)


def test_a_solution_that_is_none():
    """A rough solution is polished; one that cannot be is said to be none."""
    rng = np.random.default_rng(2)
    G, q, h = denoising(rng)
    problem, _ = random_problem({"l": 40, "q": [9]}, 0)
    problem = problem._replace(P=np.zeros((40, 40)), A=G, q=q, b=h)
    qcp = host(problem, (np.ones(40), np.ones(49), np.ones(49)))
    with pytest.warns(UserWarning, match="optimality conditions"):
        qcp.vjp(np.ones(40), np.zeros(49), np.zeros(49), throw=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        example, _, x = entropy()
        example.solve(solver=cp.CLARABEL)
        host_qcp(example).derivative()


def test_margins_that_residuals_do_not_resolve():
    """At x = 0 the constraint x >= 0 of minimise x^2 is active with multiplier zero."""
    x = cp.Variable()
    problem = cp.Problem(cp.Minimize(cp.square(x)), [x >= 0])
    problem.solve(solver=cp.CLARABEL)
    report = host_qcp(problem).regularity()
    assert not report.differentiable and "not told from zero" in report.verdict
