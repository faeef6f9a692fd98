"""What an expression of the solution gains from each parameter."""

from collections.abc import Mapping
from typing import Any

import cvxpy as cp
import lineax as lx
import numpy as np
import scipy.sparse as sp

from ._adjoint import dense
from ._derivatives import folded, Linearised
from ._duals import dual_variables
from ._effects import AbstractEffects
from ._qcp import conic_form


class Sensitivities(AbstractEffects[cp.Parameter]):
    """The derivatives of an expression with respect to parameters: a mapping from each
    parameter to an array of its shape.

    Printed, or shown in a notebook, it is a table with a line for each entry of each
    parameter, or for the largest ones if there are many. If all constraints are linear,
    the columns `from` and `to` say between which values of the entry the same constraints
    stay active.
    """

    _HEADER = ("parameter", "value", "sensitivity")

    def __init__(
        self,
        derivatives: Mapping[cp.Parameter, np.ndarray],
        linearised: Linearised | None = None,
    ):
        super().__init__(derivatives)
        self._linearised = linearised

    def _name(self, key: cp.Parameter) -> str:
        return key.name()

    def _values(self, key: cp.Parameter) -> np.ndarray:
        return _value(key)

    def _origin(self, key: cp.Parameter) -> np.ndarray:
        return _value(key)

    def _reach(
        self, key: cp.Parameter, index: tuple[int, ...]
    ) -> tuple[float, float] | None:
        if self._linearised is None or key.id not in self._linearised.parameters:
            return -np.inf, np.inf  # the solution does not depend on it
        ranges = self._linearised.ranges
        if ranges is None:
            return None
        if key.is_complex():
            return np.nan, np.nan
        low, high = ranges.along(
            self._linearised.data_direction({key.id: _unit(key, index)})
        )
        # A parameter with a sign keeps it.
        bound = float(_value(key)[index])
        if key.is_nonneg():
            low = np.maximum(low, -bound)
        if key.is_nonpos():
            high = np.minimum(high, -bound)
        return low, high


def _unit(parameter: Any, index: tuple[int, ...]) -> np.ndarray:
    """The change of one entry, and of the one that is always equal to it."""
    change = np.zeros(parameter.shape)
    change[index] = 1
    if any(parameter.attributes[kind] for kind in ("symmetric", "PSD", "NSD")):
        change[index[::-1]] = 1
    if parameter.attributes["diag"] and index[0] != index[1]:
        change[index] = 0
    return change


def _value(parameter: Any) -> np.ndarray:
    sparse = parameter.attributes["sparsity"]
    return dense(parameter.value_sparse if sparse else parameter.value)


def sensitivity(
    problem: cp.Problem,
    expression: cp.Expression,
    solve_method: str = "auto",
    *,
    solver: lx.AbstractLinearSolver | None = None,
    polish: bool = True,
) -> Sensitivities:
    """The derivative of an expression of the solution with respect to each parameter.

    It is the total derivative. A parameter counts because the solution depends on it, and
    also where it appears in the expression itself.

    **Arguments:**

    - `problem`: as for [`diffqcp.integrations.cvxpy.backward`][].
    - `expression`: a real scalar CVXPY expression, for example
        `problem.objective.expr`. It may contain the problem's variables, its dual
        variables (the elements of `constraint.dual_variables`), and any parameters. It
        need not be convex, but it must be differentiable at the solution.
    - `solve_method`, `solver`, `polish`: as for
        [`diffqcp.AbstractQCP.derivative`][].

    **Returns:**

    A mapping from the parameters of the problem and of the expression to derivatives,
    which prints as a table, and has `range` and `plot`. For parameters with an attribute,
    such as `symmetric`, see [`diffqcp.integrations.cvxpy.backward`][].

    **Raises:** the errors of `backward`; and `TypeError` or `ValueError` if `expression`
    is not a CVXPY expression, is not a real scalar, has variables of other problems, or
    is not differentiable at the solution.
    """
    _check_expression(problem, expression)
    partial = _partial_derivatives(expression)
    parameters = {p.id: p for p in [*problem.parameters(), *expression.parameters()]}
    total = {
        key: folded(p, partial.get(key, np.zeros(p.shape)))
        for key, p in parameters.items()
    }
    linearised = None
    if problem.parameters():
        form = conic_form(problem)
        linearised = Linearised(problem, form, solve_method, solver, polish)
        gradients = {
            variable.id: partial.get(variable.id, np.zeros(variable.shape))
            for variable in problem.variables()
        }
        known = {variable.id for variable in dual_variables(problem)}
        gradients |= {key: partial[key] for key in partial.keys() & known}
        for identifier, gradient in linearised.pull_back(gradients).items():
            total[identifier] = total[identifier] + gradient
    found = {parameters[key]: value for key, value in total.items()}
    return Sensitivities(found, linearised)


def _check_expression(problem: cp.Problem, expression: Any) -> None:
    if not isinstance(expression, cp.Expression):
        raise TypeError(f"expression: expected a cvxpy.Expression, got {expression!r}")
    leaves = [*expression.variables(), *expression.parameters()]
    if expression.size != 1 or any(leaf.is_complex() for leaf in leaves):
        raise ValueError(f"expression: expected a real scalar, got {expression!r}")
    leaves = [*problem.variables(), *dual_variables(problem)]
    known = {variable.id for variable in leaves}
    others = [v.name() for v in expression.variables() if v.id not in known]
    if others:
        raise ValueError(f"expression: its variables {others} are not the problem's")


def _partial_derivatives(expression: cp.Expression) -> dict[int, np.ndarray]:
    """With respect to each variable and each parameter of the expression."""
    # CVXPY differentiates with respect to variables only.
    substitutes = {p.id: cp.Variable(p.shape) for p in expression.parameters()}
    for parameter in expression.parameters():
        substitutes[parameter.id].value = _value(parameter)
    places = {id(p): substitutes[p.id] for p in expression.parameters()}
    originals = {variable.id: key for key, variable in substitutes.items()}
    partial = {}
    for variable, jacobian in expression.tree_copy(places).grad.items():
        if jacobian is None:
            raise ValueError(
                f"expression: {expression} is not differentiable at the solution"
            )
        column = jacobian.toarray() if sp.issparse(jacobian) else jacobian
        key = originals.get(variable.id, variable.id)
        partial[key] = np.reshape(column, variable.shape, order="F")
    return partial
