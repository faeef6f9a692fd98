"""The sparse matrix of `diffqcp.assembly` in compressed sparse rows (CSR)."""

import functools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .assembly import Assembly


Triangle: TypeAlias = Literal["upper", "full"]


class CompressedRows:
    """A sparse symmetric matrix plus a diagonal in CSR, or the upper triangle of it.

    The pattern depends on the structure of the QCP alone: an inactive row stays, with
    zeros off the diagonal. In each row the columns increase, no place occurs twice, and
    the diagonal is there.

    **Attributes:**

    - `indptr`, `indices`: int32 arrays of length `order + 1` and `nnz`: row `i` has the
        columns `indices[indptr[i] : indptr[i + 1]]`.
    """

    indptr: np.ndarray
    indices: np.ndarray

    def __init__(
        self, order: int, rows: np.ndarray, cols: np.ndarray, triangle: Triangle
    ):
        """**Arguments:**

        - `order`: the order of the matrix.
        - `rows`, `cols`: where its entries are, one of each pair off the diagonal. Those
            with the same place add up.
        - `triangle`: `"upper"`, or `"full"` for all of the matrix.
        """
        diagonal, entry = np.arange(order), np.arange(rows.size + order)
        i = np.concatenate([np.minimum(rows, cols), diagonal])
        j = np.concatenate([np.maximum(rows, cols), diagonal])
        if triangle == "full":
            off = np.flatnonzero(i != j)
            i, j, entry = (
                np.concatenate([i, j[off]]),
                np.concatenate([j, i[off]]),
                np.concatenate([entry, entry[off]]),
            )
        # Sums are over runs of equal places, so entries are taken in their order.
        by_place = np.lexsort((j, i))
        i, j = i[by_place], j[by_place]
        new = np.append(True, (np.diff(i) != 0) | (np.diff(j) != 0))[: i.size]
        self._source = entry[by_place].astype(np.int32)
        self._place = np.cumsum(new, dtype=np.int32) - 1
        self.indices = j[new].astype(np.int32)
        counts = np.bincount(i[new], minlength=order)
        self.indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    @property
    def nnz(self) -> int:
        """How many entries are stored."""
        return self.indices.size

    def values(
        self, entries: Float[Array, " entries"], diagonal: Float[Array, " order"]
    ) -> Float[Array, " nnz"]:
        """The stored values, in the order of `indices`.

        **Arguments:**

        - `entries`: the values in the order of `rows` and `cols`, shape `(entries,)`.
        - `diagonal`: what is added to the diagonal, shape `(order,)`.
        """
        terms = jnp.concatenate([entries, diagonal])[self._source]
        return jax.ops.segment_sum(terms, self._place, self.nnz, indices_are_sorted=True)


@functools.lru_cache(maxsize=32)
def compress(assembly: Assembly, triangle: Triangle) -> CompressedRows:
    """The matrix of an assembly in CSR: its upper triangle, or all of it. It is kept."""
    return CompressedRows(assembly.order, assembly.rows, assembly.cols, triangle)
