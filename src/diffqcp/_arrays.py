"""Arrays of JAX from arrays of NumPy, eagerly.

`jnp.asarray` compiles a program for each shape, and takes 20 us afterwards. The function
of JAX that it ends in takes 2 us and compiles nothing, but it is not public. Where the
installed JAX does not have it, or has it with other arguments, `jnp.asarray` is used.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array


def as_jax(array: np.ndarray) -> Array:
    """A JAX array on the default device, with the dtype of `array`, or with what takes
    its place while JAX has no 64-bit numbers. It is concrete under transformations, too.

    **Arguments:**

    - `array`: must not be changed afterwards, since it is not copied.
    """
    place = _place(getattr(jax.config, "jax_default_device", None))
    return _as_jax([array], array.dtype, place)[0]


def as_jax_like(arrays: Sequence[np.ndarray], like: Array) -> list[Array]:
    """As `as_jax`, with the type and the device of another array."""
    return _as_jax(arrays, like.dtype, like.sharding)


def _as_jax(arrays: Sequence[np.ndarray], dtype: Any, place: Any) -> list[Array]:
    dtype = jax.dtypes.canonicalize_dtype(dtype)  # JAX may have no float64 now
    put = _put()
    if put is None or type(place) is not SingleDeviceSharding:
        return [jnp.asarray(array, dtype) for array in arrays]
    devices = list(place.device_set)
    return [
        put(_aval(array.shape, dtype), place, [_aligned(array, dtype)], devices, False)
        for array in arrays
    ]


def empty(*sizes: int) -> tuple[np.ndarray, ...]:
    """Vectors of float64 that JAX takes as they are, without a copy. (It copies large
    ones on threads of its own, which a process that was forked does not have.)
    """
    buffer = np.empty(sum(sizes) + _WORDS * (len(sizes) + 1))
    start = -(buffer.__array_interface__["data"][0] // 8) % _WORDS
    parts = []
    for size in sizes:
        parts.append(buffer[start : start + size])
        start += -(-size // _WORDS) * _WORDS
    return tuple(parts)


_WORDS = 8  # XLA wants arrays aligned to that many words of 8 bytes


def _aligned(array: np.ndarray, dtype: Any) -> np.ndarray:
    fits = array.dtype == dtype and array.flags.c_contiguous
    if fits and array.__array_interface__["data"][0] % (8 * _WORDS) == 0:
        return array
    words = -(-array.size * dtype.itemsize // 8)
    copy = empty(words)[0].view(np.uint8)[: array.size * dtype.itemsize]
    copy = copy.view(dtype).reshape(array.shape)
    copy[...] = array
    return copy


@functools.lru_cache(maxsize=256)
def _aval(shape: tuple[int, ...], dtype: Any) -> ShapedArray:
    return ShapedArray(shape, dtype)


@functools.lru_cache
def _place(device: Any) -> Any:
    if device is None:
        return SingleDeviceSharding(jax.local_devices()[0])
    return SingleDeviceSharding(device) if isinstance(device, jax.Device) else None


@functools.lru_cache
def _put() -> Any:
    device, one = jax.local_devices()[0], np.ones(1, np.float32)
    place = SingleDeviceSharding(device)
    try:
        from jax._src.lib import xla_client  # pyright: ignore[reportPrivateImportUsage]

        put = xla_client.batched_device_put
        made = put(_aval((1,), one.dtype), place, [one], [device], False)
    except (AttributeError, ImportError, TypeError):
        return None
    fine = isinstance(made, jax.Array) and not made.committed and np.asarray(made) == one
    return put if fine else None
