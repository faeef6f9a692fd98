import importlib
import time
from typing import Any

import numpy as np

from ..problems import Problem
from ._base import dense_qp, DenseQP, gradient, only_small_qps, Prepared, Rival


class Jaxopt(Rival):
    """`jaxopt.OSQP` with implicit differentiation, jitted, in float64."""

    name = "jaxopt"
    package = "jaxopt"
    modules = ("jax", "jaxopt")
    note = "dense; OSQP to 1e-8; backward by a matrix-free iterative solve"

    def refuses(self, problem: Problem) -> str | None:
        return only_small_qps(problem, limit=1000)

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        import jax

        jaxopt: Any = importlib.import_module("jaxopt")
        arrays = [jax.numpy.asarray(part) for part in dense_qp(problem)]
        solver = jaxopt.OSQP(tol=1e-8, maxiter=20000)
        equalities = problem.dims.get("z", 0) > 0

        def solve(Q: Any, q: Any, A: Any, b: Any, G: Any, h: Any) -> Any:
            equal = (A, b) if equalities else None
            found = solver.run(params_obj=(Q, q), params_eq=equal, params_ineq=(G, h))
            return found.params.primal

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
