"""What a QCP computes: functions of its arrays, compiled once for a structure."""

from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from ._checks import as_numbers
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
        number = value
        if not isinstance(value, (int, float)):
            number = as_numbers("smoothing", value, "a number >= 0")
        if np.ndim(number) or not 0 <= float(number) < np.inf:
            raise ValueError(f"smoothing: expected a number >= 0, got {value!r}")
        if float(value) == 0:
            return None
    return jnp.asarray(value, float)


class Linearised(NamedTuple):
    """A QCP around its solution.

    - `kkt`, `state`: `K`, and the solver's state for it.
    - `y`: the projection of `y - s`.
    - `newton`: what a semismooth Newton step solves for; see `linearise`.

    If `D` is smoothed, `y` and `newton` are not what they are called.
    """

    kkt: KKTOperator
    state: Any
    y: Float[Array, " m"]
    newton: tuple[Float[Array, " n"], Float[Array, " m"]]


def linearise(
    structure: AbstractQCPStructure,
    values: Values,
    solver: lx.AbstractLinearSolver,
    smoothing: Smoothing = None,
) -> Linearised:
    """`K`, factorised, and the right-hand side of a semismooth Newton step on

        P x + A'Pi(v) + q = 0,    A x + Pi(v) - v = b        at v = y - s.

    Its system is that of `diffqcp.kkt`, with the residuals for `r1` and `-r2`. For a QP
    whose active set is right, the step ends at the exact solution.
    """
    x, v = values.x, values.y - values.s
    P, A = structure.P_matrix(values.P), structure.A_matrix(values.A)
    if smoothing is None:
        jacobian = structure.dual_cone.jacobian(v)
    else:
        jacobian = structure.dual_cone.smoothed_jacobian(v, smoothing.astype(v.dtype))
    y = jacobian.mv(v)  # projections are homogeneous
    dual_residual = P.mv(x) + A.transpose_mv(y) + values.q
    primal_residual = A.mv(x) + y - v - values.b
    # Comparisons hide a NaN, as in an item of a batch whose solve has failed: then all
    # of its derivative is to be NaN. The residuals hide none, but where `P` and `A` have
    # a column without entries.
    poison = 0 * sum(jnp.vdot(part, part) for part in (dual_residual, primal_residual, x))
    kkt = KKTOperator(P, A, jacobian.map(lambda eigenvalues: eigenvalues + poison))
    # The rules of lineax take the state for a constant.
    state = solver.init(jax.lax.stop_gradient(kkt), {})
    return Linearised(kkt, state, y, (-dual_residual, -primal_residual))


def _polished(
    linearised: Linearised,
    values: Values,
    dx: Float[Array, " n"],
    dy: Float[Array, " m"],
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """`x` and `y` after the Newton step.

    One that changes them by more than a hundredth corrects no error of a solver: it
    comes from a `K` that is nearly singular, and is not taken.
    """
    x, y = values.x + dx, linearised.y + dy
    taken = _close(x, values.x) & _close(y, values.y)
    return jnp.where(taken, x, values.x), jnp.where(taken, y, values.y)


def _close(new: Float[Array, " d"], old: Float[Array, " d"]) -> Bool[Array, ""]:
    change = new - old
    return jnp.vdot(change, change) <= 1e-4 * jnp.vdot(old, old)


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
    linearised = linearise(structure, values, solver.thaw(), smoothing)
    kkt, state = linearised.kkt, linearised.state
    x, y = values.x, values.y
    if polish and smoothing is None:  # the Newton step is with the exact `D`
        dx, dy, _ = kkt.solve(*linearised.newton, solver.thaw(), state)
        x, y = _polished(linearised, values, dx, dy)
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
    linearised = linearise(structure, values, solver.thaw(), smoothing)
    kkt, x, y = linearised.kkt, values.x, values.y

    def solve(upper, dual):
        return kkt.solve(upper, dual, solver.thaw(), linearised.state)

    system = adjoint_system(kkt, cotangents)
    if polish and smoothing is None:
        # Neither right-hand side needs the solution of the other: solve for both at once.
        both = jax.tree.map(lambda *parts: jnp.stack(parts), system, linearised.newton)
        (w, dx), (u, dy), (solved, _) = jax.vmap(solve)(*both)
        x, y = _polished(linearised, values, dx, dy)
    else:
        w, u, solved = solve(*system)
    return pull_back(structure, x, y, cotangents, w, u), solved
