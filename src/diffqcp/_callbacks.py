import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def _cpus() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# JAX copies larger arguments of a callback by a task for XLA's threads, while the
# callback waits for them on one of these: with a single thread, for ever
# (https://github.com/jax-ml/jax/issues/24255). There are as many threads as CPUs, or as
# this variable says when XLA starts.
if _cpus() == 1:
    os.environ.setdefault("NPROC", "2")


def host_callback(
    function: Callable[..., Any], results: Any, *arguments: Any, vmap_method: str
) -> Any:
    """`jax.pure_callback`, which keeps all digits of 64-bit numbers.

    The thread in which XLA calls back does not know of `jax.enable_x64`, and where JAX's
    default is float32, it would round what goes in and comes out. So such numbers pass
    as pairs of 32-bit words. They have no derivative.

    **Arguments:**

    - `function`: what is called, with NumPy arrays.
    - `results`: its results' shapes and dtypes, a PyTree of `jax.ShapeDtypeStruct`.
    - `arguments`: PyTrees of arrays.
    - `vmap_method`: as for `jax.pure_callback`.
    """

    def shape_of_words(result: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if not _is_wide(result.dtype):
            return result
        return jax.ShapeDtypeStruct((*result.shape, 2), jnp.uint32)

    types = jax.tree.map(lambda leaf: leaf.dtype, arguments)

    def call(*words: Any) -> Any:
        found = function(*jax.tree.map(_from_words, words, types))
        return jax.tree.map(_as_words, found, results)

    shapes = jax.tree.map(shape_of_words, results)
    words = jax.pure_callback(
        call, shapes, *jax.tree.map(_split, arguments), vmap_method=vmap_method
    )
    return jax.tree.map(lambda part, result: _join(part, result.dtype), words, results)


def _is_wide(dtype: Any) -> bool:
    return np.dtype(dtype).itemsize == 8


def _split(array: Array) -> Array:
    wide = _is_wide(array.dtype)
    return jax.lax.bitcast_convert_type(array, jnp.uint32) if wide else array


def _join(words: Array, dtype: Any) -> Array:
    return jax.lax.bitcast_convert_type(words, dtype) if _is_wide(dtype) else words


def _from_words(words: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(words)
    return np.ascontiguousarray(array).view(dtype)[..., 0] if _is_wide(dtype) else array


def _as_words(array: Any, result: jax.ShapeDtypeStruct) -> np.ndarray:
    array = np.asarray(array, result.dtype)
    if not _is_wide(result.dtype):
        return array
    return np.ascontiguousarray(array)[..., None].view(np.uint32)
