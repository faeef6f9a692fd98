import importlib
import time
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import dense_qp, DenseQP, gradient, only_small_qps, Prepared, Rival


class Proxsuite(Rival):
    """ProxQP's layer for PyTorch, `QPFunction`: a batch of one."""

    name = "proxsuite"
    package = "proxsuite"
    modules = ("torch", "proxsuite.torch.qplayer")
    note = "dense; keeps its forward workspace; eps_backward=1e-10 (default 1e-4)"

    def refuses(self, problem: Problem) -> str | None:
        return only_small_qps(problem, limit=2500)

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        import torch

        layers: Any = importlib.import_module("proxsuite.torch.qplayer")
        dense = dense_qp(problem)
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)  # the layer makes its outputs with it
        Q, q, A, b, G, h = (torch.tensor(part, requires_grad=True) for part in dense)
        low = torch.full_like(h, -1e20)
        inputs = [Q, q, G, h, A, b] if dense.b.size else [Q, q, G, h]
        started = time.perf_counter()
        layer = layers.QPFunction(eps=1e-10, eps_backward=1e-10)
        x = layer(Q, q, A, b, G, low, h)[0]
        seconds = time.perf_counter() - started
        vector = torch.tensor(cotangent)[None]

        def collect(found: tuple[Any, ...]) -> dict[str, np.ndarray]:
            dQ, dq, dG, dh, *others = (part.detach().numpy() for part in found)
            dA, db = others or (dense.A, dense.b)
            return gradient(problem, DenseQP(dQ, dq, dA, db, dG, dh))

        return Prepared(
            x.detach().numpy()[0],
            seconds,
            lambda: torch.autograd.grad(x, inputs, vector, retain_graph=True),
            collect,
        )
