"""Sparse matrices with a static pattern: NumPy indices, JAX values."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._static import StaticArray


def as_indices(name: str, values: Any) -> np.ndarray:
    """Indices in 32 bits, as JAX and the factorisations take them.

    **Arguments:**

    - `name`: what they are called in an error.
    - `values`: integers.

    **Raises:** `TypeError` for anything but integers, `ValueError` for those that do not
    fit into 32 bits.
    """
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.dtype != np.int32 and array.size:
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(
                f"{name}: expected integers of 32 bits, got {array.min()} to "
                f"{array.max()}"
            )
    return array.astype(np.int32, copy=False)


def flat_places(outer: np.ndarray, inner: np.ndarray, length: int) -> np.ndarray:
    """`outer * length + inner`, in 64 bits: indices of 32 bits have products that are
    larger.
    """
    return outer.astype(np.int64) * length + inner


class SparsityPattern(eqx.Module):
    """Where the stored entries of a matrix are: entry `k` at `(rows[k], cols[k])`."""

    _rows: StaticArray = eqx.field(static=True)
    _cols: StaticArray = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]):
        self._rows = StaticArray(as_indices("rows", rows))
        self._cols = StaticArray(as_indices("cols", cols))
        self.shape = shape

    @property
    def rows(self) -> np.ndarray:
        """The row of each entry."""
        return self._rows.value

    @property
    def cols(self) -> np.ndarray:
        """The column of each entry."""
        return self._cols.value

    @property
    def nnz(self) -> int:
        """How many entries are stored."""
        return self.rows.size


class SparseMatrix(eqx.Module):
    """A matrix with a static pattern."""

    values: Float[Array, " nnz"]
    pattern: SparsityPattern

    def mv(self, vector: Float[Array, " cols"]) -> Float[Array, " rows"]:
        """`matrix @ vector`."""
        terms = self.values * vector[self.pattern.cols]
        return _sum_into(terms, self.pattern.rows, self.pattern.shape[0])

    def transpose_mv(self, vector: Float[Array, " rows"]) -> Float[Array, " cols"]:
        """`matrix.T @ vector`."""
        terms = self.values * vector[self.pattern.rows]
        return _sum_into(terms, self.pattern.cols, self.pattern.shape[1])

    def as_matrix(self) -> Float[Array, "rows cols"]:
        """The dense matrix."""
        zeros = jnp.zeros(self.pattern.shape, self.values.dtype)
        return zeros.at[self.pattern.rows, self.pattern.cols].add(self.values)


class SymmetricMatrix(eqx.Module):
    """A symmetric matrix with a static pattern that has one of each pair of entries off
    the diagonal. Those with the same place add up.
    """

    values: Float[Array, " nnz"]
    pattern: SparsityPattern

    def mv(self, vector: Float[Array, " N"]) -> Float[Array, " N"]:
        """`matrix @ vector`."""
        rows, cols = self.pattern.rows, self.pattern.cols
        off = np.flatnonzero(rows != cols)
        product = _sum_into(self.values * vector[cols], rows, self.pattern.shape[0])
        return product.at[cols[off]].add(self.values[off] * vector[rows[off]])


def _sum_into(
    terms: Float[Array, " nnz"], index: np.ndarray, size: int
) -> Float[Array, " size"]:
    return jnp.zeros(size, terms.dtype).at[index].add(terms)
