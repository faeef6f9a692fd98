import importlib
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import DenseQP, only_small_qps, Prepared, Rival
from ._torch import by_autograd


class Qpth(Rival):
    """OptNet's `QPFunction`: a batch of one."""

    name = "qpth"
    package = "qpth"
    modules = ("torch", "qpth.qp")
    note = "dense; reuses its forward factorisations of P and of A P^-1 A'"

    def refuses(self, problem: Problem) -> str | None:
        if reason := only_small_qps(problem, self.largest):
            return reason
        if np.any(np.linalg.eigvalsh(problem.full_P.toarray()) < 1e-10):
            return "needs a positive definite P"
        return None

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        layers: Any = importlib.import_module("qpth.qp")

        def solve(qp: DenseQP) -> Any:
            Q, q, A, b, G, h = qp
            equal = (A, b) if b.numel() else (b.new_empty(0), b.new_empty(0))
            return layers.QPFunction(verbose=-1, eps=1e-12, maxIter=50)(
                Q, q, G, h, *equal
            )

        return by_autograd(problem, cotangent, solve)
