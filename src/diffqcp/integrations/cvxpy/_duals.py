"""The dual variables of CVXPY's constraints as functions of the conic form's."""

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import cvxpy as cp
import numpy as np

from ._adjoint import pull_through


class Duals:
    """The linear map from the dual variable `y` of the conic form to the dual variables
    of a problem's constraints.

    CVXPY has no function for that map, but applies it to each solution that comes from
    a solver. Here it gets "solutions" whose dual variable is the change of one.

    **Arguments:**

    - `problem`: a solved `cvxpy.Problem`.
    - `inverse_data`: what CVXPY keeps to invert its reductions, from
        `problem.get_problem_data`.
    - `n`, `m`: the numbers of variables and of rows of the conic form.
    """

    def __init__(self, problem: cp.Problem, inverse_data: Any, n: int, m: int):
        self._constraints = problem.constraints
        self._chain: Any = problem._cache.solving_chain
        self._inverse_data = inverse_data
        self._n = n
        self._y = cp.Variable(m)

    def forward(self, y: np.ndarray) -> dict[int, np.ndarray]:
        """The dual variables that CVXPY recovers, by their identifiers. It recovers none
        of a few rare kinds of constraints.
        """
        solution = self._chain.invert(self._raw_solution(y), self._inverse_data)
        values: dict[int, np.ndarray] = {}
        for constraint in self._constraints:
            if constraint.id not in solution.dual_vars:
                continue
            # The constraint's own method writes into its variables: these are others.
            twin = copy.copy(constraint)
            twin.dual_variables = [
                cp.Variable(v.shape) for v in constraint.dual_variables
            ]
            twin.save_dual_value(solution.dual_vars[constraint.id])
            pairs = zip(constraint.dual_variables, twin.dual_variables, strict=True)
            for original, written in pairs:
                if written.value is not None:
                    value = np.asarray(written.value)
                    values[original.id] = value.reshape(original.shape, order="F")
        return values

    def adjoint(self, cotangents: Mapping[int, np.ndarray]) -> np.ndarray:
        """The adjoint of `forward`."""

        def push(values: Mapping[int, Any]) -> dict[int, np.ndarray]:
            return self.forward(values[self._y.id])

        return pull_through(push, [self._y], cotangents)[self._y.id]

    def _raw_solution(self, y: np.ndarray) -> Any:
        """In the form in which the solver returns it."""
        x = np.zeros(self._n)
        if self._chain.solver.name() == "SCS":
            info = {
                "status_val": 1,
                "solve_time": 0,
                "setup_time": 0,
                "iter": 0,
                "pobj": 0.0,
            }
            return {"x": x, "y": y, "s": np.zeros(y.size), "info": info}
        return SimpleNamespace(
            x=x, z=y, status="Solved", obj_val=0.0, solve_time=0.0, iterations=0
        )


def dual_variables(problem: cp.Problem) -> list[Any]:
    """Those of all constraints of a problem."""
    return [variable for c in problem.constraints for variable in c.dual_variables]
