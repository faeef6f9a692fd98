"""The forward pass of a solve: from data to a point that is known to be the solution.

The forward solver runs once, on the problem in units of its own. Newton steps take what
it finds to rounding errors. Where they do not get there, or the solver has given up, the
problem is solved again by Clarabel with the smallest tolerance, and polished again; in a
batch only the items that need it, and where none does this costs nothing.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from . import _native_batch, _native_search, _traced
from ._accuracy import accurate_error, all_finite
from ._compiled import in_programs
from ._condition import compute_if
from ._convexity import is_convex
from ._newton import newton
from ._range_space import RangeSpace
from ._scaling import in_own_units, Scaling
from ._sharding import vary_together
from .derivative import Data, Solution
from .forward import (
    AbstractBatchSolver,
    AbstractForwardSolver,
    AbstractHostSolver,
    Clarabel,
    Found,
    Function,
    Proximal,
    Start,
    Status,
)
from .forward._host import unfamiliar
from .linear_solve import FrozenSolver
from .linear_solve.dense_range import SharedSpace
from .structure import AbstractQCPStructure


# Clarabel with the smallest tolerance, and with tolerances of its certificates that it
# does not reach: a verdict of infeasibility that is right has been accepted before. The
# solver object is not reused, so that the last digits do not depend on earlier problems.
RESCUE = Clarabel(
    tol=1e-12,
    accept=1e-4,
    reuse=False,
    settings=(("tol_infeas_abs", 1e-15), ("tol_infeas_rel", 1e-15)),
)
# After these statuses nothing else is tried.
_FINAL = (
    *(Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED),
    *(Status.NOT_FINITE, Status.NOT_CONVEX),
)


def rescue(
    structure: AbstractQCPStructure, forward: AbstractForwardSolver
) -> Clarabel | None:
    """What is called for problems that `forward` does not solve: nothing if that is a
    user's function, whose word is the last, or if there are cones that are not for it.
    """
    alone = isinstance(forward, Function) or unfamiliar(structure)
    return None if alone else RESCUE


def is_native(
    structure: AbstractQCPStructure,
    forward: AbstractForwardSolver,
    solver: lx.AbstractLinearSolver,
    dtype: Any = float,
) -> bool:
    """Whether the extension does the forward pass, but for a solver on the host."""
    takes = isinstance(forward, (Proximal, AbstractHostSolver)) and _is_scaled(forward)
    return takes and in_programs(structure, solver, dtype)


def _host_solver(forward: AbstractForwardSolver) -> AbstractHostSolver | None:
    """The solver that a native search asks, and none for the proximal method."""
    return forward if isinstance(forward, AbstractHostSolver) else None


class Candidate(NamedTuple):
    """A point, its error, and whether no better one is looked for."""

    found: Found
    error: Float[Array, ""]
    settled: Bool[Array, ""]


def polish(
    structure: AbstractQCPStructure,
    data: Data,
    found: Found,
    solver: lx.AbstractLinearSolver,
    max_steps: int,
) -> Candidate:
    """What a forward solver has found, after Newton steps as long as they improve it, and
    the status that its error implies. If `max_steps` is zero, the solver's own status is
    taken.
    """
    status = jnp.asarray(found.status, jnp.int32)
    x, y, s = (jnp.asarray(part) for part in found[:3])
    error = jnp.zeros((), data[2].dtype)
    if max_steps:
        (x, y, s), error, _ = newton(
            structure, data, (x, y, s), solver, max_steps=max_steps, patience=_PATIENCE
        )
        accurate = error <= accurate_error(error.dtype)
        claimed = status == Status.SOLVED
        status = jnp.where(claimed, jnp.int32(Status.INACCURATE), status)
        status = jnp.where(accurate, jnp.int32(Status.SOLVED), status)
    found = Found(x, y, s, status, jnp.asarray(found.iterations, jnp.int32))
    return Candidate(found, error, _is_final(status))


def _is_final(status: Integer[Array, ""]) -> Bool[Array, ""]:
    return jnp.any(jnp.stack([status == final for final in _FINAL]))


_PATIENCE = 2


class _Prepared(NamedTuple):
    """A problem in units of its own, and where to start.

    - `finite`: whether all data are finite. If not, `data` are zero, so that nothing that
        follows sees a NaN.
    """

    data: Data
    start: Solution | None
    scaling: Scaling
    finite: Bool[Array, ""]


def _prepare(
    structure: AbstractQCPStructure, data: Data, start: Solution | None, scaled: bool
) -> _Prepared:
    """Unless `scaled`, the units are those of the data."""
    finite = all_finite(data)
    data = jax.tree.map(lambda part: jnp.where(finite, part, 0), data)
    if not scaled:
        _, _, q, b = data
        one = jnp.ones_like(q, shape=())
        scaling = Scaling(jnp.ones_like(q), jnp.ones_like(b), one)
    else:
        data, scaling = in_own_units(structure, data)
    start = None if start is None else scaling.scale(start)
    return _Prepared(data, start, scaling, finite)


def _is_scaled(forward: AbstractForwardSolver) -> bool:
    """Whether it gets problems in units of their own. A user's function gets the data."""
    return not isinstance(forward, Function)


