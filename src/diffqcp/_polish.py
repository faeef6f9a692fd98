from typing import NamedTuple

import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Integer

from ._differentiate import factorise, newton_system, Values
from .derivative import Data, Solution
from .structure import AbstractQCPStructure


class _Iterate(NamedTuple):
    solution: Solution
    error: Float[Array, ""]
    better: Bool[Array, ""]
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

    Each step factorises `K` at its own point. The steps end when one does not reduce the
    residual, and that one is not taken, so the result is never worse than
    `(x, Pi(v), Pi(v) - v)`. (Ali, Wong and Kolter, "A semismooth Newton method for fast,
    generic convex programming", ICML 2017.)
    """

    def at(x: Float[Array, " n"], v: Float[Array, " m"]) -> tuple[Solution, Array]:
        y = structure.dual_cone.project(v)
        s = y - v
        P, A, q, b = data
        A_matrix = structure.A_matrix(A)
        dual = structure.P_mv(P, x) + A_matrix.transpose_mv(y) + q
        primal = A_matrix.mv(x) + s - b
        return (x, y, s), jnp.linalg.norm(jnp.concatenate([dual, primal]))

    def unfinished(state: _Iterate) -> Bool[Array, ""]:
        return state.better & (state.steps < max_steps)

    def body(state: _Iterate) -> _Iterate:
        values = Values(*data, *state.solution)
        kkt, factors = factorise(structure, values, solver)
        upper, dual = newton_system(kkt, values)
        dx, dy, _ = kkt.solve(upper, dual, solver, factors)
        x, y, s = state.solution
        new, error = at(x + dx, y + dy - s - (dual - kkt.A.mv(dx)))
        better = error < state.error
        kept = lax.cond(better, lambda: new, lambda: state.solution)
        error = jnp.minimum(error, state.error)
        return _Iterate(kept, error, better, state.steps + 1)

    x, y, s = solution
    start, error = at(x, y - s)
    first = _Iterate(start, error, jnp.asarray(True), jnp.asarray(0))
    return lax.while_loop(unfinished, body, first).solution
