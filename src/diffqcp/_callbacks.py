from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array


def host_callback(
    function: Callable[..., Any], results: Any, *arguments: Any, vmap_method: str
) -> Any:
    """`jax.pure_callback`, which keeps all digits of 64-bit numbers, and which on CPUs
    waits for nobody. It has no derivative.

    **Arguments:**

    - `function`: what is called, with NumPy arrays.
    - `results`: its results' shapes and dtypes, a PyTree of `jax.ShapeDtypeStruct`.
    - `arguments`: PyTrees of arrays.
    - `vmap_method`: as for `jax.pure_callback`.
    """
    if jax.default_backend() != "cpu":
        return _words_callback(function, results, arguments, vmap_method)

    # JAX's own callback copies larger arguments by a task for XLA's threads, while it
    # occupies one of them: if all are occupied so, for ever
    # (https://github.com/jax-ml/jax/issues/24255). This one hands over the memory itself.
    # It is XLA's, so the function gets copies, which it may keep.
    def call(context: Any, out: Any, *buffers: Any) -> None:
        del context
        jax.tree.map(_write, out, function(*jax.tree.map(_read, buffers)))

    return buffer_callback(call, results, vmap_method=vmap_method)(*arguments)


def _read(buffer: Any) -> np.ndarray:
    return np.asarray(buffer).copy()


def _write(buffer: Any, array: Any) -> None:
    target, array = np.asarray(buffer), np.asarray(array)
    if array.shape != target.shape:
        raise ValueError(f"expected a result of shape {target.shape}, got {array.shape}")
    target[...] = array


def _words_callback(
    function: Callable[..., Any], results: Any, arguments: tuple, vmap_method: str
) -> Any:
    """By `jax.pure_callback`. The thread in which XLA calls back does not know of
    `jax.enable_x64`, and where JAX's default is float32, it would round what goes in and
    comes out. So 64-bit numbers pass as pairs of 32-bit words.
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
