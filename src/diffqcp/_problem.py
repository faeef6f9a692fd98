"""A structure for the compiled extension: what both sides share, made once, here.

The extension keeps the eigenvectors of all cones in one array, the frames: those of the
second-order cone by their direction, of a PSD cone by its matrix, column after column, of
the exponential and the power cone by theirs, row after row.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ._arrays import as_jax
from ._extension import extension
from ._range_space import is_dense
from ._static import as_indices
from .assembly import assemble_patterns
from .cones import (
    AbstractCone,
    AbstractEigenvectors,
    DualCone,
    ExponentialCone,
    FreeCone,
    NonnegativeCone,
    PowerCone,
    ProductCone,
    PSDCone,
    RepeatedCone,
    SecondOrderCone,
    ZeroCone,
)
from .cones._base import IdentityEigenvectors, MatrixEigenvectors
from .cones.product import ProductEigenvectors, RepeatedEigenvectors
from .cones.psd import PSDEigenvectors
from .cones.soc import SecondOrderEigenvectors
from .linear_solve.sparse_ldl import analyse
from .structure import AbstractQCPStructure


class _Kind(NamedTuple):
    """A cone that the extension has.

    - `number`: as `Kind` in native/problem.hpp; a dual has the negative of its cone's.
    - `frame`: the shape of its frame.
    """

    number: int
    frame: Callable[[Any], tuple[int, ...]] = lambda cone: (0,)


_KINDS: dict[type[AbstractCone], _Kind] = {
    ZeroCone: _Kind(0),
    FreeCone: _Kind(1),
    NonnegativeCone: _Kind(2),
    SecondOrderCone: _Kind(3, lambda cone: (cone.size - 1,)),
    PSDCone: _Kind(4, lambda cone: (cone.size, cone.size)),
    ExponentialCone: _Kind(5, lambda cone: (3, 3)),
    PowerCone: _Kind(6, lambda cone: (3, 3)),
}


@functools.lru_cache(maxsize=64)
def is_known(structure: AbstractQCPStructure) -> bool:
    """Whether the extension is there and has all cones of a structure."""
    parts = structure.dual_cone.cones
    return extension() is not None and all(type(_bare(part)) in _KINDS for part in parts)


def _bare(cone: AbstractCone) -> AbstractCone:
    """One of equal cones, and of a dual what it is the dual of."""
    if isinstance(cone, RepeatedCone):
        cone = cone.cone
    return cone.cone if isinstance(cone, DualCone) else cone


class Problem:
    """A structure as the extension has it. It never changes.

    **Attributes:**

    - `handle`: the extension's own object.
    - `frames`, `entries`, `fill`: how many numbers the frames take, `K` as it is stored,
        and its factor.
    - `room`: how many a factor takes in programs, where `x` may be eliminated.
    """

    frames: int
    entries: int
    fill: int
    room: int

    def __init__(self, structure: AbstractQCPStructure):
        cone = structure.dual_cone
        frames = sum(_frame(part) for part in cone.cones)
        skeleton = eigenvectors(cone, np.zeros(frames))
        assembly = assemble_patterns(structure.P_full, structure.A_pattern, skeleton)
        factorisation: Any = analyse(assembly)
        dims, P, A = structure.dims, structure.P_pattern, structure.A_pattern
        blocks, kinds = assembly.blocks, [_kind(part) for part in cone.cones]

        def joined(name: str) -> np.ndarray:
            return _concatenate([getattr(block, name) for block in blocks])

        upper, dense = structure.psd_order == "upper", is_dense(structure)
        sizes = structure.n, structure.m, dims["z"], dims["l"], assembly.order
        parts = (
            [*sizes, upper, dense],
            *(P.rows, P.cols, structure.P_weights),
            *(structure.P_source[assembly.upper], A.rows, A.cols),
            structure.curved_sizes,
            [number for kind, _ in kinds for number in kind],
            [] if cone.rows is None else cone.rows.value,
            [number for block in blocks for number in _counts(block)],
            *map(joined, ("entry", "place", "pair", "pair_cone", "pair_col")),
            *(factorisation.plan, factorisation.source, factorisation.groups),
        )
        self.handle = extension().problem(
            tuple(as_indices("parts", part) for part in parts),
            np.array([alpha for _, alphas in kinds for alpha in alphas], float),
        )
        counts = extension().sizes(self.handle)
        self.frames, self.entries, self.fill, self.room = counts

    def project(self, v: np.ndarray) -> np.ndarray:
        """The projection of `v` onto the cone `K*`."""
        out = np.empty_like(v, float)
        extension().project(self.handle, v, out)
        return out

    def jacobian(
        self, v: np.ndarray, smoothing: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The eigenvalues and the frames of its derivative."""
        lam, frames = np.empty_like(v, float), np.empty(self.frames)
        extension().jacobian(self.handle, v, smoothing, (lam, frames))
        return lam, frames

    def rotate(self, frames: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """`U @ vector`."""
        out = np.empty_like(vector)
        extension().rotate(self.handle, frames, vector, out, False)
        return out

    def rotate_back(self, frames: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """`U.T @ vector`."""
        out = np.empty_like(vector)
        extension().rotate(self.handle, frames, vector, out, True)
        return out


def _counts(block: Any) -> tuple[int, int, int]:
    tau = -1 if block.tau is None else block.tau
    return tau, block.entry.size, block.pair_col.size


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *parts])


