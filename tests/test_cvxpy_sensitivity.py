"""Dual variables, ranges, shadow prices and their tables, against solves by CVXPY."""

import sys
import warnings

import cvxpy as cp
import numpy as np
import pytest

from diffqcp.integrations.cvxpy import backward, derivative, sensitivity, shadow_prices
from diffqcp.integrations.cvxpy._duals import dual_variables

from .test_cvxpy_derivatives import (
    complex_valued,
    direction,
    flat,
    geometric,
    paired,
    power,
    quadratic,
    quietly,
    second_order,
    semidefinite,
    solve,
)


def entropy():
    """An exponential cone with a dual variable of its own."""
    x, p = cp.Variable(), cp.Parameter(value=1.3)
    cone = cp.ExpCone(x, cp.Constant(1.0), p)
    return cp.Problem(cp.Minimize(cp.square(x - 2)), [cone])


@pytest.mark.parametrize(
    "make", [quadratic, second_order, semidefinite, entropy, power, complex_valued]
)
@pytest.mark.parametrize("solver", [cp.CLARABEL, cp.SCS])
def test_duals_against_finite_differences(make, solver):
    problem, rng = make(), np.random.default_rng(5)
    parameters, duals = problem.parameters(), dual_variables(problem)
    solve(problem, solver)
    for leaf in parameters:
        leaf.delta = direction(leaf, rng)
    quietly(derivative, problem)
    moved = [leaf.delta for leaf in duals]
    for leaf in duals:
        leaf.gradient = rng.normal(size=leaf.shape)
    quietly(backward, problem)
    pushed = sum(np.vdot(leaf.gradient, leaf.delta).real for leaf in duals)
    pulled = sum(paired(leaf) for leaf in parameters)
    assert abs(pushed - pulled) < 1e-10 * abs(pushed)

    base, step, ends = [leaf.value for leaf in parameters], 1e-3, []
    for k in (1, -1, 2, -2):
        for leaf, value in zip(parameters, base, strict=True):
            leaf.value = value + k * step * leaf.delta
        solve(problem, cp.SCS)
        ends.append(flat([leaf.value for leaf in duals]))
    expected = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step)
    assert np.linalg.norm(flat(moved) - expected) < 1e-6 * np.linalg.norm(expected)


def test_gradients_of_duals_alone():
    """Closed form: min x^2 with x == p has the dual variable -2 p. Variables without a
    gradient have ones by themselves, and zeros beside a dual variable that has one.
    """
    x, p = cp.Variable(), cp.Parameter(value=3.0)
    constraint = x == p
    problem = cp.Problem(cp.Minimize(cp.square(x)), [constraint])
    problem.solve(solver=cp.CLARABEL)
    backward(problem)
    np.testing.assert_allclose(p.gradient, 1, rtol=1e-12)
    (dual,) = constraint.dual_variables
    dual.gradient = 5.0
    backward(problem)
    np.testing.assert_allclose(p.gradient, -10, rtol=1e-12)
    p.delta = 0.1
    derivative(problem)
    np.testing.assert_allclose(dual.delta, -0.2, rtol=1e-12)
    found = sensitivity(problem, dual**2 + x)  # 4 p^2 + p
    np.testing.assert_allclose(found[p], 25, rtol=1e-9)
    dual.gradient = np.ones(2)
    with pytest.raises(ValueError, match="gradient of .*expected shape"):
        backward(problem)


def linear_program():
    """A product mix: profits in q, capacities in b, a use of a machine in A."""
    x = cp.Variable(3, name="x", nonneg=True)
    profit = cp.Parameter(3, name="profit", value=np.array([5.0, 4.0, 1.0]))
    capacity = cp.Parameter(2, name="capacity", value=np.array([24.0, 6.0]))
    use = cp.Parameter(name="use", value=6.0, nonneg=True)
    left = cp.hstack([use * x[0] + 4 * x[1] + 3 * x[2], x[0] + 2 * x[1] + 0.5 * x[2]])
    rows = left <= capacity
    return cp.Problem(cp.Maximize(profit @ x), [rows, x[1] <= 2.5])


