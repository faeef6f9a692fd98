"""Solvers that run on the host, outside XLA: callbacks, threads, formats."""

import abc
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from .._callbacks import host_callback
from .._checks import check_number
from ..cones.dims import beyond
from ..cones.psd import PSDOrder, triangle
from ..derivative import Data
from ..sparsity import flat_places
from ..structure import AbstractQCPStructure
from ._base import AbstractBatchSolver, Found, Start, Status


class HostProblem(NamedTuple):
    """One problem in the formats of CPU solvers, in NumPy and float64.

    - `P_data`, `A_data`: the entries of the matrices `P` and `A` below.
    - `q`, `b`: vectors.
    - `start`: `(x, y, s)` to start from, or None.
    - `patterns`: where the entries are.
    """

    P_data: np.ndarray
    A_data: np.ndarray
    q: np.ndarray
    b: np.ndarray
    start: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    patterns: "tuple[_Gather, _Gather]"

    @property
    def P(self) -> sp.csc_array:
        """The upper triangle of `P`, with the entries of the structure, zeros too."""
        return self.patterns[0].matrix(self.P_data)

    @property
    def A(self) -> sp.csc_array:
        """`A`, likewise."""
        return self.patterns[1].matrix(self.A_data)


@dataclasses.dataclass(frozen=True)
class HostBatch:
    """Problems of one structure, at least one, with data that are finite: the fields of
    [`diffqcp.forward.HostProblem`][] with an axis for the problems first. A start that is
    not finite is not used.
    """

    P_data: np.ndarray
    A_data: np.ndarray
    q: np.ndarray
    b: np.ndarray
    start: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    patterns: "tuple[_Gather, _Gather]"

    def each(self, solve: Callable[[HostProblem], Found]) -> Found:
        """What `solve` finds, for one problem after the other."""
        found = []
        for k in range(len(self.q)):
            P_data, A_data, q, b = (
                part[k] for part in (self.P_data, self.A_data, self.q, self.b)
            )
            start = None
            if self.start is not None:
                x, y, s = (part[k] for part in self.start)
                start = (x, y, s) if _finite([x, y, s], ()) else None
            found.append(solve(HostProblem(P_data, A_data, q, b, start, self.patterns)))
        return Found(*(np.stack(parts) for parts in zip(*found, strict=True)))


class AbstractHostSolver(AbstractBatchSolver):
    """A solver outside XLA, called back from it.

    The items of a batch are divided among threads, so `run` should release the
    interpreter's lock for most of its time.

    A subclass says with `psd_order` and `own_duals` which form of the cones it takes;
    rows are transformed accordingly.
    """

    threads: eqx.AbstractVar[int | None]
    psd_order: eqx.AbstractClassVar[PSDOrder]
    own_duals: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def run(
        self,
        dims: dict[str, Any],
        problems: HostBatch,
        workspace: dict[str, Any],
    ) -> Found:
        """Solves problems, one thread's share of a batch.

        **Arguments:**

        - `dims`: the cones in the order z, l, q, s, ep, ed, p, with second-order ones of
            order two and more only, and no empty ones. Unless `own_duals`, there are no
            dual cones: no `ed`, no negative `p`.
        - `problems`: their data; see `HostBatch.each` for one after the other.
        - `workspace`: a dictionary of this method's own, empty at first. It is handed in
            again for later problems of the same structure, by one thread at a time.
        """

    def solve(
        self, structure: AbstractQCPStructure, data: Data, start: Start | None
    ) -> Found:
        """One callback for a problem, or for a whole batch of them."""
        dtype, n, m = data[2].dtype, structure.n, structure.m
        vectors = [jax.ShapeDtypeStruct((size,), dtype) for size in (n, m, m)]
        integer = jax.ShapeDtypeStruct((), jnp.int32)
        family = _family(self, structure)
        found = host_callback(
            lambda *problem: tuple(family.solve_batch(*problem)),
            (*vectors, integer, integer),
            data,
            start,
            vmap_method="expand_dims",
        )
        return Found(*found)

    def solve_batch(
        self, structure: AbstractQCPStructure, data: Sequence[Any], start: Start | None
    ) -> Found:
        """See `AbstractBatchSolver`. Items whose start is exact are not solved again."""
        return _family(self, structure).solve_batch(data, start)


