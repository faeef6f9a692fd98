from typing import NamedTuple

import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Integer

from ._differentiate import linearise, Values
from .derivative import Data, Solution
from .structure import AbstractQCPStructure


class _Iterate(NamedTuple):
    solution: Solution
    error: Float[Array, ""]
    finished: Bool[Array, ""]
    steps: Integer[Array, ""]


def polish(
    structure: AbstractQCPStructure,
    data: Data,
    solution: Solution,
    solver: lx.AbstractLinearSolver,
    max_steps: int,
) -> Solution:
    """Semismooth Newton's method on the optimality conditions, from a nearby solution.

        P x + A'Pi(v) + q = 0,    A x + Pi(v) - v = b        with v = y - s.

    Each step factorises `K` at its own point. The steps end when the residual is at the
    level of rounding errors, or when one does not reduce it, and that one is not taken,
    so the result is never worse than `(x, Pi(v), Pi(v) - v)`. (Ali, Wong and Kolter, "A
    semismooth Newton method for fast, generic convex programming", ICML 2017.)
    """

    eps = float(jnp.finfo(data[2].dtype).eps)

    def at(x: Float[Array, " n"], v: Float[Array, " m"]) -> tuple[Solution, Array, Array]:
        """The point, the norm of its residual, and whether that is of rounding errors."""
        y = structure.dual_cone.project(v)
        s = y - v
        P, A, q, b = data
        A_matrix = structure.A_matrix(A)
        Px, pulled, Ax = structure.P_mv(P, x), A_matrix.transpose_mv(y), A_matrix.mv(x)
        error = jnp.linalg.norm(jnp.concatenate([Px + pulled + q, Ax + s - b]))
        sizes = jnp.abs(Px) + jnp.abs(pulled) + jnp.abs(q)
        sizes = jnp.concatenate([sizes, jnp.abs(Ax) + jnp.abs(s) + jnp.abs(b)])
        return (x, y, s), error, error <= 100 * eps * jnp.linalg.norm(sizes)

    def unfinished(state: _Iterate) -> Bool[Array, ""]:
        return ~state.finished & (state.steps < max_steps)

    def body(state: _Iterate) -> _Iterate:
        x, y, s = state.solution
        linearised = linearise(structure, Values(*data, x, y, s), solver)
        kkt, (upper, dual) = linearised.kkt, linearised.newton
        dx, dy, _ = kkt.solve(upper, dual, solver, linearised.state)
        new, error, exact = at(x + dx, y + dy - s - (dual - kkt.A.mv(dx)))
        better = error < state.error
        kept = lax.cond(better, lambda: new, lambda: state.solution)
        error = jnp.minimum(error, state.error)
        return _Iterate(kept, error, exact | ~better, state.steps + 1)

    x, y, s = solution
    start, error, exact = at(x, y - s)
    first = _Iterate(start, error, exact, jnp.asarray(0))
    return lax.while_loop(unfinished, body, first).solution
