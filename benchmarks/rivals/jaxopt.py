import importlib
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import only_small_qps, Prepared, Rival
from ._jax import by_pullback


class Jaxopt(Rival):
    """`jaxopt.OSQP` with implicit differentiation, jitted, in float64."""

    name = "jaxopt"
    package = "jaxopt"
    modules = ("jax", "jaxopt")
    largest = 1000
    note = "dense; OSQP to 1e-8; backward by a matrix-free iterative solve"

    def refuses(self, problem: Problem) -> str | None:
        return only_small_qps(problem, self.largest)

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        jaxopt: Any = importlib.import_module("jaxopt")
        solver = jaxopt.OSQP(tol=1e-8, maxiter=20000)
        equalities = problem.dims.get("z", 0) > 0

        def solve(Q: Any, q: Any, A: Any, b: Any, G: Any, h: Any) -> Any:
            equal = (A, b) if equalities else None
            found = solver.run(params_obj=(Q, q), params_eq=equal, params_ineq=(G, h))
            return found.params.primal

        return by_pullback(problem, cotangent, solve)
