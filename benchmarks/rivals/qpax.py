import importlib
import time
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import dense_qp, DenseQP, gradient, only_small_qps, Prepared, Rival


class Qpax(Rival):
    """`qpax.solve_qp_primal` under `jax.vjp`, jitted, in float64."""

    name = "qpax"
    package = "qpax"
    modules = ("jax", "qpax")
    note = "dense; relaxed to target_kappa=1e-10 (default 1e-3), which its forward does"

    def refuses(self, problem: Problem) -> str | None:
        return only_small_qps(problem, limit=2500)

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        import jax

        qpax: Any = importlib.import_module("qpax")
        arrays = [jax.numpy.asarray(part) for part in dense_qp(problem)]

        def solve(*data: Any) -> Any:
            tight = {"solver_tol": 1e-10, "target_kappa": 1e-10, "max_iter": 100}
            return qpax.solve_qp_primal(*data, **tight)

        forward = jax.jit(lambda *data: jax.vjp(solve, *data))
        jax.block_until_ready(forward(*arrays)[0])
        started = time.perf_counter()
        x, pullback = jax.block_until_ready(forward(*arrays))
        seconds = time.perf_counter() - started
        apply = jax.jit(lambda function, vector: function(vector))
        vector = jax.numpy.asarray(cotangent)

        return Prepared(
            np.asarray(x),
            seconds,
            lambda: jax.block_until_ready(apply(pullback, vector)),
            lambda found: gradient(problem, DenseQP(*found)),
        )
