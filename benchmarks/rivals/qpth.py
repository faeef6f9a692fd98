import importlib
import time
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import dense_qp, DenseQP, gradient, only_small_qps, Prepared, Rival


class Qpth(Rival):
    """OptNet's `QPFunction`: a batch of one."""

    name = "qpth"
    package = "qpth"
    modules = ("torch", "qpth.qp")
    note = "dense; reuses its forward factorisations of P and of A P^-1 A'"

    def refuses(self, problem: Problem) -> str | None:
        if reason := only_small_qps(problem, limit=2500):
            return reason
        if np.any(np.linalg.eigvalsh(problem.full_P.toarray()) < 1e-10):
            return "needs a positive definite P"
        return None

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        import torch

        qp: Any = importlib.import_module("qpth.qp")
        dense = dense_qp(problem)
        torch.set_num_threads(1)
        Q, q, A, b, G, h = (
            torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in dense
        )
        inputs = [Q, q, G, h, A, b]
        if not dense.b.size:
            A = b = torch.empty(0, dtype=torch.float64)
            inputs = [Q, q, G, h]
        started = time.perf_counter()
        layer = qp.QPFunction(verbose=-1, eps=1e-12, maxIter=50)
        x = layer(Q, q, G, h, A, b)
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
