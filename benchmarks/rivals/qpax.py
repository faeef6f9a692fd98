import importlib
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import only_small_qps, Prepared, Rival
from ._jax import by_pullback


class Qpax(Rival):
    """`qpax.solve_qp_primal` under `jax.vjp`, jitted, in float64."""

    name = "qpax"
    package = "qpax"
    modules = ("jax", "qpax")
    note = "dense; relaxed to target_kappa=1e-10 (default 1e-3), which its forward does"

    def refuses(self, problem: Problem) -> str | None:
        return only_small_qps(problem, self.largest)

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        qpax: Any = importlib.import_module("qpax")

        def solve(*data: Any) -> Any:
            tight = {"solver_tol": 1e-10, "target_kappa": 1e-10, "max_iter": 100}
            return qpax.solve_qp_primal(*data, **tight)

        return by_pullback(problem, cotangent, solve)