@functools.lru_cache(maxsize=16)
def _family(solver: AbstractHostSolver, structure: AbstractQCPStructure) -> "_Family":
    return _Family(solver, structure)


class _Family:
    """All problems of one structure: how their data are arranged, and the workspaces."""

    def __init__(self, solver: AbstractHostSolver, structure: AbstractQCPStructure):
        others = unfamiliar(structure)
        if others:
            raise ValueError(
                f"{type(solver).__name__}: expected cones {', '.join(FAMILIAR)} only, "
                f"got cones {others}; diffqcp.Proximal takes them"
            )
        self.solver, self.n, self.m = solver, structure.n, structure.m
        self.dims, self.rows, self.rows_inverse = _solver_rows(
            structure, solver.psd_order, solver.own_duals
        )
        stored, n, m = structure.P_pattern, structure.n, structure.m
        # All stored entries of P, those below the diagonal too, on its upper triangle.
        i, j = np.minimum(stored.rows, stored.cols), np.maximum(stored.rows, stored.cols)
        weights = np.where(i == j, 1.0, structure.P_weights / 2)
        P = _Gather(i, j, np.arange(stored.nnz), weights, stored.nnz, (n, n))
        # A row of the solver's is a combination of the structure's.
        stored = structure.A_pattern
        entry = sp.csr_array(
            (np.ones(stored.nnz), (stored.rows, np.arange(stored.nnz))), (m, stored.nnz)
        )
        mixed = sp.coo_array(self.rows @ entry)
        source = mixed.coords[1]
        A = _Gather(
            *(mixed.coords[0], stored.cols[source], source, mixed.data),
            *(stored.nnz, (m, n)),
        )
        self.patterns = (P, A)
        self._idle: list[dict[str, Any]] = []

    @contextmanager
    def _workspace(self) -> Iterator[dict[str, Any]]:
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = {}
        yield workspace
        self._idle.append(workspace)

    def solve_batch(self, data: Sequence[Any], start: Start | None) -> Found:
        """All items of a batch, whose axes come first and may have length one."""
        dtype = np.asarray(data[2]).dtype
        P, A, q, b = (np.asarray(part, np.float64) for part in data)
        gather_P, gather_A = self.patterns
        arrays = [gather_P(P), gather_A(A), q, _along(self.rows, b)]
        exact = np.asarray(False)
        if start is not None:
            x, y, s = (np.asarray(part, np.float64) for part in start.solution)
            arrays += [x, _along(self.rows_inverse.T, y), _along(self.rows, s)]
            exact = np.asarray(start.exact)
        shapes = [part.shape[:-1] for part in arrays] + [exact.shape]
        batch = np.broadcast_shapes(*shapes)

        # Arrays that all items share are views, not copies, unless the batch has several
        # axes.
        def flat(part: np.ndarray) -> np.ndarray:
            size = part.shape[-1]
            return np.broadcast_to(part, (*batch, size)).reshape(math.prod(batch), size)

        views = [flat(part) for part in arrays]
        exact = np.broadcast_to(exact, batch).ravel()
        finite = _finite(arrays[:4], batch).ravel()
        places = np.flatnonzero(finite & ~exact)

        def solve_items(places: np.ndarray) -> Found:
            together = places[-1] - places[0] + 1 == places.size
            chosen = slice(places[0], places[-1] + 1) if together else places
            P, A, q, b, *first = (part[chosen] for part in views)
            first = (first[0], first[1], first[2]) if first else None
            problems = HostBatch(P, A, q, b, first, self.patterns)
            with self._workspace() as workspace:
                return self.solver.run(self.dims, problems, workspace)

        count = max(1, min(self.solver.threads or cores(), places.size))
        chunks = [part for part in np.array_split(places, count) if part.size]
        if len(chunks) > 1:
            found = list(_pool().map(solve_items, chunks))
        else:
            found = [solve_items(part) for part in chunks]

        sizes = self.n, self.m, self.m
        x, y, s = (np.full((exact.size, size), np.nan) for size in sizes)
        status = np.where(finite, Status.SOLVED, Status.NOT_FINITE).astype(np.int32)
        iterations = np.zeros(exact.size, np.int32)
        if start is not None:
            for whole, part in zip((x, y, s), views[4:], strict=True):
                whole[exact] = part[exact]
        for chunk, part in zip(chunks, found, strict=True):
            status[chunk], iterations[chunk] = part.status, part.iterations
            for whole, vectors in zip((x, y, s), part[:3], strict=True):
                whole[chunk] = vectors
        y, s = _along(self.rows.T, y), _along(self.rows_inverse, s)
        x, y, s = (
            part.astype(dtype).reshape(*batch, size)
            for part, size in zip((x, y, s), sizes, strict=True)
        )
        return Found(x, y, s, status.reshape(batch), iterations.reshape(batch))


