from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import JAXSparse
from jaxtyping import Array, DTypeLike, Float


def as_vector(
    name: str, value: Any, size: int, dtype: DTypeLike | None = None
) -> Float[Array, " size"]:
    """`value` as a real vector of length `size`.

    **Raises:** `TypeError` or `ValueError`, naming the argument, if it is not one.
    """
    if isinstance(value, jax.Array) and value.shape == (size,) and value.dtype == dtype:
        return value  # the usual case, without the microseconds of the rest
    if isinstance(value, JAXSparse):
        raise TypeError(
            f"{name}: expected a vector of {size} stored values (the matrix's .data), "
            f"got a {type(value).__name__}"
        )
    array = jnp.asarray(value)
    if jnp.iscomplexobj(array):
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.shape != (size,):
        raise ValueError(f"{name}: expected shape {(size,)}, got {array.shape}")
    return array if dtype in (None, array.dtype) else array.astype(dtype)
