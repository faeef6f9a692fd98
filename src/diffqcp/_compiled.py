"""Derivatives by the compiled extension, without tracing or compiling anything.

`is_compiled` decides whether a computation goes this way. If it does, it is one call of
the extension on NumPy arrays (`native/differentiate.hpp`): from known values, on CPUs, with
the solver of sparse systems. Everything else is JAX's: what is traced, other platforms,
other solvers, and installations without a compiler. Both compute the same by the same
formulas, so each is the check of the other.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from ._problem import extension, problem_of
from .linear_solve import AutoSolver, FrozenSolver, SparseLDL
from .structure import AbstractQCPStructure


def is_compiled(solver: FrozenSolver, *arrays: Any) -> bool:
    """Whether the extension computes what depends on these arrays, with this solver."""
    chosen = solver.rest.value
    return (
        extension is not None
        and type(chosen) in (AutoSolver, SparseLDL)
        and jax.default_backend() == "cpu"
        and not any(isinstance(array, Tracer) for array in arrays)
        and np.dtype(arrays[0].dtype) in _PRECISIONS
    )


_PRECISIONS = {np.dtype(kind): float(np.finfo(kind).eps) for kind in ("f4", "f8")}


def _options(
    solver: FrozenSolver, dtype: Any, polish: bool, smoothing: float
) -> tuple[float, bool, bool, float, int, float, bool, float]:
    """What the extension is told, in the order of `Settings` in native/host.hpp."""
    chosen, eps = solver.rest.value, _PRECISIONS[np.dtype(dtype)]
    if not isinstance(chosen, SparseLDL):
        chosen = SparseLDL(well_posed=chosen.well_posed)
    adapt = chosen.regularisation is None and dtype == np.float64
    relative = chosen.relative_shift(dtype)
    tol = 100 * eps if chosen.tol is None else chosen.tol
    steps = chosen.max_steps
    return relative, adapt, chosen.well_posed, tol, steps, eps, polish, smoothing


class Report(NamedTuple):
    """Whether the system was solved, and the error of the solution."""

    solved: bool
    error: float


def vjp(
    structure: AbstractQCPStructure,
    solver: FrozenSolver,
    values: tuple[Any, ...],
    cotangents: tuple[Any, ...],
    polish: bool,
    smoothing: float,
) -> tuple[list[np.ndarray], Report]:
    """The gradients of the data, and how they came about."""
    sizes = values[0].size, values[1].size, structure.n, structure.m
    out = [np.empty(size) for size in sizes]
    options = _options(solver, values[0].dtype, polish, smoothing)
    handle = problem_of(structure).handle
    report = extension.vjp(handle, options, _doubles(values), _doubles(cotangents), tuple(out))
    return out, Report(*report)


def jvp(
    structure: AbstractQCPStructure,
    solver: FrozenSolver,
    values: tuple[Any, ...],
    change: tuple[Any, ...],
    polish: bool,
    smoothing: float,
) -> tuple[list[np.ndarray], Report]:
    """The change of the solution, and how it came about."""
    out = [np.empty(size) for size in (structure.n, structure.m, structure.m)]
    options = _options(solver, values[0].dtype, polish, smoothing)
    handle = problem_of(structure).handle
    report = extension.jvp(handle, options, _doubles(values), _doubles(change), tuple(out))
    return out, Report(*report)


def _doubles(arrays: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(array, np.float64, order="C") for array in arrays)