def _finite(arrays: list[np.ndarray], batch: tuple[int, ...]) -> np.ndarray:
    """Which items of a batch are finite in all of the arrays."""
    finite = np.ones(batch, bool)
    for part in arrays:
        finite &= np.isfinite(part).all(axis=-1)
    return finite


def _along(matrix: Any, vectors: np.ndarray) -> np.ndarray:
    """`matrix` times each of the vectors along the last axis."""
    batch = vectors.shape[:-1]
    flat = vectors.reshape(math.prod(batch), vectors.shape[-1])
    return (matrix @ flat.T).T.reshape((*batch, matrix.shape[0]))


def check_threads(threads: Any) -> None:
    """**Raises:** `TypeError` or `ValueError` unless it is None or a positive integer."""
    if threads is not None:
        check_number("threads", threads, above=0, integer=True)


def check_limits(tol: Any, accept: Any, max_iter: Any, threads: Any) -> None:
    """Checks the options that solvers share.

    **Raises:** `TypeError` or `ValueError`, naming the option.
    """
    check_number("tol", tol, above=0, below=1)
    check_number("accept", accept, above=0, below=1)
    check_number("max_iter", max_iter, above=0, integer=True)
    check_threads(threads)


def failed(n: int, m: int, status: Status, iterations: int = 0) -> Found:
    """An outcome without a solution."""
    x, y = np.full(n, np.nan), np.full(m, np.nan)
    return Found(x, y, y, np.asarray(int(status)), np.asarray(iterations))


def verdict(
    problem: HostProblem, status: Status, x: np.ndarray, y: np.ndarray, s: np.ndarray
) -> Status:
    """The status, where it is `INFEASIBLE` or `UNBOUNDED`, if what a solver returns with
    it proves that.

    If `b'y < 0` for a `y` in the dual cone, every feasible `x` has
    `-b'y <= |A'y|_1 |x|_inf`, so there is none that is not huge. In the same way
    `q'x < 0` with `P x` and `A x + s` small leaves only huge dual solutions. In the units
    in which problems are solved, the entries of solutions are not far from one. (Boyd
    and Vandenberghe, "Convex optimization", section 5.8, for the exact certificates.)
    """
    upper, A = problem.P, problem.A
    if status == Status.INFEASIBLE:
        slope, rest = problem.b @ y, np.abs(A.T @ y).sum()
    elif status == Status.UNBOUNDED:
        Px = upper @ x + upper.T @ x - upper.diagonal() * x
        slope, rest = problem.q @ x, np.abs(Px).sum() + np.abs(A @ x + s).sum()
    else:
        return status
    return status if slope < 0 and rest <= -slope / _HUGE else Status.NUMERICAL_TROUBLE


_HUGE = 1e6