def shared_space(structure: AbstractQCPStructure, data: Data) -> SharedSpace:
    """What of a dense problem the interior-point method makes in `search`, for the
    derivative: in one program the compiler makes it once.
    """
    prepared = _prepare(structure, data, None, True)
    P, A, _, _ = prepared.data
    P, A = structure.P_matrix(P).as_matrix(), structure.A_matrix(A).as_matrix()
    scaling = prepared.scaling
    return SharedSpace(RangeSpace.of(P, A), scaling.cols, scaling.rows)


def _begin(
    structure: AbstractQCPStructure, prepared: _Prepared, found: Found
) -> Candidate:
    dtype, finite = prepared.data[2].dtype, prepared.finite
    x, y, s = (jnp.asarray(part, dtype) for part in found[:3])
    status, iterations = (jnp.asarray(part, jnp.int32) for part in found[3:])
    convex = is_convex(structure, prepared.data[0])
    status = jnp.where(convex, status, jnp.int32(Status.NOT_CONVEX))
    status = jnp.where(finite, status, jnp.int32(Status.NOT_FINITE))
    worst = jnp.full_like(prepared.scaling.unit, jnp.inf)
    return Candidate(Found(x, y, s, status, iterations), worst, ~(finite & convex))


def _choose(best: Candidate, new: Candidate) -> Candidate:
    better = ~best.settled & (new.settled | ~(best.error <= new.error))
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), new, best)


def _conclude(prepared: _Prepared, best: Candidate) -> Found:
    """The solution in the units of the data; NaN where there is none."""
    x, y, s, status, iterations = best.found
    there = (status == Status.SOLVED) | (status == Status.INACCURATE)
    x, y, s = (jnp.asarray(part) for part in (x, y, s))
    x, y, s = prepared.scaling.restore((x, y, s))
    x, y, s = (jnp.where(there, part, jnp.nan) for part in (x, y, s))
    return Found(x, y, s, status, iterations)


class _State(NamedTuple):
    best: Candidate
    tries: Integer[Array, ""]


