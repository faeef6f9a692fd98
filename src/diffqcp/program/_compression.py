"""Sparse Jacobians from a few products: columns that share no row are one product.

(Curtis, Powell and Reid, "On the estimation of sparse Jacobian matrices", J. Inst. Maths
Applics 13, 1974.) A dense matrix is the case in which every column is a product.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float

from .._static import StaticArray
from ..sparsity import SparsityPattern


class Compression:
    """Which products give the entries of a matrix with a known pattern. Static: it hashes
    and compares by value.

    **Arguments:**

    - `pattern`: where the entries are.
    - `symmetric`: whether the matrix is symmetric, and the pattern may have one of each
        pair of entries only.

    **Attributes:**

    - `forward`: whether the products are with the matrix; else with its transpose.
    - `products`: how many there are.
    """

    def __init__(self, pattern: SparsityPattern, *, symmetric: bool = False):
        rows, cols = pattern.rows, pattern.cols
        all_rows = np.concatenate([rows, cols]) if symmetric else rows
        all_cols = np.concatenate([cols, rows]) if symmetric else cols
        matrix: Any = sp.csr_array(
            (np.ones(all_rows.size, np.int32), (all_rows, all_cols)), shape=pattern.shape
        )
        # Columns of one group share no row, so there are as many groups at least as
        # entries in the fullest row.
        in_rows = int(np.diff(matrix.indptr).max(initial=0))
        in_cols = int(np.diff(matrix.tocsc().indptr).max(initial=0))
        self.forward = symmetric or in_rows <= in_cols
        height, width = pattern.shape
        if not self.forward:
            matrix, rows, cols = matrix.T.tocsr(), cols, rows
            height, width = width, height
        self.dense = matrix.nnz == height * width
        group = np.arange(width) if self.dense else _groups(matrix)
        self.products = int(group.max(initial=-1)) + 1
        self._height, self._group = height, StaticArray(group)
        self._place, self._product = StaticArray(rows), StaticArray(group[cols])
        entries = matrix.tocoo()
        self._rows, self._cols = StaticArray(entries.row), StaticArray(entries.col)
        self._key = (self.forward, self._group, self._place, self._product, self._rows)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compression) and self._key == other._key

    def values(
        self, product: Callable[[Array], Array], x: Float[Array, " n"]
    ) -> tuple[Float[Array, " nnz"], Float[Array, ""]]:
        """The entries, in the order of the pattern.

        **Arguments:**

        - `product`: a vector to the matrix times it, as `jax.linearize` returns it.
        - `x`: such a vector.

        **Returns:** the entries, and by how much the product with a random vector
        differs from what they say, relative to it: there may be entries outside of the
        pattern.
        """
        if not self.forward:
            pull = jax.linear_transpose(product, x)
            product = lambda vector: pull(vector)[0]  # noqa: E731
        dtype = x.dtype
        group, products = self._group.value, np.arange(self.products, dtype=np.int32)
        seeds = jnp.asarray(group[None, :] == products[:, None], dtype)
        if self.products == 0:
            return jnp.zeros(self._place.value.size, dtype), jnp.zeros((), dtype)
        if self.dense:
            found = jax.vmap(product)(seeds)
            return found[self._product.value, self._place.value], jnp.zeros((), dtype)
        probe = jnp.asarray(np.random.default_rng(0).normal(size=group.size), dtype)
        found = jax.vmap(product)(jnp.concatenate([seeds, probe[None, :]]))
        rows, cols = self._rows.value, self._cols.value
        terms = found[group[cols], rows] * probe[cols]
        said = jnp.zeros(self._height, dtype).at[rows].add(terms)
        size = jnp.max(jnp.abs(found[-1]), initial=0)
        missing = jnp.max(jnp.abs(found[-1] - said), initial=0)
        missing = missing / jnp.where(size > 0, size, 1)
        return found[self._product.value, self._place.value], missing


def _groups(matrix: Any) -> np.ndarray:
    """A number for each column, such that columns with the same one share no row: the
    smallest that its predecessors leave.
    """
    neighbours = (matrix.T.astype(np.int64) @ matrix.astype(np.int64)).tocsr()
    group = np.full(matrix.shape[1], -1)
    for col in range(matrix.shape[1]):
        start, end = neighbours.indptr[col : col + 2]
        taken = group[neighbours.indices[start:end]]
        used = np.zeros(taken.size + 1, bool)
        used[taken[(taken >= 0) & (taken <= taken.size)]] = True
        group[col] = int(np.argmin(used))
    return group
