"""Figures of this package: `solve_method="auto"` and default settings throughout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from diffqcp import HostQCP, QCPStructureCPU

from .errors import by_part, worst
from .face import Face
from .forward import Forward
from .problems import Problem
from .reference import Data, Reference
from .timing import median_seconds, once, peak_megabytes


def measure(
    problem: Problem, forward: Forward, truth: Reference | Face | None
) -> dict[str, Any]:
    """Times, memory, and errors where the truth is known.

    - `first`: the first VJP of all: structure, symbolic work and compilation.
    - `first_gradient`: the same, with Clarabel's solve before it.
    - `vjp`, `jvp`: later calls of `qcp.vjp`, `qcp.jvp` with a structure already seen.
    - `vjp_jit`, `jvp_jit`: of a jitted function of all values that builds the QCP too;
      `vjp_compile` is what its first call took.
    - `error`: at Clarabel's solution; `error_exact`: at the reference's.
    """
    cotangent, direction = functional(problem, truth)
    dx, zero = jnp.asarray(cotangent), jnp.zeros(problem.m)
    before = peak_megabytes()

    def vjp(qcp: HostQCP) -> Any:
        return jax.block_until_ready(qcp.vjp(dx, zero, zero))

    def jvp(qcp: HostQCP) -> Any:
        dP, dA = _matrices(problem, qcp.problem_structure, direction.P, direction.A)
        return jax.block_until_ready(qcp.jvp(dP, dA, direction.q, direction.b))

    def start() -> tuple[HostQCP, Any]:
        qcp = host_qcp(problem, forward.x, forward.y, forward.s)
        return qcp, vjp(qcp)

    (qcp, gradient), first = once(start)
    figures = {"first": first, "first_gradient": first + forward.setup + forward.seconds}
    figures |= {"vjp": median_seconds(lambda: vjp(qcp))}
    figures["peak_mb"] = peak_megabytes() - before
    tangent = jvp(qcp)
    figures["jvp"] = median_seconds(lambda: jvp(qcp))
    figures |= _jitted(qcp, problem, cotangent, direction)
    finite = jax.tree.all(
        jax.tree.map(lambda a: jnp.isfinite(a).all(), (gradient, tangent))
    )
    figures["finite"] = bool(finite)
    if isinstance(truth, Face):
        figures["error"] = truth.error(np.asarray(gradient[2]))
    if not isinstance(truth, Reference):
        return figures
    figures["errors"] = _errors(gradient, tangent, truth)
    exact = host_qcp(problem, truth.x, truth.y, truth.s)
    figures["errors_exact"] = _errors(vjp(exact), jvp(exact), truth)
    figures["error"] = max(figures["errors"].values())
    figures["error_exact"] = max(figures["errors_exact"].values())
    return figures


def host_qcp(problem: Problem, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> HostQCP:
    """The package's object for a solved problem, its structure built anew."""
    P, A = BCOO.from_scipy_sparse(problem.P), BCOO.from_scipy_sparse(problem.A)
    structure = QCPStructureCPU(P, A, problem.dims, psd_order="upper")
    return HostQCP(P, A, problem.q, problem.b, x, y, s, structure)


def functional(
    problem: Problem, truth: Reference | Face | None
) -> tuple[np.ndarray, Data]:
    """The truth's cotangent of `x` and direction of the data, or random ones."""
    if isinstance(truth, Reference):
        return truth.cotangent, truth.direction
    rng = np.random.default_rng(1)
    sizes = problem.P.nnz, problem.A.nnz, problem.n, problem.m
    cotangent = rng.normal(size=problem.n) if truth is None else truth.cotangent
    return cotangent, Data(*(rng.normal(size=size) for size in sizes))


def _matrices(
    problem: Problem, structure: QCPStructureCPU, P: Any, A: Any
) -> tuple[BCOO, BCOO]:
    return (
        structure.wrap(jnp.asarray(P), structure.P_pattern),
        structure.wrap(jnp.asarray(A), structure.A_pattern),
    )


def _jitted(
    qcp: HostQCP, problem: Problem, cotangent: np.ndarray, direction: Data
) -> dict[str, float]:
    structure = qcp.problem_structure

    def rebuilt(P, A, q, b, x, y, s) -> HostQCP:
        return HostQCP(*_matrices(problem, structure, P, A), q, b, x, y, s, structure)

    def vjp(values, dx):
        zero = jnp.zeros(problem.m)
        dP, dA, dq, db = rebuilt(*values).vjp(dx, zero, zero)
        return dP.data, dA.data, dq, db

    def jvp(values, data):
        dP, dA = _matrices(problem, structure, data.P, data.A)
        return rebuilt(*values).jvp(dP, dA, data.q, data.b)

    values = (qcp.P_values, qcp.A_values, qcp.q, qcp.b, qcp.x, qcp.y, qcp.s)
    figures = {}
    for name, function, argument in (
        ("vjp", vjp, jnp.asarray(cotangent)),
        ("jvp", jvp, jax.tree.map(jnp.asarray, direction)),
    ):
        jitted = jax.jit(function)
        _, seconds = once(
            lambda f=jitted, a=argument: jax.block_until_ready(f(values, a))
        )
        run: Callable[[], Any] = lambda f=jitted, a=argument: jax.block_until_ready(  # noqa: E731
            f(values, a)
        )
        figures[f"{name}_compile"] = seconds
        figures[f"{name}_jit"] = median_seconds(run)
    return figures


def _errors(gradient: Any, tangent: Any, reference: Reference) -> dict[str, float]:
    dP, dA, dq, db = gradient
    found = {"P": dP.data, "A": dA.data, "q": dq, "b": db}
    return by_part(found, reference.gradient._asdict()) | {
        "jvp": worst(tangent, reference.tangent)
    }