def search(
    structure: AbstractQCPStructure,
    forward: AbstractForwardSolver,
    data: Data,
    start: Solution | None,
    solver: lx.AbstractLinearSolver,
    max_steps: int,
) -> Found:
    """The solution of a problem; NaN where there is none."""
    other = rescue(structure, forward)
    data, start = vary_together((data, start))
    if is_native(structure, forward, solver, data[2].dtype):
        call = _traced.Call(
            structure,
            solver,
            steps=forward.max_steps if isinstance(forward, Proximal) else 0,
            patience=_PATIENCE,
            corrections=max_steps,
        )
        return _native_search.search(call, data, start, _host_solver(forward), other)
    prepared = _prepare(structure, data, start, _is_scaled(forward))
    first = None
    if prepared.start is not None:
        first = Start(prepared.start, ~prepared.finite)
    found = forward.solve(structure, prepared.data, first)
    found = vary_together((found, prepared.finite))[0]

    def again(found: Found, wanted: Bool[Array, ""]) -> Found:
        """Solves again if that is wanted, of a batch only the items where it is."""

        def rescue(found: Found, wanted: Array) -> Found:
            x, y, s = (jnp.asarray(part) for part in found[:3])
            return RESCUE.solve(structure, prepared.data, Start((x, y, s), ~wanted))

        return compute_if(wanted, rescue, (found, wanted), found)

    def unfinished(state: _State) -> Bool[Array, ""]:
        return ~state.best.settled & (state.tries < (1 if other is None else 2))

    def body(state: _State) -> _State:
        best, tries = state
        found = best.found
        if other is not None:
            found = again(found, (tries > 0) & ~best.settled)
        new = polish(structure, prepared.data, found, solver, max_steps)
        return _State(_choose(best, new), tries + 1)

    begin = _begin(structure, prepared, found)
    tries = jnp.zeros_like(begin.found.status)
    first_state = vary_together(_State(begin, tries))
    best = lax.while_loop(unfinished, body, first_state).best
    return _conclude(prepared, best)


def search_batch(
    structure: AbstractQCPStructure,
    forward: AbstractForwardSolver,
    data: Any,
    start: Any,
    solver: FrozenSolver,
    max_steps: int,
) -> Found:
    """`search` for a batch, outside of transformations: solvers on the host, and the
    extension, are called as they are.
    """
    other = rescue(structure, forward)
    if is_native(structure, forward, solver.rest.value):
        steps = forward.max_steps if isinstance(forward, Proximal) else 0
        limits = _native_batch.Limits(steps, _PATIENCE, max_steps)
        batch = _native_batch.Batch(structure, solver, len(data[2]), limits)
        return _native_batch.search(batch, data, start, _host_solver(forward), other)
    assert isinstance(forward, AbstractBatchSolver)
    prepared = _prepare_batch(structure, data, start, _is_scaled(forward))
    first = None
    if prepared.start is not None:
        first = Start(prepared.start, ~np.asarray(prepared.finite))
    found = forward.solve_batch(structure, prepared.data, first)
    best, concluded = _settle_batch(structure, prepared, found, solver, max_steps)
    settled = np.asarray(best.settled)
    if other is not None and not settled.all():
        x, y, s = best.found[:3]
        found = other.solve_batch(structure, prepared.data, Start((x, y, s), settled))
        concluded = _improve_batch(structure, prepared, best, found, solver, max_steps)
    return concluded


@partial(jax.jit, static_argnums=(0, 3))
def _prepare_batch(
    structure: AbstractQCPStructure, data: Any, start: Any, scaled: bool
) -> Any:
    return jax.vmap(lambda data, start: _prepare(structure, data, start, scaled))(
        data, start
    )


@partial(jax.jit, static_argnums=(0, 4))
def _settle_batch(
    structure: AbstractQCPStructure,
    prepared: Any,
    found: Any,
    solver: FrozenSolver,
    max_steps: int,
) -> tuple[Any, Any]:
    """What the forward solver has found, polished; and the solutions if that is all."""

    def settle(prepared: _Prepared, found: Found) -> tuple[Candidate, Found]:
        begin = _begin(structure, prepared, found)
        new = polish(structure, prepared.data, begin.found, solver.thaw(), max_steps)
        best = _choose(begin, new)
        return best, _conclude(prepared, best)

    return jax.vmap(settle)(prepared, found)


@partial(jax.jit, static_argnums=(0, 5))
def _improve_batch(
    structure: AbstractQCPStructure,
    prepared: Any,
    best: Any,
    found: Any,
    solver: FrozenSolver,
    max_steps: int,
) -> Any:
    """The solutions, with those that another solver has found."""

    def improve(prepared: _Prepared, best: Candidate, found: Found) -> Found:
        new = polish(structure, prepared.data, found, solver.thaw(), max_steps)
        return _conclude(prepared, _choose(best, new))

    return jax.vmap(improve)(prepared, best, found)