def quadratic_program():
    """The sizes of some rows and columns are parameters too."""
    rng = np.random.default_rng(3)
    x = cp.Variable(4, name="x")
    target = cp.Parameter(4, name="target", value=np.array([0.9, -0.3, 0.4, 0.05]))
    total = cp.Parameter(name="total", value=1.0)
    weight = cp.Parameter(name="weight", value=0.8, nonneg=True)
    row = cp.Parameter(4, name="row", value=rng.uniform(0.5, 1.0, size=4))
    objective = cp.sum_squares(x - target) + weight * cp.square(x[0] - x[2])
    return cp.Problem(cp.Minimize(objective), [row @ x == total, x >= 0, x <= 0.6])


def active(problem, value, parameter, index, duals):
    """Which inequalities are active when one entry has another value."""
    kept = parameter.value
    moved = np.array(kept, float)
    moved[index] = value
    parameter.value = moved
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(
            solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
        )
    found = [np.atleast_1d(constraint.dual_value) for constraint in duals]
    signs = [np.atleast_1d(variable.value) for variable in problem.variables()]
    parameter.value = kept
    return np.concatenate(found) > 1e-7, np.concatenate(signs) > 1e-7


@pytest.mark.parametrize("make", [linear_program, quadratic_program])
def test_ranges_against_solves(make):
    """Just inside both ends of each range the same inequalities are active as at the
    middle, and just outside others.
    """
    problem = make()
    duals = [c for c in problem.constraints if isinstance(c, cp.constraints.Inequality)]
    problem.solve(solver=cp.CLARABEL)
    found = quietly(sensitivity, problem, problem.objective.expr)
    ends = 0
    for parameter in problem.parameters():
        low, high = found.range(parameter)
        for index in np.ndindex(parameter.shape):
            start = np.asarray(parameter.value)[index]
            here = active(problem, start, parameter, index, duals)
            assert low[index] <= start <= high[index]
            for end in (low[index], high[index]):
                if not np.isfinite(end) or (parameter.is_nonneg() and end == 0):
                    continue
                small = 1e-3 * (end - start)
                inside = active(problem, end - small, parameter, index, duals)
                outside = active(problem, end + small, parameter, index, duals)
                assert all(
                    np.array_equal(a, b) for a, b in zip(here, inside, strict=True)
                )
                same = [np.array_equal(a, b) for a, b in zip(here, outside, strict=True)]
                assert not all(same), (parameter.name(), index, end)
                ends += 1
    assert ends >= 8


def test_ranges_in_closed_form():
    """min x^2 - 2 p x with x <= c: free for p < c, then at the bound."""
    x, p, c = cp.Variable(), cp.Parameter(name="p"), cp.Parameter(name="c")
    p.value, c.value = 1.0, 3.0
    problem = cp.Problem(cp.Minimize(cp.square(x) - 2 * p * x), [x <= c])
    problem.solve(solver=cp.CLARABEL)
    found = sensitivity(problem, x + cp.Parameter(name="other", value=1.0))
    np.testing.assert_allclose(found.range(p), [-np.inf, 3.0], rtol=1e-12)
    np.testing.assert_allclose(found.range(c), [1.0, np.inf], rtol=1e-12)
    (other,) = (key for key in found if key.name() == "other")
    np.testing.assert_allclose(found.range(other), [-np.inf, np.inf])


def test_no_range_at_a_kink():
    """Of two equal constraints, moving one relaxes it or makes it the only one."""
    x, c = cp.Variable(), cp.Parameter(2, name="c", value=np.ones(2))
    problem = cp.Problem(cp.Maximize(x), [x <= c[0], x <= c[1]])
    problem.solve(solver=cp.CLARABEL)
    low, high = sensitivity(problem, x).range(c)
    np.testing.assert_array_equal(low, c.value)
    np.testing.assert_array_equal(high, c.value)


