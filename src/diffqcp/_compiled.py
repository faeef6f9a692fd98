"""Derivatives by the compiled extension, without tracing or compiling anything.

`is_compiled` decides whether a computation goes this way. If it does, it is one call of
the extension on NumPy arrays (`native/differentiate.hpp`): from known values, on CPUs,
with the solver of sparse systems, for cones that the extension has. Under transformations
of JAX `in_programs` decides whether the same functions are called from the program
(`diffqcp._traced`). Everything else is JAX's: other platforms, solvers and cones,
derivatives of derivatives, and installations without a compiler. All compute the same by
the same formulas, so each is the check of the others.
"""

import functools
from typing import Any, cast, NamedTuple

import jax
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ._arrays import as_jax, as_jax_like, empty
from ._extension import extension
from ._problem import is_known, problem_of
from .linear_solve import AutoSolver, FrozenSolver, SparseLDL
from .structure import AbstractQCPStructure


def is_compiled(
    structure: AbstractQCPStructure, solver: FrozenSolver, *arrays: Any
) -> bool:
    """Whether the extension computes what depends on these arrays, with this solver."""
    return in_programs(structure, solver.rest.value, arrays[0].dtype) and not any(
        [isinstance(array, Tracer) for array in arrays]
    )


def in_programs(
    structure: AbstractQCPStructure,
    solver: lx.AbstractLinearSolver | None = None,
    dtype: Any = float,
) -> bool:
    """Whether the extension computes with this solver, or by default, where values are
    not known.
    """
    return (
        is_known(structure)
        and (solver is None or type(solver) in (AutoSolver, SparseLDL))
        and jax.default_backend() == "cpu"
        and np.dtype(dtype) in _PRECISIONS
    )


_PRECISIONS = {np.dtype(kind): float(np.finfo(kind).eps) for kind in ("f4", "f8")}


def _solver_options(solver: FrozenSolver, dtype: Any) -> tuple[Any, ...]:
    return _known_options(solver.rest, np.dtype(dtype))


@functools.lru_cache(maxsize=32)
def _known_options(rest: Any, dtype: np.dtype) -> tuple[Any, ...]:
    return ldl_options(rest.value, dtype)


def ldl_options(solver: lx.AbstractLinearSolver, dtype: Any) -> tuple[Any, ...]:
    """What the extension is told of the solver, in the order of `Options` in
    native/system.hpp.
    """
    chosen, eps = cast(AutoSolver | SparseLDL, solver), _PRECISIONS[np.dtype(dtype)]
    if not isinstance(chosen, SparseLDL):
        chosen = SparseLDL(well_posed=chosen.well_posed)
    adapt = chosen.regularisation is None and dtype == np.float64
    tol = 100 * eps if chosen.tol is None else chosen.tol
    relative = chosen.relative_shift(dtype)
    worth = _WORTH if isinstance(solver, AutoSolver) else float("inf")
    return relative, adapt, chosen.well_posed, tol, chosen.max_steps, eps, worth


# From so many products with K in the time of a factorisation on, the method of minimal
# residuals is tried before it: it usually takes 100 to 200 in all.
_WORTH = 100.0


class Report(NamedTuple):
    """Whether the system was solved, and the error of the solution, which is zero if no
    Newton steps were asked for.
    """

    solved: bool
    error: float


class Task(NamedTuple):
    """What is differentiated, and how.

    - `values`: those of a QCP, in the order of `diffqcp._differentiate.Values`.
    """

    structure: AbstractQCPStructure
    solver: FrozenSolver
    values: tuple[Any, ...]
    polish: bool
    smoothing: float

    def options(self) -> tuple[Any, ...]:
        """What the extension is told, in the order of `Settings` in native/host.hpp."""
        dtype = self.values[0].dtype
        return (*_solver_options(self.solver, dtype), self.polish, self.smoothing)

    def call(self, function: Any, perturbation: Any, *sizes: int) -> Any:
        """`function` of the extension, and its results of these sizes."""
        out = empty(*sizes)
        handle = problem_of(self.structure).handle
        given = doubles(self.values)
        report = function(handle, self.options(), given, doubles(perturbation), out)
        return as_jax_like(out, self.values[0]), Report(*report)


def vjp(task: Task, cotangents: tuple[Any, ...]) -> tuple[list[Array], Report]:
    """The gradients of the data, and how they came about."""
    P, A, q, b, *_ = task.values
    return task.call(extension().vjp, cotangents, P.size, A.size, q.size, b.size)


def jvp(task: Task, change: tuple[Any, ...]) -> tuple[list[Array], Report]:
    """The change of the solution, and how it came about."""
    n, m = task.structure.n, task.structure.m
    return task.call(extension().jvp, change, n, m, m)


class Linearised(NamedTuple):
    """What a derivative is built of, as arrays of JAX.

    - `lam`, `frames`: `D`, as `diffqcp._problem` has it; the frames are NumPy's.
    - `K`, `words`, `singular`, `shift`: as the solver's state has them.
    - `A`, `x`, `y`: those that the derivative is taken at.
    """

    lam: Any
    frames: Any
    K: Any
    words: Any
    singular: Any
    shift: Any
    A: Any
    x: Any
    y: Any


def linearise(task: Task) -> tuple[Linearised, Report]:
    """`K` at the solution, factorised, after the Newton steps that help."""
    problem, n, m = problem_of(task.structure), task.structure.n, task.structure.m
    sizes = m, problem.frames, problem.entries, problem.fill
    state = empty(*sizes)
    point = empty(n + m, task.values[1].size, n, m)
    singular, solved, error = extension().linearise(
        problem.handle, task.options(), doubles(task.values), state, point
    )
    lam, frames, K, factor = state
    lam, K, shift, A, x, y = as_jax_like((lam, K, *point), task.values[0])
    words = as_jax(factor.view(np.uint32))
    found = Linearised(lam, frames, K, words, as_jax(np.array(singular)), shift, A, x, y)
    return found, Report(solved, error)


def apply(
    structure: AbstractQCPStructure,
    solver: FrozenSolver,
    point: Linearised,
    vector: tuple[Any, ...],
    transposed: bool,
) -> tuple[list[Array], bool]:
    """The derivative, or its transpose, times a vector; and whether it was solved."""
    n, m, dtype = structure.n, structure.m, point.x.dtype
    function, sizes = extension().push_forward, (n, m, m)
    if transposed:
        P = structure.P_pattern.nnz
        function, sizes = extension().pull_back, (P, point.A.size, n, m)
    out = empty(*sizes)
    words = np.asarray(point.words).view(np.float64)
    solved = function(
        problem_of(structure).handle,
        (*_solver_options(solver, dtype), False, 0.0),
        (*doubles((point.lam, point.frames, point.K)), words),
        bool(point.singular),
        doubles((point.A, point.x, point.y)),
        doubles(vector),
        out,
    )
    return as_jax_like(out, point.x), solved


def doubles(arrays: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """As the extension takes them."""
    return tuple([np.asarray(array, np.float64) for array in arrays])
