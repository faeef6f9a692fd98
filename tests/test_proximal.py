"""The proximal method: cold, without another solver, to rounding errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

from diffqcp import (
    Proximal,
    QCPSolver,
    QCPStructureCPU,
    QCPStructureDense,
    Status,
)
from diffqcp._accuracy import exact_error, scaled_error
from diffqcp._scaling import equilibrate
from diffqcp.forward import Start

from .reference import random_problem


ALL = {"z": 1, "l": 2, "q": [3, 1, 0], "s": [3], "ep": 1, "p": [0.4, -0.7]}


def alone(structure, data, max_steps=300, start=None) -> Any:
    """The solution by the method itself, and its error, in units of the problem's own."""
    scaling = equilibrate(structure, data)
    scaled = scaling.data(structure, data)
    found = Proximal(max_steps).solve(structure, scaled, start)
    solution: Any = found.x, found.y, found.s
    P, A, q, b = scaled
    A_matrix = structure.A_matrix(A)
    dual = structure.P_mv(P, found.x) + A_matrix.transpose_mv(found.y) + q
    residuals = dual, A_matrix.mv(found.x) + found.s - b
    error = scaled_error(structure, scaled, solution, residuals)
    return scaling.restore(solution), error, found


def transport(size, quadratic):
    """One of the equations follows from the others."""
    n = size * size
    rows = np.zeros((2 * size, n))
    for i in range(size):
        rows[i, i * size : (i + 1) * size] = 1
        rows[size + i, i::size] = 1
    A, b = np.vstack([rows, -np.eye(n)]), np.r_[np.ones(2 * size), np.zeros(n)]
    P = quadratic * np.eye(n)
    return P, A, b, {"z": 2 * size, "l": n}


def values(P, A, q, b):
    return tuple(jnp.asarray(part) for part in (P.ravel(), A.ravel(), q, b))


def test_all_cones():
    problem, _ = random_problem(ALL, 0)
    P, A = map(jnp.asarray, problem[:2])
    structure = QCPStructureDense(P, A, ALL, psd_order="lower")
    solve = jax.jit(lambda data: alone(structure, data))
    for seed in range(4):
        problem, exact = random_problem(ALL, seed)
        data = values(problem.P, problem.A, problem.q, problem.b)
        solution, error, found = solve(data)
        assert found.status == Status.SOLVED and error <= exact_error(jnp.float64)
        for part, other in zip(solution, exact, strict=True):
            # Rounding errors times the condition of K, of up to 1e4.
            np.testing.assert_allclose(part, other, rtol=0, atol=1e-10)


def test_singular_programs_in_a_batch():
    """Linear and quadratic programs with dependent equations; beside them an infeasible
    one, an unbounded one, one that is no problem, and all as good as alone.
    """
    P, A, b, dims = transport(4, 1.0)
    structure = QCPStructureDense(jnp.asarray(P), jnp.asarray(A), dims)
    rng = np.random.default_rng(0)
    costs = rng.uniform(0, 1, (6, P.shape[0]))
    Ps = np.stack([0 * P, P, 0 * P, 0 * P, 0 * P, 0 * P])
    As, bs = np.stack([A] * 6), np.stack([b] * 6)
    bs[2, 0] = 2  # rows and columns do not add up
    As[3, : dims["z"]] = 0  # no equations, and costs that fall without end
    bs[3, : dims["z"]] = 0
    costs[3] *= -1
    costs[4, 0] = np.nan
    data = (Ps.reshape(6, -1), As.reshape(6, -1), costs, bs)
    solve = jax.jit(jax.vmap(lambda *data: alone(structure, data)))
    (x, y, s), error, found = solve(*map(jnp.asarray, data))
    assert found.status[2] == Status.INFEASIBLE and found.status[3] == Status.UNBOUNDED
    assert found.status[4] not in (Status.SOLVED, Status.INFEASIBLE)
    for k in (0, 1, 5):
        assert found.status[k] == Status.SOLVED
        # Where no step improves any more; 1e-11 is what counts as solved.
        assert error[k] <= 1e-12
        residual = Ps[k] @ x[k] + As[k].T @ y[k] + costs[k]
        np.testing.assert_allclose(residual, 0, rtol=0, atol=1e-11)
        np.testing.assert_allclose(As[k] @ x[k] + s[k], bs[k], rtol=0, atol=1e-11)
        assert abs(y[k] @ s[k]) < 1e-11 and np.min(s[k]) >= 0
    # The vertices of assignment problems are permutations.
    plan = np.asarray(x[0]).reshape(4, 4)
    np.testing.assert_allclose(np.sort(plan, axis=1)[:, -1], 1, rtol=0, atol=1e-10)


