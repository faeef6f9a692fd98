"""What a QCP computes: functions of its arrays, compiled once for a structure."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
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


def factorise(
    structure: AbstractQCPStructure, values: Values, solver: lx.AbstractLinearSolver
) -> tuple[KKTOperator, Any]:
    """`K`, and the solver's state for it."""
    # Comparisons hide a NaN, as in an item of a batch whose solve has failed: then all
    # of its derivative is to be NaN.
    finite = jnp.stack([jnp.all(jnp.isfinite(part)) for part in values])
    poison = jnp.where(jnp.all(finite), 0, jnp.nan).astype(values.x.dtype)
    jacobian = structure.dual_cone.jacobian(values.y - values.s)
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
    change = new - old
    return jnp.vdot(change, change) <= 1e-4 * jnp.vdot(old, old)


@partial(jax.jit, static_argnames=("structure", "polish", "throw"))
def compute_derivative(
    solver: FrozenSolver,
    values: Values,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
    throw: bool,
) -> SolutionDerivative:
    """`AbstractQCP.derivative`."""
    kkt, state = factorise(structure, values, solver.thaw())
    x, y = values.x, values.y
    if polish:
        dx, dy, _ = kkt.solve(*newton_system(kkt, values), solver.thaw(), state)
        x, y = _polished(kkt, values, dx, dy)
    return SolutionDerivative(kkt, x, y, solver, state, structure, throw)


@partial(jax.jit, static_argnames=("structure", "polish"))
def compute_jvp(
    solver: FrozenSolver,
    values: Values,
    data: Data,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
) -> tuple[Solution, Bool[Array, ""]]:
    """`AbstractQCP.jvp`, and whether the system was solved."""
    operator = compute_derivative(
        solver, values, structure=structure, polish=polish, throw=False
    )
    return push_forward(operator, data)


@partial(jax.jit, static_argnames=("structure", "polish"))
def compute_vjp(
    solver: FrozenSolver,
    values: Values,
    cotangents: Solution,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
) -> tuple[Data, Bool[Array, ""]]:
    """`AbstractQCP.vjp`, and whether the system was solved."""
    kkt, state = factorise(structure, values, solver.thaw())
    x, y = values.x, values.y

    def solve(upper, dual):
        return kkt.solve(upper, dual, solver.thaw(), state)

    system = adjoint_system(kkt, cotangents)
    if polish:
        # Neither right-hand side needs the solution of the other: solve for both at once.
        both = jax.tree.map(
            lambda *parts: jnp.stack(parts), system, newton_system(kkt, values)
        )
        (w, dx), (u, dy), (solved, _) = jax.vmap(solve)(*both)
        x, y = _polished(kkt, values, dx, dy)
    else:
        w, u, solved = solve(*system)
    return pull_back(structure, x, y, cotangents, w, u), solved
