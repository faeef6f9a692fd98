"""The compiled extension, native/module.cc, if there is one."""

import functools
import importlib
from typing import Any

import jax


@functools.cache
def extension() -> Any:
    """The module. None if it has not been compiled, or if SciPy's routines are none that
    it can call.
    """
    try:
        return importlib.import_module("diffqcp._ldl")
    except ImportError:
        return None


@functools.cache
def ffi_target(name: str) -> str:
    """What JAX calls one of the functions `handlers` of native/module.cc, which are for a
    single matrix.
    """
    target = f"diffqcp_{name}_matrix"
    jax.ffi.register_ffi_target(target, extension().handlers()[name], platform="cpu")
    return target
