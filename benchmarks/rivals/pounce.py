import importlib
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import only_small_qps, Prepared, Rival
from ._jax import by_pullback


class Pounce(Rival):
    """POUNCE's layer for JAX, `pounce.jax.solve_qp`."""

    name = "pounce"
    package = "pounce"
    modules = ("pounce.jax",)
    note = "tol=1e-10; forward on the host; backward by a dense solve"

    def refuses(self, problem: Problem) -> str | None:
        return only_small_qps(problem, self.largest)

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        layers: Any = importlib.import_module("pounce.jax")

        def solve(Q: Any, q: Any, A: Any, b: Any, G: Any, h: Any) -> Any:
            equal = {"A": A, "b": b} if problem.dims.get("z") else {}
            return layers.solve_qp(P=Q, c=q, G=G, h=h, tol=1e-10, **equal)

        return by_pullback(problem, cotangent, solve)