def test_start_and_limit():
    problem, _ = random_problem({"z": 2, "l": 6}, 1)
    data = values(problem.P, problem.A, problem.q, problem.b)
    P, A = map(jnp.asarray, problem[:2])
    structure = QCPStructureDense(P, A, problem.dims)
    _, _, cold = alone(structure, data)
    scaled = cold.x, cold.y, cold.s
    _, error, warm = alone(structure, data, start=Start(scaled, jnp.asarray(False)))
    assert warm.iterations < cold.iterations and error <= exact_error(jnp.float64)
    _, _, stopped = alone(structure, data, 1)
    assert stopped.status == Status.ITERATION_LIMIT
    with pytest.raises(ValueError, match="max_steps"):
        Proximal(max_steps=0)
    solver = QCPSolver(structure, forward=Proximal())
    found = solver(*map(jnp.asarray, problem[:4]), start=solver(*problem[:4]))
    assert found.status == Status.SOLVED and found.iterations <= 1


def test_one_dense_row():
    """A knapsack problem, for which minimisations alone take hundreds of steps: a greedy
    choice by worth for weight is its solution.
    """
    n = 200
    weights, worth = np.random.default_rng(0).uniform(0.5, 1.5, (2, n))
    A = np.vstack([weights, -np.eye(n), np.eye(n)])
    b = np.r_[weights.sum() / 2, np.zeros(n), np.ones(n)]
    nothing = BCOO((jnp.zeros(0), jnp.zeros((0, 2), int)), shape=(n, n))
    structure = QCPStructureCPU(nothing, BCOO.fromdense(A), {"l": 2 * n + 1})
    entries = A[structure.A_pattern.rows, structure.A_pattern.cols]
    data = values(np.zeros(0), entries, -worth, b)
    (x, _, _), error, found = alone(structure, data, max_steps=25)
    assert found.status == Status.SOLVED and error <= exact_error(jnp.float64)
    best = np.argsort(-worth / weights)
    room = np.clip(b[0] - (np.cumsum(weights[best]) - weights[best]), 0, weights[best])
    np.testing.assert_allclose(x[best], room / weights[best], rtol=0, atol=1e-12)


def test_start_far_away():
    """The interior-point method takes over from minimisations that take too long."""
    P, A, b, dims = transport(6, 0.0)
    structure = QCPStructureDense(jnp.asarray(P), jnp.asarray(A), dims)
    rng = np.random.default_rng(1)
    data = values(P, A, rng.uniform(0, 1, P.shape[0]), b)
    _, _, cold = alone(structure, data)
    x, y, s = (jnp.asarray(1e3 * rng.normal(size=part.size)) for part in cold[:3])
    start = Start((x, y, s), jnp.asarray(False))
    _, error, found = alone(structure, data, start=start)
    assert found.status == Status.SOLVED and error <= exact_error(jnp.float64)
    np.testing.assert_allclose(found.x, cold.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", [False, True], ids=["cold", "start"])
@pytest.mark.parametrize("quadratic", [False, True], ids=["lp", "qp"])
def test_certificates(quadratic, start):
    """Multipliers that prove infeasibility, of equations too, and a ray without end: by
    the interior-point method, and by minimisations.
    """
    n, m, zero = 12, 18, 3
    structure, statuses = None, []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        A, x, s = rng.normal(size=(m, n)), rng.normal(size=n), rng.normal(size=m)
        s = np.where(np.arange(m) < zero, 0, np.maximum(s, 0))
        half = rng.normal(size=(n, n // 2))
        P = half @ half.T / n if quadratic else np.zeros((n, n))
        q, b = rng.normal(size=n), A @ x + s
        if seed % 2:
            y = np.abs(rng.normal(size=m))  # A'y = 0 and b'y = -1
            A = A - np.outer(y, y @ A) / (y @ y)
            b = b - y * (b @ y + 1) / (y @ y)
        else:
            d = rng.normal(size=n)
            d /= np.linalg.norm(d)  # P d = 0, A d <= 0 and q'd = -1
            along = np.where(np.arange(m) < zero, 0, -np.abs(rng.normal(size=m)))
            A = A + np.outer(along - A @ d, d)
            b = A @ x + s
            P = P - np.outer(P @ d, d) - np.outer(d, d @ P) + (d @ P @ d) * np.outer(d, d)
            q = q - (q @ d + 1) * d
        if structure is None:
            dims = {"z": zero, "l": m - zero}
            structure = QCPStructureDense(jnp.ones((n, n)), jnp.asarray(A), dims)
        nothing = jnp.zeros(n), jnp.zeros(m), jnp.zeros(m)
        zeros = Start(nothing, jnp.asarray(False)) if start else None
        statuses.append(int(alone(structure, values(P, A, q, b), start=zeros)[2].status))
    assert statuses == [Status.UNBOUNDED, Status.INFEASIBLE] * 3


def test_large_multipliers_do_not_hide_what_is_violated():
    """The error of a row is relative to its own terms, and its multiplier is none."""
    structure = QCPStructureDense(jnp.zeros((1, 1)), jnp.ones((1, 1)), {"l": 1})
    data = values(np.zeros((1, 1)), np.ones((1, 1)), -np.ones(1), np.ones(1))
    point = jnp.ones(1) + 1e-6, 1e6 * jnp.ones(1), jnp.zeros(1)
    residuals = jnp.zeros(1), 1e-6 * jnp.ones(1)
    assert scaled_error(structure, data, point, residuals) > 1e-7
