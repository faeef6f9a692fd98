"""The proximal method: cold, without another solver, to rounding errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffqcp import Proximal, QCPSolver, QCPStructureDense, Status
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
