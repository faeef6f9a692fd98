import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import as_numbers


@dataclass(frozen=True)
class Layout:
    """How a PyTree of arrays lies in one vector. Static: it compares by value.

    - `tree`: its structure, as `jax.tree.structure` has it.
    - `shapes`: those of its leaves.
    - `dtype`: the name of the vector's dtype, the widest one of the leaves.
    """

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    @classmethod
    def of(cls, name: str, values: Any) -> "Layout":
        """The layout of a PyTree.

        **Raises:** `TypeError`, naming the argument, for leaves that are no real numbers.
        """
        leaves, tree = jax.tree.flatten(values)
        arrays = [as_numbers(name, leaf, "arrays of real numbers") for leaf in leaves]
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(float, *arrays)
        return cls(tree, tuple(array.shape for array in arrays), np.dtype(dtype).name)

    @property
    def size(self) -> int:
        """The length of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def ravel(self, name: str, values: Any) -> Float[Array, " n"]:
        """A PyTree of this layout as a vector.

        **Raises:** `ValueError`, naming the argument, for another structure or shapes.
        """
        leaves, tree = jax.tree.flatten(values)
        shapes = tuple(np.shape(leaf) for leaf in leaves)
        if tree != self.tree or shapes != self.shapes:
            raise ValueError(
                f"{name}: expected leaves of the shapes {self.shapes} in {self.tree}, "
                f"got {shapes} in {tree}"
            )
        parts = [jnp.asarray(leaf).astype(self.dtype).ravel() for leaf in leaves]
        return jnp.concatenate(parts) if parts else jnp.zeros(0, self.dtype)

    def unravel(self, vector: Float[Array, " n"]) -> Any:
        """The PyTree of a vector."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = jnp.split(vector, ends[:-1]) if self.shapes else []
        leaves = [
            part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.tree, leaves)
