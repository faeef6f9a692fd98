"""Programs whose matrices of derivatives are not formed: products alone, and LSMR."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffqcp import LSMR, Program, Status
from diffqcp.program import SciPy

from .programs import banded, Case, CASES, truth


def program(case: Case, **options) -> Program:
    options = {"solve_method": "jax-lsmr", "psd_order": "lower"} | options
    return Program(case.objective, case.constraints, case.dims, **options)


def vector(solution):
    return jnp.concatenate([solution.x, solution.y, solution.s])


def check(found, expected, tolerance):
    size = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("name", ["logistic", "second-order", "trust region"])
def test_same_as_with_entries(name):
    """Active and inactive constraints, and a Hessian that is indefinite off the active
    ones; the multipliers are estimated.
    """
    case = CASES[name]
    exact, expected = truth(case)
    x = exact[: case.start.size]

    def jacobian(solve_method, differentiate):
        at = program(case, solve_method=solve_method).at

        def solution(theta):
            found = at(theta, x)
            return vector(found), found.status

        return jax.jit(differentiate(solution, has_aux=True))(case.theta)

    J, status = jacobian("jax-lsmr", jax.jacrev)
    assert status == Status.SOLVED
    check(J, expected, 1e-7)
    check(J, jacobian("auto", jax.jacfwd)[0], 1e-11)


def test_a_rough_solution_of_an_indefinite_program_is_polished():
    case = banded()
    exact, expected = truth(case)
    n, m = case.start.size, exact.size // 2 - case.start.size // 2
    x, y, _ = np.split(exact, [n, n + m])
    rough = x + 1e-3 * np.random.default_rng(0).normal(size=n)
    at = program(case).at

    def solution(theta):
        found = at(theta, rough, y, polish=True)
        return vector(found), found

    J, found = jax.jit(jax.jacfwd(solution, has_aux=True))(case.theta)
    assert found.error < 1e-13
    check(vector(found), exact, 1e-11)
    check(J, expected, 1e-7)


def _weighted(x, theta):
    return jnp.sum(x * jnp.log(x / theta))


def _total(x, theta):
    return jnp.sum(x)[None] - 1


def test_second_derivatives():
    """The closest distribution to weights is `theta / sum(theta)`."""
    theta = jnp.array([0.5, 1.0, 0.2])
    at = Program(_weighted, _total, {"z": 1}, solver=LSMR()).at
    x = theta / theta.sum()
    got = jax.jit(jax.hessian(lambda theta: jnp.sum(at(theta, x).x ** 3)))(theta)
    expected = jax.hessian(lambda theta: jnp.sum((theta / jnp.sum(theta)) ** 3))(theta)
    check(got, expected, 1e-11)


def test_single_precision():
    """With double precision as JAX's default."""
    theta = jnp.array([0.5, 1.0, 0.2], jnp.float32)
    at = Program(_weighted, _total, {"z": 1}, solve_method="jax-lsmr").at
    rough = 1.01 * theta / jnp.sum(theta)
    J = jax.jit(jax.jacrev(lambda theta: at(theta, rough, polish=True).x))(theta)
    assert J.dtype == jnp.float32
    check(J, jax.jacfwd(lambda theta: theta / jnp.sum(theta))(theta), 1e-5)


def _bent(x, theta):
    return theta[0] * x[0] ** 2 + theta[1] * x[1] ** 2 + theta[0] * x[0] * x[1]


def _strip(x, theta):
    return jnp.stack([x[1] - 1, -x[1] - 1])


def test_a_batch_with_items_that_are_no_solutions():
    """`x0 = -1/2` where the constraint on `x1` is active."""
    at = Program(_bent, _strip, {"l": 2}, solve_method="jax-lsmr").at
    items = [
        # theta, x, y, status
        ((1.0, -1.0), (-0.5, 1.0), (2.5, 0.0), Status.SOLVED),
        ((np.nan, 1.0), (0.0, 0.0), (0.0, 0.0), Status.NOT_FINITE),
        ((1.0, -1.0), (-0.4, 1.0), (2.5, 0.0), Status.INACCURATE),
        ((1.0, -1.0), (-0.5, 1.0), (2.5, -1.0), Status.WRONG_SIGN),
        ((1.0, -1.0), (0.0, 0.0), (0.0, 0.0), Status.SADDLE_POINT),
    ]
    *given, expected = (np.array(part) for part in zip(*items, strict=True))

    @jax.jit
    @jax.vmap
    def gradient(*given):
        def loss(theta):
            found = at(theta, *given[1:], throw=False)
            return found.y[0], found.status

        return jax.grad(loss, has_aux=True)(given[0])

    slopes, status = gradient(*given)
    np.testing.assert_array_equal(status, expected)
    # y0 = theta0 / 2 - 2 theta1, as x0 = -x1 / 2.
    np.testing.assert_allclose(slopes[0], [0.5, -2], atol=1e-11)
    assert np.isnan(slopes[1:]).any(axis=1).all()