def test_ranges_need_linear_constraints():
    problem = second_order()
    problem.solve(solver=cp.CLARABEL)
    found = sensitivity(problem, cp.sum(problem.variables()[0]))
    with pytest.raises(ValueError, match="linear constraints only"):
        found.range(problem.parameters()[0])
    assert "from" not in str(found)
    problem = geometric()
    problem.solve(solver=cp.CLARABEL, gp=True)
    assert "from" not in str(quietly(sensitivity, problem, problem.variables()[0]))


def test_shadow_prices():
    """Against solves with other right-hand sides, a maximum and a minimum."""
    problem = linear_program()
    problem.solve(solver=cp.CLARABEL)
    rows, bound = problem.constraints
    rows.set_label("machines")
    prices = shadow_prices(problem)
    capacity = next(p for p in problem.parameters() if p.name() == "capacity")
    value, start = problem.value, capacity.value
    low, high = prices.range(rows)
    for k in range(2):
        for step in (0.5 * max(low[k], -1), 0.5 * min(high[k], 1)):
            capacity.value = start + step * np.eye(2)[k]
            problem.solve(solver=cp.CLARABEL)
            np.testing.assert_allclose(
                problem.value - value, prices[rows][k] * step, rtol=1e-6
            )
    assert np.all(prices[rows] > 0.1) and abs(prices[bound]) < 1e-12
    assert "machines[0]" in str(prices) and "constraint 1" in str(prices)

    x = cp.Variable(2)
    equality, lower = cp.sum(x) == 3, x >= np.array([2.0, 0.0])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [equality, lower])
    problem.solve(solver=cp.CLARABEL)
    prices = shadow_prices(problem)
    # With u on the right: x = (2, 1 + u), and x[0] >= 2 - v: (2 - v)^2 + (1 + v)^2.
    np.testing.assert_allclose(prices[equality], 2, rtol=1e-8)
    np.testing.assert_allclose(prices[lower], [-2, 0], atol=1e-8)
    np.testing.assert_allclose(prices.range(equality), [-1, 1], rtol=1e-8)
    low, high = prices.range(lower)
    np.testing.assert_allclose(low, [-1, -1], rtol=1e-8)
    np.testing.assert_allclose(high, [0.5, np.inf], rtol=1e-8)


def test_html_table_and_plot():
    problem = linear_program()
    problem.solve(solver=cp.CLARABEL)
    parameter = next(p for p in problem.parameters() if p.name() == "use")
    parameter._name = "<use>"
    found = sensitivity(problem, problem.objective.expr)
    table = found._repr_html_()
    assert "&lt;use&gt;" in table and "<use>" not in table
    assert table.count("<tr>") == 1 + 6 and table.count("</td>") == 5 * 6
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = found.plot(largest=4, relative=0.1)
    names = [label.get_text() for label in axes.get_yticklabels()]
    sizes = {
        name: abs(slope * value)
        for name, value, slope, _ in (
            found._effect(key, index)
            for key in found
            for index in np.ndindex(found[key].shape)
        )
    }
    assert names == sorted(sizes, key=lambda name: -sizes[name])[:4]
    # Two bars for each direction; the upper two of a name are as wide as its effect.
    widths = [abs(bar.get_width()) for bar in axes.patches]
    assert len(widths) == 16
    np.testing.assert_allclose(widths[::4], [0.1 * sizes[name] for name in names])
    assert all(inner <= outer for outer, inner in zip(widths[::2], widths[1::2]))  # noqa: B905
    axes.figure.clear()
    assert found.plot(axes=axes) is axes
    with pytest.raises(ValueError, match="largest: expected at least 1, got 0"):
        found.plot(largest=0)
    with pytest.raises(ValueError, match="relative: expected a positive number, got -1"):
        found.plot(relative=-1)


def test_plot_names_its_extra(monkeypatch):
    problem = linear_program()
    problem.solve(solver=cp.CLARABEL)
    found = sensitivity(problem, problem.objective.expr)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "diffqcp.integrations.cvxpy._tornado", raising=False)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        found.plot()
