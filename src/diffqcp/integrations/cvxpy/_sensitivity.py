"""What an expression of the solution gains from each parameter."""

from collections.abc import Iterator, Mapping
from typing import Any

import cvxpy as cp
import lineax as lx
import numpy as np
import scipy.sparse as sp

from ._adjoint import dense
from ._derivatives import folded, Linearised
from ._qcp import conic_form


class Sensitivities(Mapping[cp.Parameter, np.ndarray]):
    """d(expression)/d(parameter), by parameter; each has its parameter's shape.

    As a string it is a table with a line for each entry of each parameter, or for the
    largest ones if there are many.
    """

    def __init__(self, derivatives: Mapping[cp.Parameter, np.ndarray]):
        self._derivatives = dict(derivatives)

    def __getitem__(self, parameter: cp.Parameter) -> np.ndarray:
        return self._derivatives[parameter]

    def __iter__(self) -> Iterator[cp.Parameter]:
        return iter(self._derivatives)

    def __len__(self) -> int:
        return len(self._derivatives)

    def __str__(self) -> str:
        lines = [("parameter", "value", "sensitivity")]
        for parameter, sensitivity in self._derivatives.items():
            lines += _lines(parameter, sensitivity)
        widths = [max(len(line[k]) for line in lines) for k in range(3)]
        return "\n".join(
            f"{name:<{widths[0]}}  {value:>{widths[1]}}  {slope:>{widths[2]}}".rstrip()
            for name, value, slope in lines
        )


_SHOWN = 10


def _lines(parameter: cp.Parameter, sensitivity: np.ndarray) -> list[tuple[str, ...]]:
    order = np.argsort(-np.abs(sensitivity), axis=None, kind="stable")
    values = _value(parameter)
    lines = []
    for flat in np.sort(order[:_SHOWN]):
        index = tuple(int(k) for k in np.unravel_index(flat, sensitivity.shape))
        name = parameter.name() + (str(list(index)) if index else "")
        lines.append((name, f"{values[index]:.6g}", f"{sensitivity[index]:.6g}"))
    if sensitivity.size > _SHOWN:
        lines.append((f"{parameter.name()}: {sensitivity.size - _SHOWN} smaller", "", ""))
    return lines


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
    """d(expression)/d(parameter) at the solution, for all parameters.

    It is the total derivative: through the solution, and through parameters that the
    expression itself has.

    **Arguments:**

    - `problem`: as for [`diffqcp.integrations.cvxpy.backward`][].
    - `expression`: a real scalar expression of the problem's variables, and of any
        parameters; `problem.objective.expr` for one. It need not be convex, but
        differentiable at the solution.
    - `solve_method`, `solver`, `polish`: as for
        [`diffqcp.AbstractQCP.derivative`][].

    **Returns:**

    A mapping from the parameters of the problem and of the expression to derivatives,
    which prints as a table. For a parameter with an attribute such as `symmetric` the
    derivative is as `parameter.gradient` of `backward`.

    **Raises:** as `backward`; and `TypeError` or `ValueError` if the expression is none,
    is not a real scalar, has other variables, or is not differentiable at the solution.
    """
    _check_expression(problem, expression)
    partial = _partial_derivatives(expression)
    parameters = {p.id: p for p in [*problem.parameters(), *expression.parameters()]}
    total = {
        key: folded(p, partial.get(key, np.zeros(p.shape)))
        for key, p in parameters.items()
    }
    if problem.parameters():
        form = conic_form(problem)
        linearised = Linearised(problem, form, solve_method, solver, polish)
        gradients = {
            variable.id: partial.get(variable.id, np.zeros(variable.shape))
            for variable in problem.variables()
        }
        for identifier, gradient in linearised.pull_back(gradients).items():
            total[identifier] = total[identifier] + gradient
    return Sensitivities({parameters[key]: value for key, value in total.items()})


def _check_expression(problem: cp.Problem, expression: Any) -> None:
    if not isinstance(expression, cp.Expression):
        raise TypeError(f"expression: expected a cvxpy.Expression, got {expression!r}")
    leaves = [*expression.variables(), *expression.parameters()]
    if expression.size != 1 or any(leaf.is_complex() for leaf in leaves):
        raise ValueError(f"expression: expected a real scalar, got {expression!r}")
    known = {variable.id for variable in problem.variables()}
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
