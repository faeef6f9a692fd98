"""Problems for layers, with values of their parameters."""

import warnings
from typing import NamedTuple

import cvxpy as cp
import numpy as np


class LayerProblem(NamedTuple):
    problem: cp.Problem
    parameters: list
    variables: list
    values: list
    gp: bool = False


def quadratic():
    """Parameters in P, q, A and b, and duals of both kinds of constraint."""
    rng = np.random.default_rng(0)
    x = cp.Variable(4)
    F, g, a = cp.Parameter((6, 4)), cp.Parameter(6), cp.Parameter(4)
    weight = cp.Parameter(nonneg=True)
    constraints = [a @ x == 1, x >= -0.2]
    objective = cp.sum_squares(F @ x - g) + weight * cp.norm1(x)
    problem = cp.Problem(cp.Minimize(objective), constraints)
    variables = [x, *(con.dual_variables[0] for con in constraints)]
    values = [rng.normal(size=4), 0.3, rng.normal(size=(6, 4)), 3 * rng.normal(size=6)]
    return LayerProblem(problem, [a, weight, F, g], variables, values)


def parametric_form():
    """The whole of P is a parameter."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(3, 3))
    x, P, q = cp.Variable(3), cp.Parameter((3, 3), PSD=True), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [cp.sum(x) >= 1])
    return LayerProblem(
        problem, [q, P], [x], [rng.normal(size=3), root @ root.T + np.eye(3)]
    )


def second_order():
    rng = np.random.default_rng(2)
    x, p, radius = cp.Variable(4), cp.Parameter(4), cp.Parameter()
    F = rng.normal(size=(4, 4))
    objective = p @ x + cp.sum_squares(x)
    problem = cp.Problem(cp.Minimize(objective), [cp.norm(F @ x) <= radius])
    return LayerProblem(problem, [p, radius], [x], [rng.normal(size=4), 0.5])


def semidefinite():
    """Order 3, where orders of triangles differ; symmetric leaves; a dual matrix."""
    C0 = np.random.default_rng(3).normal(size=(3, 3))
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    cone = X >> 0
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C) + cp.trace(X)), [cone])
    return LayerProblem(problem, [C], [X, cone.dual_variables[0]], [C0 + C0.T])


def exponential():
    rng = np.random.default_rng(4)
    x, p = cp.Variable(3), cp.Parameter(3)
    objective = cp.log_sum_exp(x) + 0.5 * cp.sum_squares(x) + p @ x
    return LayerProblem(
        cp.Problem(cp.Minimize(objective)), [p], [x], [rng.normal(size=3)]
    )


def power():
    x, p = cp.Variable(3), cp.Parameter(3)
    constraint = cp.PowCone3D(x[0], x[1], x[2], 0.3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [constraint])
    return LayerProblem(problem, [p], [x], [np.array([1.0, 0.4, -1.0])])


def geometric():
    """minimise x/t + y such that x y >= a: x = sqrt(a t), y = sqrt(a/t)."""
    x, y = cp.Variable(pos=True), cp.Variable(pos=True)
    a, t = cp.Parameter(pos=True), cp.Parameter(pos=True)
    problem = cp.Problem(cp.Minimize(x / t + y), [x * y >= a])
    return LayerProblem(problem, [t, a], [x, y], [3.0, 2.0], gp=True)


PROBLEMS = [
    *(quadratic, parametric_form, second_order, semidefinite),
    *(exponential, power, geometric),
]


def solution(layer_problem: LayerProblem, values) -> list[np.ndarray]:
    """The variables' values, by CVXPY and SCS to a tight tolerance."""
    problem = layer_problem.problem
    for parameter, value in zip(layer_problem.parameters, values, strict=True):
        parameter.value = value
    with warnings.catch_warnings():
        # At this tolerance SCS may call a good solution inaccurate; and a parametric
        # quadratic form is not DPP as CVXPY counts.
        warnings.simplefilter("ignore")
        problem.solve(solver=cp.SCS, gp=layer_problem.gp, eps_abs=1e-12, eps_rel=1e-12)
    return [np.array(variable.value) for variable in layer_problem.variables]


def direction(layer_problem: LayerProblem, seed: int) -> list[np.ndarray]:
    """A change of the parameters, symmetric where they are."""
    rng = np.random.default_rng(seed)
    steps = [rng.normal(size=parameter.shape) for parameter in layer_problem.parameters]
    return [
        step + step.T if parameter.is_symmetric() and step.ndim == 2 else step
        for step, parameter in zip(steps, layer_problem.parameters, strict=True)
    ]


def finite_difference(layer_problem: LayerProblem, steps) -> list[np.ndarray]:
    """How the variables change along `steps`, by a fourth-order central difference."""
    size, ends = 1e-3, []
    for k in (1, -1, 2, -2):
        values = [
            value + k * size * step
            for value, step in zip(layer_problem.values, steps, strict=True)
        ]
        ends.append(solution(layer_problem, values))
    return [
        (8 * (a - b) - (c - d)) / (12 * size) for a, b, c, d in zip(*ends, strict=True)
    ]
