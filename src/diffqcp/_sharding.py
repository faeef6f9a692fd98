from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array


_Arrays = TypeVar("_Arrays")


def vary_together(arrays: _Arrays) -> _Arrays:
    """The same numbers, of one type under `jax.shard_map`.

    There the type of an array has the axes of the mesh over which it varies, and the
    branches of a condition, the carry of a loop and the parts of a linear system must all
    have one type. A zero that varies as one of the arrays does is added to all of them.
    Elsewhere they have one type anyway.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return arrays
    zero = jnp.zeros((), jnp.int8)
    for leaf in jax.tree.leaves(arrays):
        zero = zero + jnp.zeros_like(leaf, dtype=jnp.int8, shape=())

    def varying(leaf: Array) -> Array:
        if leaf.dtype == jnp.bool:
            return leaf | (zero > 0)
        return leaf + jnp.asarray(zero, leaf.dtype)

    return jax.tree.map(varying, arrays)