def _kind(cone: AbstractCone) -> tuple[tuple[int, int, int], list[float]]:
    """The kind, the size and the number of equal cones, and their exponents."""
    count = 1
    if isinstance(cone, RepeatedCone):
        count, cone = cone.count, cone.cone
    sign, bare = -1 if isinstance(cone, DualCone) else 1, _bare(cone)
    exponents = np.ravel(bare.alpha).tolist() if isinstance(bare, PowerCone) else []
    size = bare.size if isinstance(bare, PSDCone) else bare.dim
    return (sign * _KINDS[type(bare)].number, size, count), exponents


def _frame(cone: AbstractCone) -> int:
    """How many numbers the frame of a factor takes."""
    count = cone.count if isinstance(cone, RepeatedCone) else 1
    return count * math.prod(_shape(_bare(cone)))


def _shape(cone: AbstractCone) -> tuple[int, ...]:
    return _KINDS[type(cone)].frame(cone)


def eigenvectors(cone: ProductCone, frames: Any) -> ProductEigenvectors:
    """The eigenvectors of all cones, from the frames."""
    starts = np.cumsum([0, *(_frame(part) for part in cone.cones)])
    blocks = [
        _eigenvectors(part, frames[start:end])
        for part, start, end in zip(cone.cones, starts[:-1], starts[1:], strict=True)
    ]
    dims = tuple(part.dim for part in cone.cones)
    return ProductEigenvectors(tuple(blocks), dims, cone.rows, cone.inverse)


def _eigenvectors(
    cone: AbstractCone, frame: Any, batch: tuple[int, ...] = ()
) -> AbstractEigenvectors:
    if isinstance(cone, RepeatedCone):
        own = _eigenvectors(cone.cone, frame, (cone.count,))
        return RepeatedEigenvectors(own, cone.count)
    if isinstance(cone, DualCone):
        return _eigenvectors(cone.cone, frame, batch)
    array = frame.reshape((*batch, *_shape(cone)))
    if isinstance(cone, SecondOrderCone):
        return _filled(SecondOrderEigenvectors, array)
    if isinstance(cone, PSDCone):
        return _filled(PSDEigenvectors, array.swapaxes(-1, -2), cone.order)
    if isinstance(cone, (ExponentialCone, PowerCone)):
        return _filled(MatrixEigenvectors, array)
    return IdentityEigenvectors()


def _filled(kind: Any, array: Any, *static: Any) -> AbstractEigenvectors:
    """With any array: one of NumPy, or those of many cones."""
    return jax.tree.unflatten(_definition(kind, *static), [array])


@functools.lru_cache
def _definition(kind: Any, *static: Any) -> Any:
    axes = 1 if kind is SecondOrderEigenvectors else 2
    return jax.tree.structure(kind(as_jax(np.zeros((1,) * axes)), *static))


def frames(eigenvectors: ProductEigenvectors) -> np.ndarray:
    """The inverse of `eigenvectors`."""
    parts = [np.zeros(0)]
    for block in eigenvectors.blocks:
        cone = block.blocks if isinstance(block, RepeatedEigenvectors) else block
        if isinstance(cone, SecondOrderEigenvectors):
            parts.append(np.asarray(cone.direction).ravel())
        elif isinstance(cone, PSDEigenvectors):
            parts.append(np.asarray(cone.basis).swapaxes(-1, -2).ravel())
        elif isinstance(cone, MatrixEigenvectors):
            parts.append(np.asarray(cone.matrix).ravel())
    return np.concatenate(parts)


@functools.lru_cache(maxsize=32)
def _by_value(structure: AbstractQCPStructure) -> Problem:
    return Problem(structure)


def problem_of(structure: AbstractQCPStructure) -> Problem:
    """The problem of a structure: kept with it, and shared with others that are equal."""
    problem = structure.compiled
    if problem is None:
        problem = structure.compiled = _by_value(structure)
    return problem
