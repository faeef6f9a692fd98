"""What a family of QCPs shares: sizes, sparsity patterns, cones. All of it static."""

import abc
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental.sparse import BCOO, BCSR
from jaxtyping import Array, DTypeLike, Float

from ._arrays import as_jax
from ._checks import check_real
from ._static import StaticArray
from ._structure_base import AbstractStructure
from .cones.psd import PSDOrder
from .sparsity import flat_places, SparseMatrix, SparsityPattern


class AbstractQCPStructure(AbstractStructure):
    """What problems of one kind have in common: sizes, sparsity patterns and cones.

    To JAX it is static, that is, a constant and no array. Two structures are equal if all
    of that is equal, and one compiled program serves all QCPs with equal structures.

    **Attributes:**

    - `n`, `m`: the numbers of variables and of constraint rows.
    - `P_pattern`, `A_pattern`: where the stored entries of `P` and `A` are.
    - `dual_cone`: the product cone `K*`.
    - `dims`: the cone `K` as an SCS-style dictionary with all its keys (`K*` if the
        structure was made with `onto_dual=False`).
    - `psd_order`, `onto_dual`: as given.
    - `P_full`: the pattern of the whole symmetric `P`, both triangles.
    - `compiled`: what the compiled extension keeps for this structure; None at first.
    """

    P_pattern: SparsityPattern
    A_pattern: SparsityPattern
    P_full: SparsityPattern
    compiled: Any
    _P_source: StaticArray
    _P_weights: StaticArray

    def __init__(
        self,
        P: Any,
        A: Any,
        cone_dims: Mapping[str, Any],
        onto_dual: bool = True,
        *,
        psd_order: PSDOrder | None = None,
    ):
        self.P_pattern = self._read_pattern("P", P)
        self.A_pattern = self._read_pattern("A", A)
        m, n = self.A_pattern.shape
        if self.P_pattern.shape != (n, n):
            raise ValueError(
                f"P: expected shape {(n, n)}, as A has {n} columns, "
                f"got {self.P_pattern.shape}"
            )
        patterns = self.P_pattern, self.A_pattern
        super().__init__(n, m, cone_dims, onto_dual, psd_order, *patterns)
        self.P_full, source, weights = self._complete(self.P_pattern)
        self._P_source, self._P_weights = StaticArray(source), StaticArray(weights)
        self.compiled = None

    def __getstate__(self) -> dict[str, Any]:
        # Hashes of strings, types and bytes differ from one process to the next, and so
        # does what is compiled.
        own = ("_hash", "compiled")
        return {name: part for name, part in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, part in state.items():
            setattr(self, name, part)
        self.compiled = None
        self._hash = hash(self._key)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n={self.n}, m={self.m}, "
            f"nnz(P)={self.P_pattern.nnz}, nnz(A)={self.A_pattern.nnz})"
        )

    @property
    def P_source(self) -> np.ndarray:
        """For each entry of the whole symmetric `P`, the stored entry that it comes
        from.
        """
        return self._P_source.value

    @property
    def P_weights(self) -> np.ndarray:
        """For each stored entry of `P`, how many entries of the whole matrix it stands
        for.
        """
        return self._P_weights.value

    def P_matrix(self, values: Float[Array, " nnzP"]) -> SparseMatrix:
        """All of the symmetric `P`, from its stored values."""
        whole = self.P_full is self.P_pattern
        return SparseMatrix(values if whole else values[self.P_source], self.P_full)

    def A_matrix(self, values: Float[Array, " nnzA"]) -> SparseMatrix:
        """`A`, from its stored values."""
        return SparseMatrix(values, self.A_pattern)

    def P_mv(
        self, values: Float[Array, " nnzP"], x: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """The symmetric part of `P` times `x`, as a function of the stored values."""
        half = SparseMatrix(values * self._weights(x) / 2, self.P_pattern)
        return half.mv(x) + half.transpose_mv(x)

    def scaled(
        self,
        P: Float[Array, " nnzP"],
        A: Float[Array, " nnzA"],
        rows: Float[Array, " m"],
        cols: Float[Array, " n"],
    ) -> tuple[Float[Array, " nnzP"], Float[Array, " nnzA"]]:
        """The stored values of `diag(cols) P diag(cols)`, `diag(rows) A diag(cols)`."""
        P = SparseMatrix(P, self.P_pattern).scaled(cols, cols).values
        return P, self.A_matrix(A).scaled(rows, cols).values

    def P_outer(
        self, w: Float[Array, " n"], x: Float[Array, " n"]
    ) -> Float[Array, " nnzP"]:
        """The adjoint of `P_mv` in `values`: `sym(w x')` on the stored entries."""
        if self.P_pattern.full:
            outer = jnp.outer(w, x)
            return ((outer + outer.T) / 2).ravel()
        rows, cols = self.P_pattern.rows, self.P_pattern.cols
        return self._weights(x) * (w[rows] * x[cols] + x[rows] * w[cols]) / 2

    def A_outer(
        self, u: Float[Array, " m"], x: Float[Array, " n"]
    ) -> Float[Array, " nnzA"]:
        """`u x'` on the stored entries of `A`."""
        if self.A_pattern.full:
            return jnp.outer(u, x).ravel()
        return u[self.A_pattern.rows] * x[self.A_pattern.cols]

    def _weights(self, like: Array) -> Float[Array, " nnzP"]:
        return jnp.asarray(self.P_weights, like.dtype)

    def values(
        self,
        name: str,
        matrix: Any,
        pattern: SparsityPattern,
        dtype: DTypeLike | None = None,
    ) -> Array:
        """The stored values of `matrix`, after a check that it has this `pattern`.

        **Raises:** `TypeError` or `ValueError` if its type, its shape or, as far as it is
        known, its pattern is a different one.
        """
        self._check_format(name, matrix)
        check_real(name, self._stored(matrix).dtype, "real numbers", matrix)
        if matrix.shape != pattern.shape:
            raise ValueError(
                f"{name}: expected shape {pattern.shape}, got {matrix.shape}"
            )
        values = self._stored(matrix)
        if values.shape != (pattern.nnz,):
            raise ValueError(
                f"{name}: expected {pattern.nnz} stored entries, as in the structure, "
                f"got {values.shape}"
            )
        if not self._is_traced(matrix):
            rows, cols = self._coordinates(name, matrix)
            same = np.array_equal(rows, pattern.rows)
            if not (same and np.array_equal(cols, pattern.cols)):
                raise ValueError(
                    f"{name}: its entries are not where the structure has them, or "
                    "are in another order"
                )
        return values if dtype in (None, values.dtype) else values.astype(dtype)

    def _read_pattern(self, name: str, matrix: Any) -> SparsityPattern:
        self._check_format(name, matrix)
        check_real(name, self._stored(matrix).dtype, "real numbers", matrix)
        axes = len(matrix.shape) - 2
        dense = getattr(matrix, "n_dense", 0) or getattr(matrix, "n_batch", axes) != axes
        if axes not in (0, 1) or dense:
            raise ValueError(
                f"{name}: expected a matrix, or a batch in one dimension, without dense "
                f"dimensions, got shape {matrix.shape} and stored values of shape "
                f"{self._stored(matrix).shape}"
            )
        if self._is_traced(matrix):
            raise ValueError(
                f"{name}: its sparsity pattern must be known when the structure is "
                "built; build the structure outside jit and vmap"
            )
        rows, cols = self._coordinates(name, matrix)
        shape = matrix.shape[-2:]
        values = self._stored(matrix).shape
        if math.prod(values[axes:]) != rows.size and self._indices(matrix):
            raise ValueError(
                f"{name}: expected as many stored values as places, got values of shape "
                f"{values} and {rows.size} places"
            )
        inside = (rows >= 0) & (rows < shape[0])
        inside &= (cols >= 0) & (cols < shape[1])
        if not inside.all():
            raise ValueError(
                f"{name}: {np.sum(~inside)} stored entries lie outside shape "
                f"{shape} (padding?)"
            )
        pattern = SparsityPattern(rows, cols, shape)
        if pattern.full:
            return pattern
        flat = flat_places(rows, cols, shape[1])
        unique, counts = np.unique(flat, return_counts=True)
        if unique.size != flat.size:
            row, col = divmod(int(unique[counts > 1][0]), shape[1])
            raise ValueError(
                f"{name}: entry ({row}, {col}) is stored more than once; sum "
                "duplicates first"
            )
        return pattern

    def _is_traced(self, matrix: Any) -> bool:
        """Whether the indices are unknown."""
        return any(isinstance(part, Tracer) for part in self._indices(matrix))

    def _coordinates(self, name: str, matrix: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the stored entries, which all items of a batch share."""
        arrays = [np.asarray(part) for part in self._indices(matrix)]
        for array in arrays:
            if not np.issubdtype(array.dtype, np.integer):
                raise TypeError(
                    f"{name}: expected index arrays of integers, got dtype {array.dtype}"
                )
        if len(matrix.shape) == 3:
            for array in arrays:
                if not (array.shape[0] and np.all(array == array[:1])):
                    raise ValueError(
                        f"{name}: expected the same pattern in all items of a batch"
                    )
            arrays = [array[0] for array in arrays]
        return self._expand(name, matrix.shape[-2:], *arrays)

    @abc.abstractmethod
    def _check_format(self, name: str, matrix: Any) -> None:
        """Raises `TypeError` for another format."""

    @abc.abstractmethod
    def _stored(self, matrix: Any) -> Array:
        """The stored values."""

    @abc.abstractmethod
    def _indices(self, matrix: Any) -> tuple[Array, ...]:
        """The arrays that say where the stored entries are."""

    @abc.abstractmethod
    def _expand(
        self, name: str, shape: tuple[int, int], *indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the stored entries of a matrix, from these arrays."""

    @abc.abstractmethod
    def _complete(
        self, stored: SparsityPattern
    ) -> tuple[SparsityPattern, np.ndarray, np.ndarray]:
        """The pattern of all of `P`, the stored entry each of its entries comes from,
        and how many entries each stored one stands for.
        """

    @abc.abstractmethod
    def wrap(self, values: Float[Array, " nnz"], pattern: SparsityPattern) -> Any:
        """A sparse matrix in this structure's format."""


@jax.tree_util.register_static
class QCPStructureCPU(AbstractQCPStructure):
    """The structure of a [`diffqcp.HostQCP`][]: BCOO, upper triangle of `P`.

    **Arguments:**

    - `P`: BCOO, shape `(n, n)`; entries on or above the diagonal only. Its values do
        not matter, only where its entries are. For an LP it has no entries at all.
    - `A`: BCOO, shape `(m, n)`. `P` and `A` may also be batches, with `n_batch=1` and
        one pattern for all items; the structure is that of an item.
    - `cone_dims`: the cone `K` as an SCS-style dictionary; see
        [`diffqcp.cones.ProductCone.from_dict`][].
    - `onto_dual`: False if `cone_dims` describes the dual cone `K*` instead.
    - `psd_order`: `"lower"` (SCS) or `"upper"` (Clarabel); needed with PSD cones of
        order 3 or more.

    Entries may be in any order; gradients come back in the same order. Explicit zeros
    count as entries.

    **Raises:** `TypeError` or `ValueError`, naming the argument, for another format,
    shapes or cones that do not fit together, duplicate entries, entries outside the
    shape or below the diagonal of `P`, patterns that differ within a batch, and patterns
    that are traced.
    """

    def _check_format(self, name: str, matrix: Any) -> None:
        if not isinstance(matrix, BCOO):
            raise TypeError(f"{name}: expected a BCOO matrix, got {type(matrix)}")

    def _stored(self, matrix: BCOO) -> Array:
        return matrix.data

    def _indices(self, matrix: BCOO) -> tuple[Array, ...]:
        return (matrix.indices,)

    def _expand(
        self, name: str, shape: tuple[int, int], *indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        del shape
        (pairs,) = indices
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(
                f"{name}: expected indices of shape (entries, 2), got {pairs.shape}"
            )
        return pairs[:, 0], pairs[:, 1]

    def _complete(
        self, stored: SparsityPattern
    ) -> tuple[SparsityPattern, np.ndarray, np.ndarray]:
        rows, cols = stored.rows, stored.cols
        below = np.flatnonzero(rows > cols)
        if below.size:
            entry = (int(rows[below[0]]), int(cols[below[0]]))
            raise ValueError(
                "P: expected its upper triangle only, got an entry below the diagonal "
                f"at {entry}"
            )
        off = np.flatnonzero(rows < cols)
        full = SparsityPattern(
            np.concatenate([rows, cols[off]]),
            np.concatenate([cols, rows[off]]),
            stored.shape,
        )
        source = np.concatenate([np.arange(rows.size), off])
        return full, source, np.where(rows < cols, 2, 1)

    def wrap(self, values: Float[Array, " nnz"], pattern: SparsityPattern) -> BCOO:
        """BCOO, with the entries in `pattern`'s order."""
        definition, indices = _bcoo(pattern)
        return jax.tree.unflatten(definition, (values, *indices))


@jax.tree_util.register_static
class QCPStructureGPU(AbstractQCPStructure):
    """The structure of a [`diffqcp.DeviceQCP`][]: BCSR, all of `P`.

    **Arguments:**

    - `P`: BCSR, shape `(n, n)`, with both triangles. Its values do not matter, only
        where its entries are. For an LP it has no entries at all.
    - `A`: BCSR, shape `(m, n)`. `P` and `A` may also be batches, with `n_batch=1` and
        one pattern for all items; the structure is that of an item.
    - `cone_dims`: the cone `K` as an SCS-style dictionary; see
        [`diffqcp.cones.ProductCone.from_dict`][].
    - `onto_dual`: False if `cone_dims` describes the dual cone `K*` instead.
    - `psd_order`: `"lower"` (SCS) or `"upper"` (Clarabel); needed with PSD cones of
        order 3 or more.

    Entries of a row may be in any order. Explicit zeros count as entries.

    **Raises:** `TypeError` or `ValueError`, naming the argument, for another format,
    shapes or cones that do not fit together, duplicate entries, entries outside the
    shape, a pattern of `P` that is not symmetric, patterns that differ within a batch,
    and patterns that are traced.
    """

    def _check_format(self, name: str, matrix: Any) -> None:
        if not isinstance(matrix, BCSR):
            raise TypeError(f"{name}: expected a BCSR matrix, got {type(matrix)}")

    def _stored(self, matrix: BCSR) -> Array:
        return matrix.data

    def _indices(self, matrix: BCSR) -> tuple[Array, ...]:
        return matrix.indices, matrix.indptr

    def _expand(
        self, name: str, shape: tuple[int, int], *indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        cols, starts = indices
        if starts.shape != (shape[0] + 1,):
            raise ValueError(
                f"{name}: expected an indptr of shape {(shape[0] + 1,)}, one more than "
                f"there are rows, got {starts.shape}"
            )
        counts = np.diff(starts)
        if starts[0] != 0 or starts[-1] != cols.size or np.any(counts < 0):
            raise ValueError(
                f"{name}: expected an indptr that does not decrease, from 0 to the "
                f"number of stored entries, {cols.size}, got {starts}"
            )
        return np.repeat(np.arange(counts.size), counts), cols

    def _complete(
        self, stored: SparsityPattern
    ) -> tuple[SparsityPattern, np.ndarray, np.ndarray]:
        rows, cols, n = stored.rows, stored.cols, stored.shape[1]
        missing = np.setdiff1d(flat_places(rows, cols, n), flat_places(cols, rows, n))
        if missing.size:
            row, col = divmod(int(missing[0]), n)
            raise ValueError(
                "P: expected both triangles, but the pattern is not symmetric: "
                f"({row}, {col}) is stored and ({col}, {row}) is not"
            )
        return stored, np.arange(rows.size), np.ones(rows.size, int)

    def wrap(self, values: Float[Array, " nnz"], pattern: SparsityPattern) -> BCSR:
        """BCSR, with the entries in `pattern`'s order."""
        definition, indices = _bcsr(pattern)
        return jax.tree.unflatten(definition, (values, *indices))


# All but the values is the same for every gradient, and making it costs more than all
# else around a small one.


@functools.lru_cache(maxsize=64)
def _bcoo(pattern: SparsityPattern) -> tuple[Any, list[Array]]:
    indices = np.stack([pattern.rows, pattern.cols], axis=1)
    parts = as_jax(np.zeros(pattern.nnz)), as_jax(indices)
    return _without_values(BCOO(parts, shape=pattern.shape, unique_indices=True))


@functools.lru_cache(maxsize=64)
def _bcsr(pattern: SparsityPattern) -> tuple[Any, list[Array]]:
    counts = np.bincount(pattern.rows, minlength=pattern.shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    parts = as_jax(np.zeros(pattern.nnz)), as_jax(pattern.cols), as_jax(indptr)
    return _without_values(BCSR(parts, shape=pattern.shape, unique_indices=True))


def _without_values(matrix: BCOO | BCSR) -> tuple[Any, list[Array]]:
    leaves, definition = jax.tree.flatten(matrix)
    return definition, leaves[1:]
