"""From solved CVXPY problems, against finite differences of solves by CVXPY."""

import warnings

import cvxpy as cp
import jax.numpy as jnp
import numpy as np
import pytest

from diffqcp.integrations.cvxpy import device_qcp, host_qcp


TIGHT = {
    cp.CLARABEL: {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12},
    cp.SCS: {"eps_abs": 1e-11, "eps_rel": 1e-11, "max_iters": 200_000},
}


def quadratic():
    """A QP with equalities and inequalities: quadratic objective, sparse and dense."""
    rng = np.random.default_rng(0)
    x, p = cp.Variable(5), cp.Parameter(5, value=rng.normal(size=5))
    F = rng.normal(size=(8, 5))
    objective = cp.sum_squares(F @ x - np.arange(8) / 4) + p @ x
    return cp.Problem(cp.Minimize(objective), [cp.sum(x) == 1, x >= 0]), x, p


def second_order():
    rng = np.random.default_rng(1)
    x, p = cp.Variable(4), cp.Parameter(4, value=rng.normal(size=4))
    F = rng.normal(size=(4, 4))
    return (
        cp.Problem(cp.Minimize(p @ x + cp.sum_squares(x)), [cp.norm(F @ x) <= 0.5]),
        x,
        p,
    )


def semidefinite():
    """Order 3, where the two triangle orders differ."""
    rng = np.random.default_rng(2)
    C = rng.normal(size=(3, 3))
    X, p = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    p.value = C + C.T
    objective = cp.sum_squares(X - p) + cp.trace(X)
    return cp.Problem(cp.Minimize(objective), [X >> 0, X[0, 1] == 0.3]), X, p


def exponential():
    rng = np.random.default_rng(3)
    x, p = cp.Variable(3), cp.Parameter(3, value=rng.normal(size=3))
    objective = cp.log_sum_exp(x) + 0.5 * cp.sum_squares(x) + p @ x
    return cp.Problem(cp.Minimize(objective)), x, p


def power():
    x, p = cp.Variable(3), cp.Parameter(3, value=np.array([1.0, 0.4, -1.0]))
    constraint = cp.PowCone3D(x[0], x[1], x[2], 0.3)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [constraint]), x, p


PROBLEMS = [quadratic, second_order, semidefinite, exponential, power]


def solve(problem, solver):
    with warnings.catch_warnings():
        # At these tolerances a solver may call a good solution inaccurate.
        warnings.simplefilter("ignore")
        problem.solve(solver=solver, **TIGHT[solver])


def canonical(problem, solver, variable):
    """The canonical form's matrix of `variable`: its entries are canonical ones, in
    some order, that do not depend on the parameter.
    """
    x = host_quietly(problem).x
    want = np.ravel(variable.value, order="F")
    index = [int(np.argmin(np.abs(np.asarray(x) - value))) for value in want]
    assert np.max(np.abs(np.asarray(x)[index] - want)) < 1e-12
    return index


def host_quietly(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return host_qcp(problem)


def data(problem, solver):
    canonical, _, _ = problem.get_problem_data(solver)
    P = canonical["P"].toarray() if "P" in canonical else None
    return P, canonical["A"].toarray(), canonical["c"], canonical["b"]


@pytest.mark.parametrize("solver", [cp.CLARABEL, cp.SCS])
@pytest.mark.parametrize("make", PROBLEMS)
def test_derivative_of_the_variable(make, solver):
    """d(variable)/d(parameter): the canonical data are affine in the parameter."""
    problem, variable, parameter = make()
    solve(problem, solver)
    qcp = host_quietly(problem)
    index = canonical(problem, solver, variable)
    base, direction = (
        parameter.value,
        np.random.default_rng(5).normal(size=parameter.shape),
    )
    if parameter.is_symmetric() and parameter.ndim == 2:
        direction = direction + direction.T
    before = data(problem, solver)
    parameter.value = base + direction
    change = [
        a - b for a, b in zip(data(problem, solver), before, strict=True) if a is not None
    ]
    step, ends = 1e-3, []
    for k in (1, -1, 2, -2):
        parameter.value = base + k * step * direction
        solve(problem, cp.SCS)  # the more accurate of the two at these tolerances
        ends.append(np.ravel(variable.value, order="F"))
    expected = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step)
    dP, dA, dq, db = (
        change if len(change) == 4 else (np.zeros((len(qcp.x),) * 2), *change)
    )
    stored = lambda matrix, change: type(matrix)(  # noqa: E731
        (jnp.asarray(change[matrix.indices[:, 0], matrix.indices[:, 1]]), matrix.indices),
        shape=matrix.shape,
    )
    dx, _, _ = qcp.jvp(stored(qcp.P, dP), stored(qcp.A, dA), dq, db)
    # What is left is the error of the solution itself: Clarabel's ends at 1e-7.
    assert np.linalg.norm(np.asarray(dx)[index] - expected) < 1e-5 * np.linalg.norm(
        expected
    )


