"""What a QCP computes: functions of its arrays, compiled once for a structure."""

from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from .derivative import (
    adjoint_system,
    Data,
    pull_back,
    push_forward,
    Solution,
    SolutionDerivative,
)
from .kkt import KKTOperator
from .linear_solve import FrozenSolver
from .structure import AbstractQCPStructure


class Values(NamedTuple):
    """All that a QCP has besides its structure."""

    P: Float[Array, " nnzP"]
    A: Float[Array, " nnzA"]
    q: Float[Array, " n"]
    b: Float[Array, " m"]
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]


Smoothing: TypeAlias = Float[Array, ""] | None


def as_smoothing(value: Any) -> Smoothing:
    """`smoothing` as an array; None for zero, which is the exact derivative.

    **Raises:** `ValueError` if it is known and negative or not finite.
    """
    if not isinstance(value, Tracer):
        if np.ndim(value) or not 0 <= float(value) < np.inf:
            raise ValueError(f"smoothing: expected a number >= 0, got {value!r}")
        if float(value) == 0:
            return None
    return jnp.asarray(value, float)


def factorise(
    structure: AbstractQCPStructure,
    values: Values,
    solver: lx.AbstractLinearSolver,
    smoothing: Smoothing = None,
) -> tuple[KKTOperator, Any]:
    """`K`, and the solver's state for it. If `smoothing` is given, `D` is smoothed."""
    # Comparisons hide a NaN, as in an item of a batch whose solve has failed: then all
    # of its derivative is to be NaN.
    finite = jnp.stack([jnp.all(jnp.isfinite(part)) for part in values])
    poison = jnp.where(jnp.all(finite), 0, jnp.nan).astype(values.x.dtype)
    cone, v = structure.dual_cone, values.y - values.s
    if smoothing is None:
        jacobian = cone.jacobian(v)
    else:
        jacobian = cone.smoothed_jacobian(v, smoothing.astype(v.dtype))
    kkt = KKTOperator(
        structure.P_matrix(values.P),
        structure.A_matrix(values.A),
        jacobian.map(lambda eigenvalues: eigenvalues + poison),
    )
    # The rules of lineax take the state for a constant.
    return kkt, solver.init(jax.lax.stop_gradient(kkt), {})


def newton_system(
    kkt: KKTOperator, values: Values
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The right-hand side of a semismooth Newton step on the optimality conditions

        P x + A'Pi(v) + q = 0,    A x + Pi(v) - v = b        at v = y - s.

    Its system is that of `diffqcp.kkt`, with the residuals for `r1` and `-r2`. For a QP
    whose active set is right, the step ends at the exact solution.
    """
    v, y = values.y - values.s, _projected(kkt, values)
    dual_residual = kkt.P.mv(values.x) + kkt.A.transpose_mv(y) + values.q
    primal_residual = kkt.A.mv(values.x) + y - v - values.b
    return -dual_residual, -primal_residual


def _projected(kkt: KKTOperator, values: Values) -> Float[Array, " m"]:
    # Pi(v) = D v, since projections are homogeneous.
    return kkt.jacobian.mv(values.y - values.s)


def _polished(
    kkt: KKTOperator,
    values: Values,
    dx: Float[Array, " n"],
    dy: Float[Array, " m"],
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """`x` and `y` after the Newton step.

    One that changes them by more than a hundredth corrects no error of a solver: it
    comes from a `K` that is nearly singular, and is not taken.
    """
    x, y = values.x + dx, _projected(kkt, values) + dy
    taken = _close(x, values.x) & _close(y, values.y)
    return jnp.where(taken, x, values.x), jnp.where(taken, y, values.y)


def _close(new: Float[Array, " d"], old: Float[Array, " d"]) -> Bool[Array, ""]:
    return jnp.linalg.norm(new - old) <= 0.01 * jnp.linalg.norm(old)


@partial(jax.jit, static_argnames=("structure", "polish", "throw"))
def compute_derivative(
    solver: FrozenSolver,
    values: Values,
    smoothing: Smoothing,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
    throw: bool,
) -> SolutionDerivative:
    """`AbstractQCP.derivative`."""
    kkt, state = factorise(structure, values, solver.thaw(), smoothing)
    x, y = values.x, values.y
    if polish and smoothing is None:  # the Newton step is with the exact `D`
        dx, dy, _ = kkt.solve(*newton_system(kkt, values), solver.thaw(), state)
        x, y = _polished(kkt, values, dx, dy)
    return SolutionDerivative(kkt, x, y, solver, state, structure, throw)


@partial(jax.jit, static_argnames=("structure", "polish"))
def compute_jvp(
    solver: FrozenSolver,
    values: Values,
    data: Data,
    smoothing: Smoothing,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
) -> tuple[Solution, Bool[Array, ""]]:
    """`AbstractQCP.jvp`, and whether the system was solved."""
    operator = compute_derivative(
        solver, values, smoothing, structure=structure, polish=polish, throw=False
    )
    return push_forward(operator, data)


@partial(jax.jit, static_argnames=("structure", "polish"))
def compute_vjp(
    solver: FrozenSolver,
    values: Values,
    cotangents: Solution,
    smoothing: Smoothing,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
) -> tuple[Data, Bool[Array, ""]]:
    """`AbstractQCP.vjp`, and whether the system was solved."""
    kkt, state = factorise(structure, values, solver.thaw(), smoothing)
    x, y = values.x, values.y

    def solve(upper, dual):
        return kkt.solve(upper, dual, solver.thaw(), state)

    system = adjoint_system(kkt, cotangents)
    if polish and smoothing is None:
        # Neither right-hand side needs the solution of the other: solve for both at once.
        both = jax.tree.map(
            lambda *parts: jnp.stack(parts), system, newton_system(kkt, values)
        )
        (w, dx), (u, dy), (solved, _) = jax.vmap(solve)(*both)
        x, y = _polished(kkt, values, dx, dy)
    else:
        w, u, solved = solve(*system)
    return pull_back(structure, x, y, cotangents, w, u), solved
