"""The closest feasible problem: solutions, shifts, derivatives, statuses, batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import diffqcp
from diffqcp import (
    Clarabel,
    HostQCP,
    QCPSolver,
    QCPStructureCPU,
    QCPStructureDense,
    Status,
)
from diffqcp._closest import interior
from diffqcp.cones import ExponentialCone, PowerCone, PSDCone, SecondOrderCone
from diffqcp.cones.faces import face
from diffqcp.forward._least_shift import least_shift
from diffqcp.linear_solve import AutoSolver

from .infeasible import infeasible_problem
from .reference import project, random_direction


def dense(problem) -> Any:
    return tuple(jnp.asarray(getattr(problem, part)) for part in "PAqb")


def parts(found):
    return found.x, found.y, found.s, found.shift


STRAIGHT = {"z": 3, "l": 4}, {"z": 1, "l": 3}, 3, 8
CURVED = {"q": [4], "s": [3]}, {"l": 2, "q": [3], "s": [2]}, 3, 9
SMALL = {"ep": 1, "p": [-0.6]}, {"l": 2, "ed": 1, "p": [0.4]}, 1, 7


@pytest.mark.parametrize("cones", [STRAIGHT, CURVED, SMALL], ids=["qp", "q s", "ep p"])
def test_infeasible_problems(cones):
    """The shift that the problem is made around, the optimality conditions of both stages
    with projections of other code, and derivatives against differences.
    """
    core, rest, few, n = cones
    problem, _ = infeasible_problem(core, rest, few, n, 0)
    P, A, _, _ = dense(problem)
    structure = QCPStructureDense(P, A, problem.dims, psd_order="upper")
    solver = QCPSolver(structure, closest_feasible=True)

    def solve(*data: Any) -> Any:
        found = solver(*data)
        return parts(found), found.status

    @jax.jit
    def differentiate(data, change, cotangents):
        solution, linear, status = jax.linearize(solve, *data, has_aux=True)
        pulled = jax.linear_transpose(linear, *data)(cotangents)
        return solution, status, linear(*change), pulled

    for seed in range(2):
        problem, shift = infeasible_problem(core, rest, few, n, seed)
        data, dims = dense(problem), problem.dims
        change = dense(random_direction(problem, seed))
        rng = np.random.default_rng(seed)
        sizes = n, shift.size, shift.size, shift.size
        cotangents = tuple(jnp.asarray(rng.normal(size=size)) for size in sizes)
        (x, y, s, t), status, moved, pulled = differentiate(data, change, cotangents)
        assert status == Status.CLOSEST_FEASIBLE
        x, y, s, t = (np.asarray(part) for part in (x, y, s, t))
        np.testing.assert_allclose(t, shift, rtol=0, atol=1e-12)
        P, A, q, b = (np.asarray(part) for part in data)
        np.testing.assert_allclose(A @ x + s, b + t, rtol=0, atol=1e-12)
        np.testing.assert_allclose(P @ x + A.T @ y + q, 0, rtol=0, atol=1e-12)
        np.testing.assert_allclose(project(dims, s, "upper"), s, rtol=0, atol=1e-12)
        assert abs(s @ t) < 1e-12 and abs(s @ y) < 1e-12 and abs(t @ y) < 1e-12

        def at(step, data=data, change=change, cotangents=cotangents):
            shifted = jax.tree.map(lambda part, move: part + step * move, data, change)
            found = differentiate(shifted, change, cotangents)[0]
            return [np.asarray(part) for part in found]

        step = 3e-5
        ahead, behind = at(step), at(-step)
        further, back = at(2 * step), at(-2 * step)
        for k in (0, 2, 3):  # y is one of many
            near, far = ahead[k] - behind[k], further[k] - back[k]
            expected = (8 * near - far) / (12 * step)
            # Fourth-order differences of solutions to rounding errors.
            scale = max(1, np.abs(expected).max())
            np.testing.assert_allclose(moved[k], expected, rtol=0, atol=1e-8 * scale)
        dP, dA, dq, _ = (np.asarray(part) for part in change)
        stationary = dP @ x + P @ moved[0] + dA.T @ y + A.T @ np.asarray(moved[1]) + dq
        scale = np.abs(A.T @ np.asarray(moved[1])).max()
        np.testing.assert_allclose(stationary, 0, rtol=0, atol=1e-9 * max(1, scale))

        forward = sum(jnp.vdot(*pair) for pair in zip(cotangents, moved, strict=True))
        backward = sum(jnp.vdot(*pair) for pair in zip(pulled, change, strict=True))
        np.testing.assert_allclose(forward, backward, rtol=1e-10)


def test_known_problems_in_one_batch():
    """A second-order cone: the solution whose multiplier is not in the cone, a feasible
    problem, one that is infeasible only weakly, and one that is no problem at all.
    """
    c, g, h = 2.0, 0.7, 0.3
    A = -jnp.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    structure = QCPStructureDense(jnp.eye(2), A, {"q": [3]})
    solver = QCPSolver(structure, closest_feasible=True, throw=False)

    @jax.jit
    @jax.vmap
    def solve(A, q, b):
        jacobian, found = jax.jacrev(
            lambda q: (lambda found: (found.x, found))(solver(jnp.eye(2), A, q, b)),
            has_aux=True,
        )(q)
        return found, jacobian

    weak = jnp.asarray([[-1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    matrices = jnp.stack([A, A, weak, A])
    bounds = jnp.asarray([[0, c, 0], [5, 0, 0], [0, 0, 1], [jnp.nan, 0, 0]])
    found, jacobian = solve(matrices, jnp.full((4, 2), jnp.asarray([-g, h])), bounds)
    names = [Status(int(code)).name for code in found.status]
    assert names == ["CLOSEST_FEASIBLE", "SOLVED", "WEAKLY_INFEASIBLE", "NOT_FINITE"]
    np.testing.assert_allclose(found.x[0], [g, 0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.shift[0], [c / 2, -c / 2, 0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(jacobian[0], [[-1, 0], [0, 0]], rtol=0, atol=1e-14)
    assert np.all(np.asarray(found.shift[1]) == 0)
    ordinary = QCPSolver(structure)
    exact = ordinary(jnp.eye(2), A, jnp.asarray([-g, h]), bounds[1])
    for part, other in zip(parts(found), parts(exact), strict=True):
        np.testing.assert_allclose(part[1], other, rtol=0, atol=1e-12)
    np.testing.assert_allclose(jacobian[1], -np.eye(2), rtol=0, atol=1e-12)
    assert np.isnan(np.asarray(found.x)[2:]).all()


def test_a_thousand_problems_in_one_batch():
    """Feasible and infeasible ones in turn, and one that is no problem: each as alone."""
    count = 1000
    made = [infeasible_problem({"z": 2, "l": 2}, {"l": 2}, 2, 3, k) for k in range(count)]
    P, A, q, b = map(np.stack, zip(*(problem[:4] for problem, _ in made), strict=True))
    shifts, dims = np.stack([shift for _, shift in made]), made[0][0].dims
    rng = np.random.default_rng(0)
    slack = rng.uniform(0.1, 1, b.shape) * (np.arange(b.shape[1]) >= dims["z"])
    feasible = np.arange(count) % 2 == 0
    inside = np.einsum("kij,kj->ki", A, rng.normal(size=q.shape)) + slack
    b = np.where(feasible[:, None], inside, b)
    shifts[feasible] = 0
    q[7, 0] = np.nan
    structure = QCPStructureDense(P[0], A[0], dims)
    solver = QCPSolver(structure, closest_feasible=True, throw=False)

    def solve(P, A, q, b):
        def loss(P, A, q, b):
            found = solver(P, A, q, b)
            return jnp.sum(jnp.sin(found.x)) + found.shift[0], found

        return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(P, A, q, b)

    data = tuple(map(jnp.asarray, (P, A, q, b)))
    gradients, found = jax.jit(jax.vmap(solve))(*data)
    expected = np.where(feasible, Status.SOLVED, Status.CLOSEST_FEASIBLE)
    expected[7] = Status.NOT_FINITE
    np.testing.assert_array_equal(found.status, expected)
    shifts[7] = np.nan
    # Rounding errors times the condition of the worst of all problems.
    np.testing.assert_allclose(found.shift, shifts, rtol=0, atol=1e-10)
    alone = jax.jit(solve)
    for k in range(0, count, 7):
        own_gradients, own = alone(*(part[k] for part in data))
        assert own.status == found.status[k]
        # Rounding errors of a batch are others; times the condition, as above.
        pairs = zip(parts(own), parts(found), strict=True)
        for part, other in [*pairs, *zip(own_gradients, gradients, strict=True)]:
            scale = 1 + np.abs(np.asarray(part)).max()
            np.testing.assert_allclose(other[k], part, rtol=0, atol=1e-8 * scale)


def test_steps_to_the_smallest_shift():
    """Few, though steps leave constraints at their bounds, and half as many as if those
    did not count as active.
    """
    core, rest = {"l": 60}, {"z": 10, "l": 30}
    made = [infeasible_problem(core, rest, 20, 100, seed) for seed in range(8)]
    _, A, _, b = map(np.stack, zip(*(problem[:4] for problem, _ in made), strict=True))
    structure = QCPStructureDense(jnp.zeros((100, 100)), A[0], made[0][0].dims)
    solver = AutoSolver(well_posed=True)

    @jax.jit
    @jax.vmap
    def shift(A, b):
        return least_shift(structure, A.ravel(), b, interior(structure), solver, 100)

    t, known, steps = shift(jnp.asarray(A), jnp.asarray(b))
    assert np.all(known) and np.max(steps) <= 10
    expected = np.stack([shift for _, shift in made])
    np.testing.assert_allclose(t, expected, rtol=0, atol=1e-11)


def test_inconsistent_equations_alone():
    """The normal equations, and their derivatives."""
    rng = np.random.default_rng(0)
    E, e = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=6))
    structure = QCPStructureDense(jnp.zeros((3, 3)), E, {"z": 6})
    solver = QCPSolver(structure, closest_feasible=True)

    def ours(E, e):
        found = solver(jnp.zeros((3, 3)), E, jnp.zeros(3), e)
        return found.x, found.shift

    def closed(E, e):
        x = jnp.linalg.solve(E.T @ E, E.T @ e)
        return x, E @ x - e

    for ours_part, exact in zip(ours(E, e), closed(E, e), strict=True):
        np.testing.assert_allclose(ours_part, exact, rtol=0, atol=1e-14)
    jacobians = (jax.jacrev(function, (0, 1))(E, e) for function in (ours, closed))
    for part, exact in zip(*map(jax.tree.leaves, jacobians), strict=True):
        np.testing.assert_allclose(part, exact, rtol=0, atol=1e-12)


def opposite_rows():
    """Two, which meet as soon as they are not parallel."""
    P, A = BCOO.fromdense(jnp.eye(2)), BCOO.fromdense(jnp.asarray([[1.0, 1], [-1, -1]]))
    structure = QCPStructureCPU(P, A, {"l": 2})
    solver = QCPSolver(structure, closest_feasible=True)
    return structure, solver, (P, A, jnp.asarray([1.0, 0.5]), -jnp.ones(2))


def test_operator_and_regularity():
    structure, solver, data = opposite_rows()
    found = solver(*data)
    np.testing.assert_allclose(found.shift, [1, 1], rtol=0, atol=1e-14)
    qcp = HostQCP(*data, found.x, found.y, found.s, structure)
    operator = qcp.closest_derivative(found.shift)
    J = operator.as_matrix()
    np.testing.assert_allclose(operator.T.as_matrix(), J.T, rtol=0, atol=1e-12)

    def solve(P, A, q, b):
        pattern = data[0].indices, data[1].indices
        P, A = (
            BCOO((values, places), shape=(2, 2))
            for values, places in zip((P, A), pattern, strict=True)
        )
        return parts(solver(P, A, q, b))

    values = data[0].data, data[1].data, *data[2:]
    change = tuple(jnp.sin(jnp.arange(1.0, 1 + part.size)) for part in values)
    moved = jax.jvp(solve, values, change)[1]
    for part, other in zip(operator.mv(change), moved, strict=True):
        np.testing.assert_allclose(part, other, rtol=0, atol=1e-12)
    report = qcp.closest_regularity(found.shift)
    assert report.infeasible and report.escapes == 1 and report.free == 0
    assert not report.differentiable and "far" in report.verdict
    with pytest.raises(ValueError, match="shift"):
        qcp.closest_derivative(jnp.ones(3))


def test_second_derivatives():
    """Against differences of gradients, through a face that moves."""
    problem, _ = infeasible_problem({"q": [4]}, {"l": 2}, 2, 4, 0)
    P, A, q, b = dense(problem)
    structure = QCPStructureDense(P, A, problem.dims)
    solver = QCPSolver(structure, closest_feasible=True)
    gradient = jax.jit(jax.grad(lambda b: jnp.sum(jnp.sin(solver(P, A, q, b).x))))
    direction = jnp.sin(jnp.arange(1.0, 1 + b.size))
    _, second = jax.jvp(gradient, (b,), (direction,))
    step = 1e-5
    near = gradient(b + step * direction) - gradient(b - step * direction)
    # The error of differences of second order.
    np.testing.assert_allclose(second, near / (2 * step), rtol=0, atol=1e-7)


SQUARE = 0.5**0.5
FACES = {
    "second-order": (SecondOrderCone(3), [1.0, 0.6, -0.8]),
    "psd": (PSDCone(3, "upper"), [1.0, 2 * SQUARE, 1.0, 0.0, 0.0, 0.0]),
    "exponential": (ExponentialCone(), [-1.0, 0.5, float(np.exp(-1.5))]),
    "exponential, flat": (ExponentialCone(), [0.0, 2.0, 0.0]),
    "exponential, edge": (ExponentialCone(), [0.0, 2.0, 1.0]),
    "dual exponential": (ExponentialCone().dual(), [0.5, 1.0, float(np.exp(0.5))]),
    "dual exponential, edge": (ExponentialCone().dual(), [-1.0, 0.0, 2.0]),
    "dual exponential, flat": (ExponentialCone().dual(), [-1.0, 0.0, 0.0]),
    "power": (PowerCone(0.5), [0.5, 2.0, 2.0]),
    "power, axis": (PowerCone(0.3), [0.0, 2.0, 0.0]),
    "dual power": (PowerCone(0.25).dual(), [1.0, 16.0, -8.0]),
}


@pytest.mark.parametrize("name", FACES)
def test_faces(name):
    """Projections are onto a part of the cone that is orthogonal to `t`, and as close as
    any point of the cone that nearly is; derivatives against differences.
    """
    cone, numbers = FACES[name]
    t = jnp.asarray(numbers)
    rng = np.random.default_rng(0)

    @jax.jit
    @jax.vmap
    def properties(v, dv):
        found = face(cone, t)
        p, D = found.project(v), found.jacobian(v).as_matrix()
        near = found.project(v + 1e-6 * dv) - found.project(v - 1e-6 * dv)
        # The face is where a penalty on t's drives projections.
        penalised = cone.project(v - 1e6 * t)
        return p, cone.project(p), penalised, D, near / 2e-6, found.differential(v, dv)

    points, changes = rng.normal(size=(2, 8, t.size))
    results = map(np.asarray, properties(points, changes))
    for v, dv, p, again, penalised, D, near, differential in zip(
        points, changes, *results, strict=True
    ):
        scale = float(np.linalg.norm(v))
        np.testing.assert_allclose(p @ numbers, 0, atol=1e-12 * scale)
        np.testing.assert_allclose((v - p) @ p, 0, atol=1e-12 * scale**2)
        np.testing.assert_allclose(again, p, atol=1e-8 * scale)
        assert (v - p) @ penalised <= 1e-2 * scale**2
        np.testing.assert_allclose(D @ v, p, rtol=0, atol=1e-12 * scale)
        np.testing.assert_allclose(D @ dv, near, rtol=0, atol=1e-8 * scale)
        np.testing.assert_allclose(differential, D @ dv, atol=1e-12 * scale)


def test_elastic():
    """Of an infeasible problem, with derivatives; of a feasible one, with a price above
    its multipliers, the solution itself.
    """
    core, rest = {"z": 2, "l": 3, "q": [3]}, {"l": 2, "q": [3]}
    problem, _ = infeasible_problem(core, rest, 2, 6, 1)
    P, A, q, b = data = dense(problem)
    structure = QCPStructureDense(P, A, problem.dims)

    @jax.jit
    def solve(gamma, P, A, q, b):
        return parts(QCPSolver(structure, elastic=gamma)(P, A, q, b))

    values = (jnp.asarray(2.0), *data)
    x, y, s, t = solve(*values)
    np.testing.assert_allclose(A @ x + s, b + t, rtol=0, atol=1e-12)
    np.testing.assert_allclose(P @ x + A.T @ y + q, 0, rtol=0, atol=1e-12)
    zeros = problem.dims["z"]
    assert jnp.max(jnp.abs(y[:zeros])) <= 2 + 1e-12
    assert jnp.max(y[zeros : zeros + problem.dims["l"]]) <= 2 + 1e-12
    assert jnp.max(jnp.abs(t)) > 0.1
    change = (jnp.asarray(0.3), *dense(random_direction(problem, 1)))
    moved = jax.jvp(solve, values, change)[1]
    step = 1e-5

    def at(step):
        return solve(*jax.tree.map(lambda a, da: a + step * da, values, change))

    ends = at(step), at(-step)
    for part, ahead, behind in zip(moved, *ends, strict=True):
        # The error of differences of second order.
        near = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(part, near, rtol=0, atol=1e-6)
    feasible = A @ x + project(
        problem.dims, np.asarray(s) + np.where(np.asarray(s) > 0, 1.0, 0.0)
    )
    own = QCPSolver(structure)(P, A, q, feasible)
    priced = QCPSolver(structure, elastic=1e3)(P, A, q, feasible)
    np.testing.assert_allclose(priced.x, own.x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(priced.shift, 0, rtol=0, atol=1e-10)


def test_quadratic_programs_as_arrays():
    G, h = np.array([[1.0, 1.0], [-1.0, -1.0]]), -np.ones(2)
    found = diffqcp.solve_qp(
        *(np.eye(2), np.ones(2), None, None, G, h), closest_feasible=True
    )
    assert found.status == Status.CLOSEST_FEASIBLE
    np.testing.assert_allclose(found.shift, [1, 1], rtol=0, atol=1e-14)


def test_bad_options():
    structure, _, _ = opposite_rows()
    with pytest.raises(TypeError, match="closest_feasible"):
        QCPSolver(structure, closest_feasible=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Proximal"):
        QCPSolver(structure, closest_feasible=True, forward=Clarabel())
    with pytest.raises(ValueError, match="smoothing"):
        QCPSolver(structure, closest_feasible=True, smoothing=0.1)
    with pytest.raises(ValueError, match="elastic"):
        QCPSolver(structure, elastic=-1.0)
    with pytest.raises(ValueError, match="elastic"):
        QCPSolver(structure, elastic=1.0, closest_feasible=True)