@pytest.mark.parametrize("least", [1.0, 1e-4, -1e-3, -1.0])
def test_a_saddle_point_among_many_directions(least):
    """The curvature along the constraints is from `least` to one, and negative across
    them, which the constraints hide.
    """
    n, m = 60, 20
    rng = np.random.default_rng(0)
    columns = np.linalg.qr(rng.normal(size=(n, n)))[0]
    along, across = columns[:, m:], columns[:, :m]
    mixed = along @ rng.normal(size=(n - m, m)) @ across.T
    curvature = np.append(np.geomspace(1e-4, 1, n - m - 1), least)
    H = (along * curvature) @ along.T - 2 * across @ across.T + mixed + mixed.T
    A = rng.normal(size=(m, m)) @ across.T

    def status(solve_method):
        def f(x, theta):
            return x @ (H @ x) / 2

        def c(x, theta):
            return A @ x

        program = Program(f, c, {"z": m}, solve_method=solve_method)
        return program.at(0.0, np.zeros(n), np.zeros(m), throw=False).status

    expected = Status.SOLVED if least > 0 else Status.SADDLE_POINT
    assert status("jax-lsmr") == status("jax-lu") == expected


def test_lsmr_that_does_not_converge_gives_no_numbers():
    """Neither derivatives nor multipliers."""
    case = CASES["logistic"]
    exact, _ = truth(case)
    x, y, _ = np.split(exact, [3, 7])
    at = program(case, solver=LSMR(max_steps=2)).at
    slope = jax.jit(jax.grad(lambda theta: at(theta, x, y).x[1]))(case.theta)
    assert np.isnan(slope).all()
    assert at(case.theta, x, throw=False).status == Status.NUMERICAL_TROUBLE


def test_a_singular_system_without_a_solution_gives_no_numbers():
    """Two constraints that hold together, but not for another `theta[1]`. In a convex
    program there would be a derivative in the sense of least squares.
    """

    def tied(x, theta):
        return jnp.stack([x[0], x[0] - theta[1]])

    at = Program(_bent, tied, {"z": 2}, solve_method="jax-lsmr").at
    J = jax.jit(jax.jacfwd(lambda theta: at(theta, jnp.zeros(2)).x))(jnp.array([-1.0, 0]))
    assert J[:, 0].tolist() == [0, 0]
    assert np.isnan(J[:, 1]).all()


SIZE = 4500


def _low_rank(x, theta):
    """Its Hessian is dense, and has no pattern."""
    low = jnp.outer(jnp.arange(1.0, 4.0), jnp.sin(jnp.arange(1.0 * SIZE))) / SIZE**0.5
    return jnp.sum(jax.nn.softplus(low @ x + theta)) + jnp.sum(x**2) / 2


def _ball_and_sum(x, theta):
    return jnp.stack([theta[0] - jnp.sum(x) / SIZE**0.5, jnp.sum(x**2) - 100])


def test_large_programs_are_not_formed():
    """Beyond 16 million entries by default."""
    program = Program(_low_rank, _ball_and_sum, {"l": 2})
    theta = np.array([0.7, -0.2, 0.1])

    def loss(theta):
        found = program.at(theta, np.zeros(SIZE), np.ones(2), polish=True, throw=False)
        return found.x[0] + jnp.sum(found.x**2), found

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(theta).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * SIZE * 200
    (_, found), slope = compiled(theta)
    assert found.status == Status.SOLVED
    assert found.y[0] > 0.1 and found.s[1] > 1

    def at(theta):
        moved = program.at(theta, found.x, found.y, polish=True)
        return moved.x[0] + jnp.sum(moved.x**2)

    step = 1e-4 * np.array([1.0, -1.0, 2.0])
    ends = [jax.jit(at)(theta + sign * step) for sign in (1, -1)]
    np.testing.assert_allclose(slope @ step, (ends[0] - ends[1]) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="method: SQP takes the entries"):
        program.solve(theta, found.x)
    with pytest.raises(ValueError, match="regularity: expected n"):
        program.regularity(theta, found.x, found.y)


def test_solve_by_products():
    case = CASES["rosenbrock"]
    exact, expected = truth(case)
    solve, method = program(case).solve, SciPy("trust-constr")
    J = jax.jacrev(lambda theta: vector(solve(theta, case.start, method=method)))
    check(J(case.theta), expected, 1e-7)
    assert program(case).regularity(case.theta, exact[:2]).minimum
