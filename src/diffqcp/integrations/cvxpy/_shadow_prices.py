"""What the optimal value gains if a constraint is relaxed."""

from collections.abc import Mapping

import cvxpy as cp
import lineax as lx
import numpy as np
from cvxpy.constraints.constraint import Constraint
from cvxpy.constraints.nonpos import Inequality
from cvxpy.constraints.zero import Equality

from ._derivatives import Linearised
from ._effects import AbstractEffects
from ._qcp import conic_form


class ShadowPrices(AbstractEffects[Constraint]):
    """The derivatives of the optimal value with respect to `u`, where a constraint is
    relaxed to `left <= right + u` or `left == right + u`: a mapping from each constraint
    to an array of its shape.

    It prints as a table, like [`diffqcp.integrations.cvxpy.Sensitivities`][]. The second
    column is `left - right`, and `from` and `to` are a range for `u`.
    """

    _HEADER = ("constraint", "left - right", "shadow price")

    def __init__(
        self,
        prices: Mapping[Constraint, np.ndarray],
        names: Mapping[Constraint, str],
        linearised: Linearised,
    ):
        super().__init__(prices)
        self._names = names
        self._linearised = linearised

    def _name(self, key: Constraint) -> str:
        return self._names[key]

    def _values(self, key: Constraint) -> np.ndarray:
        # Zero where all that is left is the solver's tolerance.
        left, gap = np.asarray(key.args[0].value), np.asarray(key.expr.value)
        return np.where(np.abs(gap) <= 1e-6 * (1 + np.abs(left)), 0, gap)

    def _origin(self, key: Constraint) -> np.ndarray:
        return np.zeros(key.shape)

    def _reach(
        self, key: Constraint, index: tuple[int, ...]
    ) -> tuple[float, float] | None:
        ranges = self._linearised.ranges
        if ranges is None:
            return None
        if np.iscomplexobj(self[key]):
            return np.nan, np.nan
        unit = np.zeros(key.shape)
        unit[index] = 1
        # The Lagrangian has -u'(dual variable) here, -(db)'y in the conic form, and the
        # dual variable is a linear function of y: db is the adjoint of that.
        db = self._linearised.duals.adjoint({key.dual_variables[0].id: unit})
        return ranges.along([*self._linearised.data_direction({})[:3], db])


def shadow_prices(
    problem: cp.Problem,
    solve_method: str = "auto",
    *,
    solver: lx.AbstractLinearSolver | None = None,
    polish: bool = True,
) -> ShadowPrices:
    """What the optimal value gains if the right-hand side of a constraint grows.

    These are the dual variables, with the sign that this question gives them: negative if
    a minimum falls, positive if a maximum rises. In a problem with linear constraints,
    each price comes with the range of the right-hand side in which the same constraints
    stay active. In a linear program the price is constant in that range, and changes at
    both of its ends.

    **Arguments:**

    - `problem`, `solve_method`, `solver`, `polish`: as for
        [`diffqcp.integrations.cvxpy.backward`][].

    **Returns:** a mapping from the constraints that are written with `<=`, `>=` or `==`
    to their prices, a [`diffqcp.integrations.cvxpy.ShadowPrices`][].

    **Raises:** the errors of `backward`.
    """
    linearised = Linearised(problem, conic_form(problem), solve_method, solver, polish)
    duals = linearised.dual_values()
    sign = -1 if isinstance(problem.objective, cp.Minimize) else 1
    prices, names = {}, {}
    for number, constraint in enumerate(problem.constraints):
        known = duals.get(constraint.dual_variables[0].id)
        if isinstance(constraint, Equality | Inequality) and known is not None:
            prices[constraint] = sign * known
            label = constraint.label
            names[constraint] = f"constraint {number}" if label is None else str(label)
    return ShadowPrices(prices, names, linearised)
