"""Solves and derivatives of batches by the compiled extension, without XLA: the
computations of `diffqcp._traced` on arrays of NumPy in float64, on threads.
"""

from typing import Any, NamedTuple

import numpy as np

from ._compiled import ldl_options
from ._extension import extension
from ._problem import problem_of
from ._scaling import Scaling
from .forward import AbstractHostSolver, Clarabel, Found, Start
from .forward._host import cores
from .linear_solve import FrozenSolver
from .structure import AbstractQCPStructure


class Limits(NamedTuple):
    """The most steps of a method, after how many steps without an improvement Newton's
    method ends, and the most steps of Newton's method after another one.
    """

    steps: int = 0
    patience: int = 0
    corrections: int = 0


class Batch(NamedTuple):
    """Problems of one structure, and how they are solved and differentiated."""

    structure: AbstractQCPStructure
    solver: FrozenSolver
    size: int
    limits: Limits = Limits()
    smoothing: float = 0.0

    def __call__(
        self, function: Any, arguments: Any, *sizes: int
    ) -> tuple[np.ndarray, ...]:
        """The results of a function of native/batches.hpp, of these sizes for an item."""
        inputs = [np.ascontiguousarray(part, np.float64) for part in arguments]
        out = [np.empty((self.size, size)) for size in sizes]
        options = ldl_options(self.solver.rest.value, np.dtype(float))
        function(
            problem_of(self.structure).handle,
            (*options, False, self.smoothing),
            tuple(self.limits),
            self.size,
            min(cores(), self.size),
            tuple(part.reshape(-1) for part in inputs),
            tuple(part.reshape(-1) for part in out),
        )
        return tuple(out)


def search(
    batch: Batch,
    data: Any,
    start: Any,
    forward: AbstractHostSolver | None,
    other: Clarabel | None,
) -> Found:
    """As `diffqcp._native_search.search`, for arrays with the batch first."""
    n, m = batch.structure.n, batch.structure.m
    _, _, q, b = data
    begin = (q, b, b) if start is None else start  # whatever has these shapes, if none
    there = np.full((batch.size, 1), start is not None)
    candidate = n, m, m, 4
    best: Any = batch(extension().find_batch, (*data, *begin, there), *candidate)
    for solver in (forward, other):
        settled = best[3][:, 0] == 0
        if solver is None or settled.all():
            continue
        sizes = (part.shape[1] for part in data)
        parts: Any = batch(extension().equilibrate_batch, data, *sizes, n, m, 1)
        scaled, units = parts[:4], Scaling(*parts[4:])
        first = None  # who is asked first without a start gets none
        if start is not None:
            first = Start(units.scale(start), settled)
        elif solver is other:
            first = Start((best[0], best[1], best[2]), settled)
        found = solver.solve_batch(batch.structure, scaled, first)
        best = batch(extension().improve_batch, (*data, *best, *found), *candidate)
    x, y, s, report = best
    status, iterations = report[:, 1:3].astype(np.int32).T
    return Found(x, y, s, status, iterations)


def gradients(
    batch: Batch, data: Any, solution: Any, cotangents: Any
) -> tuple[np.ndarray, ...]:
    """Those of `P`, `A`, `q` and `b` at solutions as they are, from those of the
    solutions.
    """
    smoothing = np.full((batch.size, 1), batch.smoothing)
    sizes = (part.shape[1] for part in data)
    arguments = *data, *solution, smoothing, *cotangents
    return batch(extension().vjp_batch, arguments, *sizes, 2)[:4]
