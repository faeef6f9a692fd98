"""The smallest shift of the right-hand side that makes constraints satisfiable."""

from typing import NamedTuple

import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from .. import _traced
from .._compiled import in_programs
from .._scaling import block_max
from .._sharding import vary_together
from ..structure import AbstractQCPStructure
from ._base import Status
from ._line_search import line_search
from ._systems import choose, largest, Problem


_RUNNING = -1  # no status yet


class _Shift(NamedTuple):
    """`x`, and the gradient `A't` of half the square of the distance."""

    x: Float[Array, " n"]
    Ax: Float[Array, " m"]
    t: Float[Array, " m"]
    gradient: Float[Array, " n"]
    status: Integer[Array, ""]
    steps: Integer[Array, ""]


def least_shift(
    structure: AbstractQCPStructure,
    A: Float[Array, " nnzA"],
    b: Float[Array, " m"],
    inside: np.ndarray,
    solver: lx.AbstractLinearSolver,
    max_steps: int,
) -> tuple[Float[Array, " m"], Bool[Array, ""], Integer[Array, ""]]:
    """The smallest `t` for which `A x + s = b + t` with `s` in `K` has a solution: the
    minimum of `|Pi(A x - b)|^2 / 2`, by Newton steps with a line search, as above with
    `y_k = 0` and `rho = 1`. Blocks of `t` that are rounding errors are zero.

    **Arguments:**

    - `inside`: a point inside of `K`, zero in the rows of zero cones.

    **Returns:** `t`, whether it is known to be that, and the number of steps.
    """
    if in_programs(structure, solver, b.dtype):
        call = _traced.Call(structure, solver, steps=max_steps)
        return _traced.least_shift(call, A, b, inside)
    eps = float(jnp.finfo(b.dtype).eps)
    cols = structure.A_matrix(A).col_sizes(jnp.ones_like(b))
    cols = 1 / jnp.where(cols > 0, cols, 1)
    unit = largest(b)
    unit = jnp.where(unit > 0, unit, 1)
    b = b / unit
    entries = A * cols[structure.A_pattern.cols]
    nothing = jnp.zeros(structure.P_pattern.nnz, b.dtype), jnp.zeros_like(cols)
    data = nothing[0], entries, nothing[1], b
    problem = Problem.make(structure, data, solver)
    small = eps**0.45
    sigma, inward = jnp.full_like(unit, small), small * jnp.asarray(inside, b.dtype)

    def unfinished(state: _Shift) -> Bool[Array, ""]:
        return (state.status == _RUNNING) & (state.steps < max_steps)

    def body(state: _Shift) -> _Shift:
        place = state.Ax - b
        t = problem.cone.project(place)
        gradient = problem.A.transpose_mv(t)
        # Constraints that the last step has satisfied are at zero up to rounding errors.
        # Those that the next one would violate again at once are to count as active, and
        # so all of them do: otherwise many steps are taken to and fro.
        jacobian = problem.cone.jacobian(place + inward)
        halved = jacobian.map(lambda lam: lam / (1 + lam))
        # As in `minimise`, items that are finished are factorised at once.
        own_sigma = jnp.where(unfinished(state), sigma, jnp.nan)
        system = problem.factorise(halved, own_sigma)
        d, _, _ = system.solve(-gradient, jnp.zeros_like(b))
        first = gradient @ d
        d = jnp.where(jnp.isfinite(first) & (first < 0), d, -gradient)
        first = gradient @ d
        Ad = problem.A.mv(d)
        terms = first - t @ Ad, sigma * (d @ d), Ad, first
        length, _, t = line_search(problem, terms, place, Ad, jnp.asarray(False))
        x = state.x + length * d
        Ax, gradient = problem.A.mv(x), problem.A.transpose_mv(t)
        floor = 10 * eps * (1 + largest(x))
        done = (largest(gradient) <= floor) | (largest(t) <= floor)
        # At the level of rounding errors no step improves any more.
        stalled = largest(gradient) > 0.5 * largest(state.gradient)
        done |= stalled & (largest(state.gradient) <= _STALLED * floor)
        still = largest(length * d) <= eps * largest(x)
        status = jnp.where(done | still, Status.SOLVED, _RUNNING).astype(jnp.int32)
        new = _Shift(x, Ax, t, gradient, status, state.steps + 1)
        return choose(unfinished(state), new, state)

    zero = jnp.zeros_like(cols)
    none = jnp.full_like(unit, _RUNNING, dtype=jnp.int32)
    far = jnp.full_like(cols, jnp.inf)
    state = _Shift(zero, jnp.zeros_like(b), b, far, none, jnp.zeros_like(none))
    state = lax.while_loop(unfinished, body, vary_together(state))
    t, size = state.t, 1 + largest(state.x)
    noise = jnp.sum(jnp.abs(state.gradient)) * size
    tiny = largest(t) <= _NOISE * eps * size
    proven = (t @ t >= _PROVEN * noise) & (state.status == Status.SOLVED)
    t = jnp.where(block_max(structure, jnp.abs(t)) > _NOISE * eps * size, t, 0)
    return unit * jnp.where(tiny, 0, t), tiny | proven, state.steps


_NOISE, _PROVEN = 1e4, 1e3
_STALLED = 100
