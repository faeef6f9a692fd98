"""Sparse matrices with a static pattern: NumPy indices, JAX values."""

from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._static import as_indices, StaticArray


def flat_places(outer: np.ndarray, inner: np.ndarray, length: int) -> np.ndarray:
    """`outer * length + inner`, in 64 bits: indices of 32 bits have products that are
    larger.
    """
    return outer.astype(np.int64) * length + inner


@jax.tree_util.register_static
class SparsityPattern:
    """Where the stored entries of a matrix are: entry `k` at `(rows[k], cols[k])`.

    Compared by value, and hashed once.

    **Attributes:**

    - `rows`, `cols`: the row and the column of each entry.
    - `shape`: of the matrix.
    - `nnz`: how many entries are stored.
    """

    def __init__(self, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]):
        self._rows = StaticArray(as_indices("rows", rows))
        self._cols = StaticArray(as_indices("cols", cols))
        self.rows, self.cols = self._rows.value, self._cols.value
        self.shape = shape
        self.nnz = self.rows.size

    def __reduce__(self) -> tuple[Any, ...]:
        return SparsityPattern, (self.rows, self.cols, self.shape)

    def __hash__(self) -> int:
        return hash((self._rows, self._cols, self.shape))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, SparsityPattern) and (
            (self.shape, self._rows, self._cols)
            == (other.shape, other._rows, other._cols)
        )

    def __repr__(self) -> str:
        return f"SparsityPattern(nnz={self.nnz}, shape={self.shape})"

    @cached_property
    def full(self) -> bool:
        """Whether all entries are stored, row after row."""
        if self.nnz != self.shape[0] * self.shape[1]:
            return False
        rows, cols = np.indices(self.shape).reshape(2, -1)
        return np.array_equal(self.rows, rows) and np.array_equal(self.cols, cols)


class SparseMatrix(eqx.Module):
    """A matrix with a static pattern."""

    values: Float[Array, " nnz"]
    pattern: SparsityPattern

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and of columns."""
        return self.pattern.shape

    def mv(self, vector: Float[Array, " cols"]) -> Float[Array, " rows"]:
        """`matrix @ vector`."""
        if self.pattern.full:  # products are many times faster than scattered sums
            return jnp.matmul(self.as_matrix(), vector, precision="highest")
        terms = self.values * vector[self.pattern.cols]
        return _sum_into(terms, self.pattern.rows, self.pattern.shape[0])

    def transpose_mv(self, vector: Float[Array, " rows"]) -> Float[Array, " cols"]:
        """`matrix.T @ vector`."""
        if self.pattern.full:
            return jnp.matmul(vector, self.as_matrix(), precision="highest")
        terms = self.values * vector[self.pattern.rows]
        return _sum_into(terms, self.pattern.cols, self.pattern.shape[1])

    def row_sizes(self, weights: Float[Array, " cols"]) -> Float[Array, " rows"]:
        """The largest absolute value in each row, with a weight for each column."""
        if self.pattern.full:
            values = jnp.abs(self.values).reshape(self.pattern.shape)
            return jnp.max(values * weights[None, :], axis=1, initial=0)
        sizes = jnp.abs(self.values) * weights[self.pattern.cols]
        return _largest_of(sizes, self.pattern.rows, self.pattern.shape[0])

    def col_sizes(self, weights: Float[Array, " rows"]) -> Float[Array, " cols"]:
        """The largest absolute value in each column, with a weight for each row."""
        if self.pattern.full:
            values = jnp.abs(self.values).reshape(self.pattern.shape)
            return jnp.max(values * weights[:, None], axis=0, initial=0)
        sizes = jnp.abs(self.values) * weights[self.pattern.rows]
        return _largest_of(sizes, self.pattern.cols, self.pattern.shape[1])

    def scaled(
        self, rows: Float[Array, " rows"], cols: Float[Array, " cols"]
    ) -> "SparseMatrix":
        """The matrix with its rows and columns multiplied by these factors."""
        if self.pattern.full:
            matrix = rows[:, None] * self.as_matrix() * cols[None, :]
            return SparseMatrix(matrix.ravel(), self.pattern)
        values = rows[self.pattern.rows] * self.values * cols[self.pattern.cols]
        return SparseMatrix(values, self.pattern)

    def diagonal(self) -> Float[Array, " rows"]:
        """The diagonal of a square matrix."""
        on = np.flatnonzero(self.pattern.rows == self.pattern.cols)
        none = jnp.zeros(self.pattern.shape[0], self.values.dtype)
        return none.at[self.pattern.rows[on]].set(self.values[on])

    def as_matrix(self) -> Float[Array, "rows cols"]:
        """The dense matrix."""
        if self.pattern.full:
            return self.values.reshape(self.pattern.shape)
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


def _largest_of(
    sizes: Float[Array, " nnz"], index: np.ndarray, count: int
) -> Float[Array, " count"]:
    return jnp.zeros(count, sizes.dtype).at[index].max(sizes)
