import importlib
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import DenseQP, only_small_qps, Prepared, Rival
from ._torch import by_autograd


class Proxsuite(Rival):
    """ProxQP's layer for PyTorch, `QPFunction`: a batch of one."""

    name = "proxsuite"
    package = "proxsuite"
    modules = ("torch", "proxsuite.torch.qplayer")
    note = "dense; keeps its forward workspace; eps_backward=1e-10 (default 1e-4)"

    def refuses(self, problem: Problem) -> str | None:
        return only_small_qps(problem, self.largest)

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        layers: Any = importlib.import_module("proxsuite.torch.qplayer")

        def solve(qp: DenseQP) -> Any:
            Q, q, A, b, G, h = qp
            layer = layers.QPFunction(eps=1e-10, eps_backward=1e-10)
            return layer(Q, q, A, b, G, h.new_full(h.shape, -1e20), h)[0]

        return by_autograd(problem, cotangent, solve)
