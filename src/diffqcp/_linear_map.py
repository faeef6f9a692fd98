"""Matrices of which only products are known."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float


class LinearMap(eqx.Module):
    """The matrix `diag(rows) M diag(cols)`, where `M` is known by its products only. It
    has the methods of [`diffqcp.sparsity.SparseMatrix`][] that need no entries.

    **Arguments:**

    - `product`, `transposed`: `M @ vector` and `M.T @ vector`. They are PyTrees, of the
        arrays that they close over, as `jax.linearize` returns them.
    - `rows`, `cols`: factors of its rows and of its columns.
    """

    product: Callable[..., Any]
    transposed: Callable[..., Any]
    rows: Float[Array, " rows"]
    cols: Float[Array, " cols"]

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and of columns."""
        return self.rows.size, self.cols.size

    def mv(self, vector: Float[Array, " cols"]) -> Float[Array, " rows"]:
        """`matrix @ vector`."""
        return self.rows * self.product(self.cols * vector)

    def transpose_mv(self, vector: Float[Array, " rows"]) -> Float[Array, " cols"]:
        """`matrix.T @ vector`."""
        return self.cols * self.transposed(self.rows * vector)

    def row_sizes(self, weights: Float[Array, " cols"]) -> Float[Array, " rows"]:
        """The norm of each row, with a weight for each column, within a factor of about
        two: products with random signs have in the mean its square (Bradley and Murray,
        "Matrix-free approximate equilibration", 2011).
        """
        return _root_mean_square(self.mv, weights)

    def col_sizes(self, weights: Float[Array, " rows"]) -> Float[Array, " cols"]:
        """The norm of each column, with a weight for each row; likewise."""
        return _root_mean_square(self.transpose_mv, weights)

    def scaled(
        self, rows: Float[Array, " rows"], cols: Float[Array, " cols"]
    ) -> "LinearMap":
        """Its rows and columns multiplied by these factors."""
        return LinearMap(
            self.product, self.transposed, rows * self.rows, self.cols * cols
        )

    def astype(self, dtype: Any) -> "LinearMap":
        """The map for vectors of another dtype. Products with `M` stay what they are."""
        own = self.cols.dtype
        product, transposed = (
            Partial(partial(_in_precision, own), part)
            for part in (self.product, self.transposed)
        )
        rows, cols = self.rows.astype(dtype), self.cols.astype(dtype)
        return LinearMap(product, transposed, rows, cols)

    def diagonal(self) -> Float[Array, " rows"]:
        """The diagonal, which takes as many products as there are columns."""
        return jnp.diagonal(self.as_matrix())

    def as_matrix(self) -> Float[Array, "rows cols"]:
        """The dense matrix, which takes as many products as there are columns."""
        units = jnp.eye(self.cols.size, dtype=self.cols.dtype)
        return jax.vmap(self.mv, out_axes=1)(units)


def _in_precision(dtype: Any, product: Callable[[Array], Array], vector: Array) -> Array:
    return product(vector.astype(dtype)).astype(vector.dtype)


def _root_mean_square(
    product: Callable[[Array], Array], weights: Float[Array, " d"]
) -> Float[Array, " e"]:
    bits = jax.random.bits(jax.random.key(0), weights.shape, jnp.uint8)
    vectors = [jnp.where(bits & (1 << k) > 0, weights, -weights) for k in range(8)]
    return jnp.sqrt(jnp.mean(jax.vmap(product)(jnp.stack(vectors)) ** 2, axis=0))
