from collections.abc import Callable
from typing import NamedTuple

import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from . import _traced
from ._accuracy import exact_error, scaled_error
from ._compiled import in_programs
from ._differentiate import linearise, Values
from ._sharding import vary_together
from ._structure_base import AbstractStructure, LocalData
from .derivative import Data, Solution
from .kkt import KKTOperator
from .structure import AbstractQCPStructure


class _Point(NamedTuple):
    solution: Solution
    error: Float[Array, ""]


class _State(NamedTuple):
    point: _Point
    best: _Point
    misses: Integer[Array, ""]
    steps: Integer[Array, ""]


def newton(
    structure: AbstractQCPStructure,
    data: Data,
    start: Solution,
    solver: lx.AbstractLinearSolver,
    *,
    max_steps: int,
    patience: int,
) -> tuple[Solution, Float[Array, ""], Integer[Array, ""]]:
    """Semismooth Newton's method on the optimality conditions.

        P x + A'Pi(v) + q = 0,    A x + Pi(v) - v = b        with v = y - s.

    Each step factorises `K` at its own point. The steps end when the residual is at the
    level of rounding errors, or when more than `patience` of them have not reduced it.
    (Ali, Wong and Kolter, "A semismooth Newton method for fast, generic convex
    programming", ICML 2017.)

    **Returns:** the best point, never worse than `(x, Pi(v), Pi(v) - v)` of the start;
    its error, as [`diffqcp._accuracy.scaled_error`][] has it; and how many steps were
    taken. The problem is to be in units of its own.
    """
    if in_programs(structure, solver, start[0].dtype):
        call = _traced.Call(structure, solver, steps=max_steps, patience=patience)
        return _traced.newton(call, data, start)
    fixed, start = vary_together((data, start))
    return newton_along(
        *(structure, lambda x, y: fixed, start, solver),
        max_steps=max_steps,
        patience=patience,
    )


def newton_along(
    structure: AbstractStructure,
    local: Callable[[Array, Array], LocalData],
    start: Solution,
    solver: lx.AbstractLinearSolver,
    *,
    max_steps: int,
    patience: int,
) -> tuple[Solution, Float[Array, ""], Integer[Array, ""]]:
    """As `newton`, where the QCP stands for another problem, and is another one at each
    point.

    **Arguments:**

    - `local`: the QCP as a function of `x` and `y`.
    """
    start = vary_together(start)
    exact = exact_error(start[0].dtype)

    def at(x: Float[Array, " n"], v: Float[Array, " m"]) -> _Point:
        y = structure.dual_cone.project(v)
        P, A, q, b = data = local(x, y)
        A_matrix = structure.A_matrix(A)
        dual = structure.P_mv(P, x) + A_matrix.transpose_mv(y) + q
        solution = (x, y, y - v)
        residuals = dual, A_matrix.mv(x) + solution[2] - b
        return _Point(solution, scaled_error(structure, data, solution, residuals))

    def unfinished(state: _State) -> Bool[Array, ""]:
        point, _, misses, steps = state
        going = (point.error > exact) & jnp.isfinite(point.error)
        return going & (misses <= patience) & (steps < max_steps)

    def body(state: _State) -> _State:
        x, y, s = state.point.solution
        # In a batch this is computed for items that are finished, too, and not used. NaN
        # lets their factorisations return at once.
        x = jnp.where(unfinished(state), x, jnp.nan)
        linearised = linearise(structure, Values(*local(x, y), x, y, s), solver)
        kkt, (upper, dual) = linearised.kkt, linearised.newton
        dx, dy, _ = kkt.solve(upper, dual, solver, linearised.state)
        point = at(x + dx, y + dy - s - (dual - kkt.A.mv(dx)))
        best = lax.cond(point.error < state.best.error, lambda: point, lambda: state.best)
        missed = ~(point.error < state.point.error)
        misses = state.misses + missed.astype(state.misses.dtype)
        return _State(point, best, misses, state.steps + 1)

    x, y, s = start
    point = at(x, y - s)
    none = jnp.zeros_like(point.error, dtype=jnp.int32)
    last = lax.while_loop(unfinished, body, _State(point, point, none, none))
    return last.best.solution, last.best.error, last.steps


def central_point(
    structure: AbstractQCPStructure, data: Data, solver: lx.AbstractLinearSolver
) -> Solution:
    """Where to start without a nearby point: the solution with `v / 2` for `Pi(v)`, but
    with `v` in the rows of zero cones. Then `x` minimises

        1/2 x'Px + q'x + 1/2 |A x - b|^2

    over the other rows, as at the start of interior-point methods. (Vandenberghe, "The
    CVXOPT linear and quadratic cone program solvers", 2010, section 5.3.)
    """
    if in_programs(structure, solver, data[2].dtype):
        return _traced.central_point(_traced.Call(structure, solver), data)
    P, A, q, b = data
    zero = np.arange(structure.m) < structure.dims["z"]
    jacobian = structure.dual_cone.jacobian(jnp.zeros_like(b))
    halves = jnp.where(zero, 1.0, 0.5).astype(b.dtype)
    jacobian = jacobian.map(lambda _: halves)
    kkt = KKTOperator(structure.P_matrix(P), structure.A_matrix(A), jacobian)
    x, y, _ = kkt.solve(-q, b, solver, solver.init(kkt, {}))
    return x, y, b - kkt.A.mv(x)