@pytest.mark.parametrize("make", PROBLEMS)
def test_solvers_and_forms_agree(make):
    """Clarabel's and SCS's conic forms differ in the order of PSD triangles only."""
    gradients = {}
    for solver in TIGHT:
        problem, _, _ = make()
        solve(problem, solver)
        host = host_quietly(problem)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            device = device_qcp(problem)
        zeros = np.zeros(host.y.shape)
        for form, qcp in (("host", host), ("device", device)):
            cotangent = np.arange(1.0, 1 + qcp.x.size)
            gradients[solver, form] = np.asarray(qcp.vjp(cotangent, zeros, zeros)[2])
        np.testing.assert_allclose(
            gradients[solver, "host"], gradients[solver, "device"], rtol=0, atol=1e-10
        )
    clarabel, scs = gradients[cp.CLARABEL, "host"], gradients[cp.SCS, "host"]
    np.testing.assert_allclose(clarabel, scs, rtol=0, atol=1e-4 * np.abs(clarabel).max())


def test_quadratic_objective_is_kept_and_nothing_is_solved_again(monkeypatch):
    problem, _, _ = quadratic()
    problem.solve(solver=cp.CLARABEL)
    monkeypatch.setattr(cp.Problem, "solve", None)
    monkeypatch.setattr(cp.Problem, "_solve", None)
    qcp = host_qcp(problem)
    assert qcp.P.nse > 0
    found = problem._solver_cache["CLARABEL"].get_solution()
    np.testing.assert_array_equal(qcp.x, found.x)
    np.testing.assert_array_equal(qcp.y, found.z)


def test_settings_of_the_solve_are_respected():
    """Without a quadratic objective, the canonical form has a cone instead of P."""
    problem, _, _ = quadratic()
    problem.solve(solver=cp.CLARABEL, use_quad_obj=False)
    qcp = host_qcp(problem)
    assert qcp.P.nse == 0 and qcp.x.size > 5


def test_linear_program():
    x = cp.Variable(3)
    problem = cp.Problem(cp.Minimize(np.array([1.0, 2, 3]) @ x), [cp.sum(x) == 1, x >= 0])
    problem.solve(solver=cp.CLARABEL)
    qcp = host_qcp(problem)
    assert qcp.P.nse == 0
    _, _, _, db = qcp.vjp(np.array([1.0, 0, 0]), np.zeros(4), np.zeros(4))
    # x1 = 1 - x2 - x3 at the vertex (1, 0, 0); the bound on x1 is inactive.
    np.testing.assert_allclose(np.abs(np.asarray(db)), [1, 0, 1, 1], atol=1e-9)


def infeasible():
    x = cp.Variable()
    problem = cp.Problem(cp.Minimize(x), [x >= 1, x <= 0])
    problem.solve(solver=cp.CLARABEL)
    return problem


def unsolved():
    return quadratic()[0]


def mixed_integer():
    x = cp.Variable(integer=True)
    return cp.Problem(cp.Minimize(x), [x >= 0.5])


def other_solver():
    problem = quadratic()[0]
    problem.solve(solver=cp.OSQP)
    return problem


def quasiconvex():
    """The status is that of the bisection; there is no solver to ask."""
    x, p = cp.Variable(pos=True), cp.Parameter(pos=True, value=4.0)
    problem = cp.Problem(cp.Minimize(-cp.sqrt(x) / cp.exp(x)), [x <= p])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(qcp=True, solver=cp.CLARABEL)
    return problem


def changed_parameter():
    problem, _, parameter = quadratic()
    problem.solve(solver=cp.CLARABEL)
    parameter.value = parameter.value + 1
    return problem


def power_cone_of_four():
    x = cp.Variable(3, nonneg=True)
    z = cp.Variable()
    cone = cp.PowConeND(
        cp.reshape(x, (3, 1), order="F"), cp.hstack([z]), np.full((3, 1), 1 / 3)
    )
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 1) - z), [cone])
    problem.solve(solver=cp.CLARABEL)
    dims = problem.get_problem_data(cp.CLARABEL)[0]["dims"]
    if not getattr(dims, "pnd", []):
        pytest.skip("this release of CVXPY splits such cones for every solver")
    return problem


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (infeasible, "has no solution, its status is 'infeasible'"),
        (unsolved, "not solved yet"),
        (mixed_integer, "integer"),
        (other_solver, "got one by OSQP"),
        (quasiconvex, "got a quasiconvex one solved with qcp=True"),
        (changed_parameter, "do not fit the solution"),
        (power_cone_of_four, "power cones of more than three"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        host_qcp(make())


def test_not_a_problem():
    with pytest.raises(Exception, match="problem"):
        host_qcp("problem")


def test_inaccurate_solution_warns():
    problem, _, _ = second_order()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(solver=cp.SCS, eps=1e-12, max_iters=60)
    assert problem.status == cp.OPTIMAL_INACCURATE
    with pytest.warns(UserWarning, match="inaccurate"):
        host_qcp(problem)
