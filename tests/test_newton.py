"""Newton's method as a forward solver, and linear solvers for well-posed systems."""

import jax
import jax.numpy as jnp
import jaxtyping
import lineax as lx
import numpy as np
import pytest

from diffqcp import (
    AbstractHostSolver,
    Clarabel,
    Function,
    InteriorPoint,
    LU,
    Newton,
    QCPSolver,
    QCPStructureDense,
    SparseLDL,
    Status,
)
from diffqcp.cones import ProductCone
from diffqcp.kkt import KKTOperator

from .reference import random_problem


ALL = {"z": 1, "l": 3, "q": [3], "s": [3], "ep": 1, "ed": 1, "p": [0.4, -0.7]}
ALONE = Newton(Function(lambda *data: None))  # has nothing to fall back to


def dense(problem):
    return tuple(jnp.asarray(getattr(problem, part)) for part in "PAqb")


def test_reaches_the_solution_of_every_cone():
    problem, (x, y, s) = random_problem(ALL, 1, order="lower")
    data = dense(problem)
    structure = QCPStructureDense(*data[:2], ALL, psd_order="lower")
    solver = jax.jit(QCPSolver(structure, forward=ALONE, polish=False, throw=False))
    found = solver(*data)
    assert found.status == Status.SOLVED
    assert 3 <= found.iterations <= 12
    for got, expected in ((found.x, x), (found.y, y), (found.s, s)):
        np.testing.assert_allclose(got, expected, atol=1e-9)
    # From a solution for nearby data it is close at once.
    nearby = tuple(part * (1 + 1e-3 * np.cos(np.arange(part.size))) for part in data[2:])
    again = solver(*data[:2], *nearby, start=(found.x, found.y, found.s))
    assert again.status == Status.SOLVED
    assert 1 <= again.iterations <= 3
    assert max(again.residuals.primal, again.residuals.dual) < 1e-12


CALLS = []


class Recorder(AbstractHostSolver):
    """Clarabel, with a record of the linear terms of the problems that it is given."""

    threads: int | None = 1
    psd_order = "upper"
    own_duals = False

    def run(self, dims, problems, workspace):
        CALLS.extend(problems.q[:, 0])
        return Clarabel().run(dims, problems, workspace)


def test_only_what_it_cannot_solve_is_left_to_the_other_solver():
    """minimise p x^2 / 2 + q x subject to x >= 1, -x >= b: infeasible for b > -1."""
    A = -jnp.asarray([[1.0], [-1.0]])
    p, q = jnp.asarray([2.0, 2.0, 0.0, jnp.nan, 2.0]), jnp.arange(5.0) - 4
    b = jnp.asarray([-5.0, 0.0, -3.0, -5.0, -2.0])
    structure = QCPStructureDense(jnp.ones((1, 1)), A, {"l": 2})
    solver = QCPSolver(structure, forward=Newton(Recorder()), throw=False)

    def solve(p, q, b):
        return solver(p * jnp.ones((1, 1)), A, q[None], jnp.stack([-1.0, -b]))

    CALLS.clear()
    found = jax.block_until_ready(jax.vmap(solve)(p, q, b))
    # The second item, in units of its own, and what takes the place of the fourth.
    assert -0.75 in CALLS and len(CALLS) <= 2
    wanted = [Status.SOLVED, Status.INFEASIBLE, Status.SOLVED, Status.NOT_FINITE]
    np.testing.assert_array_equal(found.status, [*wanted, Status.SOLVED])
    np.testing.assert_allclose(found.x[:, 0], [2, np.nan, 3, np.nan, 1], atol=1e-9)


def test_a_start_that_is_not_finite():
    problem, (x, _, _) = random_problem({"z": 1, "l": 4}, 1)
    data = dense(problem)
    structure = QCPStructureDense(*data[:2], problem.dims)
    solver = QCPSolver(structure, forward=Newton())
    found = solver(*data, start=tuple(jnp.full(k, jnp.nan) for k in (x.size, 5, 5)))
    np.testing.assert_allclose(found.x, x, atol=1e-9)


def test_bad_argument(monkeypatch):
    # Its own checks come before ours.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(TypeError, match="otherwise: expected .* on the host"):
        Newton(InteriorPoint())


def test_points_on_the_way_to_infinity_are_no_solutions():
    """minimise x subject to x - y = 0, x, y <= 0 and the like have none."""
    A = jnp.asarray([[1.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
    for P, b in ((0.0, 0.0), (1e-12, 1.0), (0.0, 1e-9)):
        b = jnp.asarray([0.0, b, b])
        structure = QCPStructureDense(jnp.zeros((2, 2)), A, {"z": 1, "l": 2})
        solver = QCPSolver(structure, forward=Newton(), throw=False)
        P = P * jnp.asarray([[1.0, -1.0], [-1.0, 1.0]])  # zero along (1, 1)
        found = solver(P, A, jnp.asarray([1.0, 0.0]), b)
        assert found.status == Status.UNBOUNDED


@pytest.mark.parametrize("solver", [LU, SparseLDL])
def test_well_posed(solver):
    """The same solution of a regular system; a singular one fails at once."""
    problem, (_, y, s) = random_problem({"z": 2, "l": 4, "q": [3]}, 1)
    P, A, *_ = dense(problem)
    structure = QCPStructureDense(P, A, problem.dims)
    cone = ProductCone.from_dict(problem.dims)
    matrices = (
        structure.P_matrix(structure.values("P", P, structure.P_pattern)),
        structure.A_matrix(structure.values("A", A, structure.A_pattern)),
    )
    regular = KKTOperator(*matrices, cone.dual().jacobian(jnp.asarray(y - s)))
    everything = regular.jacobian.map(jnp.ones_like)  # K has more columns than rank
    nothing = jax.tree.map(jnp.zeros_like, regular.P)
    singular = KKTOperator(nothing, regular.A, everything)
    right = jnp.asarray(np.random.default_rng(0).normal(size=regular.in_size()))

    def solve(operator, well_posed):
        backend = solver(well_posed=well_posed)
        return lx.linear_solve(operator, right, backend, throw=False)

    expected = solve(regular, False).value
    np.testing.assert_allclose(solve(regular, True).value, expected, rtol=1e-11)
    assert solve(singular, False).result == lx.RESULTS.successful
    failed = solve(singular, True)
    assert failed.result != lx.RESULTS.successful
    assert failed.stats["num_steps"] <= 3
