import math
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import JAXSparse
from jaxtyping import Array, DTypeLike, Float

from ._arrays import as_jax


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
    array = as_numbers(name, value, f"a real vector of shape {(size,)}")
    if array.shape != (size,):
        raise ValueError(f"{name}: expected shape {(size,)}, got {array.shape}")
    return array if dtype in (None, array.dtype) else array.astype(dtype)


def as_host_vector(name: str, value: Any, size: int) -> np.ndarray:
    """As `as_vector`, but as an array of NumPy, in float64."""
    if type(value) is not np.ndarray or value.dtype.kind not in "fiu":
        value = as_vector(name, value, size)
    if value.shape != (size,):
        raise ValueError(f"{name}: expected shape {(size,)}, got {value.shape}")
    return np.asarray(value, np.float64, order="C")


def as_numbers(name: str, value: Any, wanted: str) -> Array:
    """`value`, which may be a list, as an array of real numbers.

    **Arguments:**

    - `wanted`: what was expected, in words.

    **Raises:** `TypeError`, naming the argument, if it is not one.
    """
    if isinstance(value, jax.Array):
        array = value
    else:
        # (NumPy takes a sparse matrix or None for one object.)
        try:
            array = np.asarray(value)
        except Exception as error:
            raise TypeError(f"{name}: expected {wanted}, got {_kind(value)}") from error
    check_real(name, array.dtype, wanted, value)
    return array if isinstance(array, jax.Array) else as_jax(np.array(array))


def check_real(name: str, dtype: Any, wanted: str, value: Any) -> None:
    """**Raises:** `TypeError`, naming the argument, unless `dtype` is of real numbers."""
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        of = "" if np.dtype(dtype) == object else f" of dtype {dtype}"
        raise TypeError(f"{name}: expected {wanted}, got {_kind(value)}{of}")


def check_number(
    name: str,
    value: Any,
    *,
    above: float | int = -math.inf,
    below: float | int = math.inf,
    integer: bool = False,
) -> None:
    """For an option that is one number.

    **Raises:** `TypeError` or `ValueError`, naming the argument, unless it is a number,
    an integer if `integer`, strictly between `above` and `below`.
    """
    kind = Integral if integer else Real
    wanted = "an integer" if integer else "a number"
    if above > -math.inf:
        wanted += f" above {above:g}"
    if below < math.inf:
        wanted += f" and below {below:g}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, kind):
        raise TypeError(f"{name}: expected {wanted}, got {value!r}")
    if not above < float(value) < below:
        raise ValueError(f"{name}: expected {wanted}, got {value!r}")


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