class _Gather:
    """A CSC matrix whose entries are sums of multiples of a vector's."""

    def __init__(
        self,
        rows: np.ndarray,
        cols: np.ndarray,
        source: np.ndarray,
        weights: np.ndarray,
        length: int,
        shape: tuple[int, int],
    ):
        places, place = np.unique(flat_places(cols, rows, shape[0]), return_inverse=True)
        self._indices = (places % max(shape[0], 1)).astype(np.int32)
        starts = np.searchsorted(places, np.arange(shape[1] + 1) * shape[0])
        self._indptr, self._shape = starts.astype(np.int32), shape
        self._sum: Any = sp.csr_array((weights, (place, source)), (places.size, length))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The entries, for each of the vectors along the last axis."""
        return _along(self._sum, values)

    def matrix(self, entries: np.ndarray) -> sp.csc_array:
        """The matrix with these entries."""
        return sp.csc_array((entries, self._indices, self._indptr), self._shape)


FAMILIAR = ("z", "l", "q", "s", "ep", "ed", "p")


def unfamiliar(structure: AbstractQCPStructure) -> list[str]:
    """The keys of the cones that no solver outside of the package takes."""
    return beyond(structure.dims, FAMILIAR)


def _solver_rows(
    structure: AbstractQCPStructure, psd_order: PSDOrder, own_duals: bool
) -> tuple[dict[str, Any], sp.csr_array, sp.csr_array]:
    """The cones as a solver takes them, and the matrix `T` with `T s` in them for each
    `s` in `K`, with its inverse.

    Second-order cones of order one are nonnegative rays, and those of order zero nothing.
    Where a solver has no dual cones, `(u, v, w)` is in the dual exponential cone exactly
    if `(u - v, -u, w)` is in the exponential cone, and in the dual power cone exactly if
    `(u / alpha, v / (1 - alpha), w)` is in the power cone.
    """
    dims = structure.dims
    sizes = np.asarray(dims["q"], int)
    # Those of order one go before the other ones.
    group = np.repeat(np.where(sizes == 1, 1, 2), sizes)
    group = np.concatenate([np.zeros(dims["z"] + dims["l"], int), group])
    blocks: list[Any] = [_eye(group.size)[np.argsort(group, stable=True)]]
    for size in dims["s"]:
        blocks.append(_reorder(size, structure.psd_order or psd_order, psd_order))
    dims = dims | {
        "l": dims["l"] + int(np.sum(sizes == 1)),
        "q": [int(size) for size in sizes if size > 1],
        "s": [size for size in dims["s"] if size],
    }
    blocks.append(_eye(3 * dims["ep"]))
    flip = np.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    blocks += [_eye(3) if own_duals else sp.csr_array(flip)] * dims["ed"]
    for alpha in dims["p"]:
        dual = alpha < 0 and not own_duals
        scale = [-1 / alpha, 1 / (1 + alpha), 1.0] if dual else [1.0, 1.0, 1.0]
        blocks.append(sp.diags_array(scale))
    if not own_duals:
        powers = [abs(alpha) for alpha in dims["p"]]
        dims = dims | {"ep": dims["ep"] + dims["ed"], "ed": 0, "p": powers}
    inverses = [
        sp.csr_array(np.linalg.inv(block.toarray())) if block.shape[0] == 3 else block.T
        for block in blocks
    ]
    return dims, _block_diagonal(blocks), _block_diagonal(inverses)


def _block_diagonal(blocks: list[Any]) -> sp.csr_array:
    blocks = [block for block in blocks if block.shape[0]]
    return sp.csr_array(sp.block_diag(blocks) if blocks else (0, 0))


def _eye(size: int) -> sp.csr_array:
    return sp.csr_array(sp.eye_array(size)) if size else sp.csr_array((0, 0))


def _reorder(size: int, order: PSDOrder, wanted: PSDOrder) -> sp.csr_array:
    """From a packed triangle in one order to that in another."""
    rows, cols = triangle(size, order)
    place = np.zeros((size, size), int)
    place[rows, cols] = place[cols, rows] = np.arange(rows.size)
    source = place[triangle(size, wanted)]
    return sp.csr_array((np.ones(source.size), (np.arange(source.size), source)))


def cores() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="diffqcp")
