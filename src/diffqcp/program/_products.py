from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from .._linear_map import LinearMap


@dataclass(frozen=True)
class Products:
    """In the place of a `Compression` where a matrix of derivatives is not formed: all
    that is known of it are its products.

    - `symmetric`: whether it is symmetric; else its transpose is derived.
    """

    symmetric: bool = False

    def values(
        self, product: Callable[[Array], Array], x: Float[Array, " n"]
    ) -> tuple[LinearMap, Float[Array, ""]]:
        """The matrix, and zero, since nothing is left out; see `Compression.values`."""
        rows = cols = jnp.ones_like(x)
        transposed = product
        if not self.symmetric:
            rows = jnp.ones_like(x, shape=jax.eval_shape(product, x).shape)
            pull = jax.linear_transpose(product, x)
            transposed = Partial(_only, pull)
        return LinearMap(product, transposed, rows, cols), jnp.zeros_like(x[0])


def _only(pull: Callable[[Array], tuple[Array]], vector: Array) -> Array:
    return pull(vector)[0]
