"""Programs given as functions: derivatives against differences of tight solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from diffqcp import Program, Status
from diffqcp.program import SciPy

from .programs import banded, Case, CASES, truth


def program(case: Case) -> Program:
    dims = case.dims if case.constraints else None
    return Program(case.objective, case.constraints, dims, psd_order="lower")


def vector(solution):
    return jnp.concatenate([solution.x, solution.y, solution.s])


@pytest.mark.parametrize("name", ["trust region", "exponential"])
def test_derivative_at_a_solution(name):
    """The multipliers are estimated, and values are not changed."""
    case = CASES[name]
    exact, expected = truth(case)
    x, at = exact[: case.start.size], program(case).at

    def solution(theta):
        found = vector(at(theta, x))
        return found, found

    J, value = jax.jit(jax.jacrev(solution, has_aux=True))(case.theta)
    np.testing.assert_array_equal(value[: x.size], x)
    np.testing.assert_allclose(value, exact, rtol=0, atol=1e-8 * np.abs(exact).max())
    np.testing.assert_allclose(J, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_a_rough_solution_is_polished():
    case = CASES["least squares"]
    exact, expected = truth(case)
    rough, at = exact[:3] + 1e-4 * np.array([1.0, -1.0, 0.0]), program(case).at

    def solution(theta):
        found = vector(at(theta, rough, exact[3:7], polish=True))
        return found, found

    J, value = jax.jit(jax.jacrev(solution, has_aux=True))(case.theta)
    np.testing.assert_allclose(value, exact, rtol=0, atol=1e-12)
    np.testing.assert_allclose(J, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def solved(case: Case):
    solve = program(case).solve

    def solution(theta, start):
        found = solve(theta, start, throw=False)
        return vector(found), found

    return jax.jacfwd(solution, has_aux=True)


def check_solved(J, found, exact, expected):
    assert found.status == Status.SOLVED and found.error < 1e-12
    size = np.abs(exact).max()
    np.testing.assert_allclose(vector(found), exact, rtol=0, atol=1e-9 * size)
    np.testing.assert_allclose(J, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_solve_with_a_cone():
    case = CASES["semidefinite"]
    J, found = jax.jit(solved(case))(case.theta, case.start)
    check_solved(J, found, *truth(case))


def test_solve_a_batch():
    """From afar, and from the solution."""
    case = CASES["rosenbrock"]
    exact, expected = truth(case)
    starts = jnp.stack([case.start, exact[: case.start.size]])
    J, found = jax.jit(jax.vmap(solved(case), (None, 0)))(case.theta, starts)
    assert found.iterations[0] > 10 and found.iterations[1] == 0
    for k in range(2):
        item = jax.tree.map(lambda part, k=k: part[k], found)
        check_solved(J[k], item, exact, expected)


def _normalised(x, theta):
    parts = x["a"], x["b"][0]
    weights = theta["a"], theta["b"][0]
    return sum(
        jnp.sum(part * jnp.log(part / weight))
        for part, weight in zip(parts, weights, strict=True)
    )


def _total(x, theta):
    return {"sum": jnp.sum(x["a"]) + jnp.sum(x["b"][0]) - 1}


def test_trees_and_second_derivatives():
    """The closest distribution to weights is `theta / sum(theta)`."""
    theta = {"a": jnp.array([0.5, 1.0]), "b": [jnp.array([[0.2]])]}

    def exact(theta):
        total = jnp.sum(theta["a"]) + jnp.sum(theta["b"][0])
        return jax.tree.map(lambda part: part / total, theta)

    x, at = exact(theta), Program(_normalised, _total, {"z": 1}).at

    def loss(solution):
        return jnp.sum(solution["a"] ** 3) + jnp.sum(solution["b"][0])

    got = jax.jit(jax.hessian(lambda theta: loss(at(theta, x).x)))(theta)
    expected = jax.hessian(lambda theta: loss(exact(theta)))(theta)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), got, expected)


def _saddle(x, theta):
    return theta[0] * x[0] ** 2 + theta[1] * x[1] ** 2


def _strip(x, theta):
    return jnp.stack([x[1] - 1, -x[1] - 1])


SADDLE = Program(_saddle, _strip, {"l": 2})


def _pounce():
    return pytest.importorskip("diffqcp.program.pounce").Pounce()


@pytest.mark.parametrize("method", [SciPy, _pounce])
def test_solvers_outside_of_jax(method):
    case = CASES["rosenbrock"]
    exact, expected = truth(case)
    solve, method = program(case).solve, method()
    J = jax.jacrev(lambda theta: vector(solve(theta, case.start, method=method)))
    np.testing.assert_allclose(
        J(case.theta), expected, rtol=0, atol=1e-7 * np.abs(expected).max()
    )
    with pytest.raises(ValueError, match="runs outside of jit and vmap only"):
        jax.jit(lambda theta: solve(theta, case.start, method=method))(case.theta)


def test_sparse_patterns_are_found():
    """Indefinite without its constraints, and solved by a factorisation that does not
    pivot.
    """
    pytest.importorskip("asdex")
    case = banded()
    detect = {"hessian_pattern": "detect", "jacobian_pattern": "detect"}
    sparse = Program(case.objective, case.constraints, case.dims, **detect)

    def solution(theta):
        found = sparse.solve(theta, case.start, throw=False)
        return vector(found), found

    J, found = jax.jit(jax.jacrev(solution, has_aux=True))(case.theta)
    check_solved(J, found, *truth(case))


def test_sparse_patterns_are_looked_at():
    """A chain of saddles, with and without all of its pattern."""

    def f(x, theta):
        return jnp.sum(x[1:] * x[:-1]) - theta * jnp.sum(x**2)

    size = 40
    x, whole = np.zeros(size), np.abs(np.subtract.outer(*2 * [np.arange(size)])) < 2
    for pattern, theta, expected in (
        (sp.coo_array(whole), -2.0, Status.SOLVED),
        (sp.coo_array(whole), 2.0, Status.SADDLE_POINT),
        (np.eye(size), -2.0, Status.WRONG_PATTERN),
    ):
        found = Program(f, hessian_pattern=pattern).at(theta, x, throw=False)
        assert found.status == expected


def test_a_sparse_program_that_is_not_convex():
    """Along the curved valley of a chain of Rosenbrock's functions. With all of the shift
    that makes the Hessian diagonally dominant it took more than 2000 steps.
    """

    def f(x, theta):
        valley = jnp.sum(100 * (x[1:] - theta * x[:-1] ** 2) ** 2)
        return valley + jnp.sum((1 - x[:-1]) ** 2)

    size = 30
    chain = np.abs(np.subtract.outer(*2 * [np.arange(size)])) < 2
    solve = Program(f, hessian_pattern=sp.coo_array(chain)).solve

    def last(theta):
        found = solve(theta, np.full(size, -1.2), throw=False)
        return found.x[-1], found

    slope, found = jax.grad(last, has_aux=True)(1.0)
    assert found.status == Status.SOLVED
    np.testing.assert_allclose(found.x, 1, atol=1e-9)
    step = 1e-5
    ends = [solve(1 + d, found.x).x[-1] for d in (step, -step)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


def test_points_that_are_no_solutions():
    at = jax.jit(jax.vmap(lambda *given: SADDLE.at(*given, throw=False)))
    items = [
        # theta, x, y, status
        ((1.0, -1.0), (0.0, 1.0), (2.0, 0.0), Status.SOLVED),
        ((1.0, 1.0), (0.0, 0.0), (0.0, 0.0), Status.SOLVED),
        ((1.0, -1.0), (0.0, 0.0), (0.0, 0.0), Status.SADDLE_POINT),
        ((1.0, -1.0), (0.1, 1.0), (2.0, 0.0), Status.INACCURATE),
        ((1.0, -1.0), (0.0, 1.5), (3.0, 0.0), Status.INACCURATE),
        ((1.0, -1.0), (0.0, 0.5), (1.0, 0.0), Status.INACCURATE),
        ((1.0, 1.0), (0.0, 1.0), (-2.0, 0.0), Status.WRONG_SIGN),
        ((1.0, np.nan), (0.0, 1.0), (2.0, 0.0), Status.NOT_FINITE),
        ((1.0, -1.0), (np.inf, 1.0), (2.0, 0.0), Status.NOT_FINITE),
    ]
    *given, expected = (np.array(part) for part in zip(*items, strict=True))
    solution = at(*given)
    np.testing.assert_array_equal(solution.status, expected)
    np.testing.assert_array_equal(solution.x, given[1])

    @jax.jit
    def gradient(theta):
        return jax.grad(lambda theta: jnp.sum(at(theta, *given[1:]).y[:, 0]))(theta)

    # y0 = -2 theta1 where the constraint is active.
    slopes = gradient(given[0])
    np.testing.assert_allclose(slopes[:2], [[0, -2], [0, 0]], atol=1e-9)
    assert np.isnan(slopes[2:]).any(axis=1).all()

    with pytest.raises(RuntimeError, match="saddle point"):
        SADDLE.at(*given_item(items[2]))
    with pytest.raises(Exception, match="status is 'wrong sign'"):
        jax.block_until_ready(jax.jit(SADDLE.at)(*given_item(items[6])))


def given_item(item):
    return tuple(jnp.asarray(part) for part in item[:3])


def test_constraints_that_cannot_be_satisfied():
    """One program, with a solution or without."""

    def f(x, theta):
        return x @ x - theta * x[0]

    def c(x, theta):
        return jnp.stack([x[0] ** 2 + theta, x[1]])

    solve = Program(f, c, {"l": 2}).solve
    found = jax.vmap(lambda theta: solve(theta, jnp.ones(2), throw=False))(
        jnp.array([-1.0, 1.0])
    )
    np.testing.assert_array_equal(found.status, [Status.SOLVED, Status.INFEASIBLE])
    np.testing.assert_allclose(found.x, [[-0.5, 0], [np.nan, np.nan]], atol=1e-9)


def test_regularity():
    theta = np.array([1.0, -1.0])
    good = SADDLE.regularity(theta, np.array([0.0, 1.0]))
    assert good.minimum and good.differentiable and good.dependent == 0
    np.testing.assert_allclose(good.curvature, [2.0], atol=1e-12)
    saddle = SADDLE.regularity(theta, np.zeros(2))
    assert not saddle.minimum and not saddle.differentiable
    np.testing.assert_allclose(saddle.curvature, [-2.0, 2.0], atol=1e-12)
    assert "no minimum" in saddle.verdict
    # The kink is where the constraint is active, and its multiplier is zero.
    weak = SADDLE.regularity(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert not weak.differentiable and weak.first_order.margins["l"] < 1e-9


def test_misuse():
    def f(x, theta):
        return jnp.sum((x - theta) ** 2)

    def c(x, theta):
        return x - 1

    x = np.zeros(2)
    with pytest.raises(TypeError, match="objective: expected a function"):
        Program(3)
    with pytest.raises(ValueError, match="cone_dims: the cones take 3 rows"):
        Program(f, c, {"l": 3}).at(x, x)
    with pytest.raises(ValueError, match="psd_order"):
        Program(f, c, {"s": [3]})
    with pytest.raises(ValueError, match="objective: expected a number"):
        Program(c).at(x, x)
    with pytest.raises(ValueError, match=r"y: expected shape \(2,\)"):
        Program(f, c, {"l": 2}).at(x, x, np.zeros(3))
    with pytest.raises(TypeError, match="x: expected arrays of real numbers"):
        Program(f, c, {"l": 2}).at(x, "x")
    with pytest.raises(ValueError, match="hessian_pattern: expected shape"):
        Program(f, c, {"l": 2}, hessian_pattern=np.eye(3)).at(x, x)
    with pytest.raises(TypeError, match="method: expected"):
        Program(f, c, {"l": 2}).solve(x, x, method="SLSQP")
    # Its derivative would be zero, without a word.
    with pytest.raises(ValueError, match="objective: closes over values that are traced"):
        jax.grad(lambda t: jnp.sum(Program(lambda x, _: f(x, t)).at(0.0, x).x))(x)
    with pytest.raises(ValueError, match="constraints: closes over values"):
        jax.jit(lambda t: Program(f, jax.jit(lambda x, _: x - t), {"l": 2}).at(t, x).x)(x)
    with pytest.raises(ValueError, match="regularity: expected known values"):
        jax.jit(lambda x: Program(f, c, {"l": 2}).regularity(x, x))(x)
