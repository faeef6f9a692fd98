"""Sparsity patterns of functions, by the package asdex, which follows what depends on
what through their operations.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..sparsity import SparsityPattern
from ._pattern import merged


def detect_hessian(function: Callable[..., Any], *arguments: Any) -> SparsityPattern:
    """Where second derivatives with respect to the first argument may be nonzero, for any
    values of the arguments.

    **Arguments:**

    - `arguments`: shapes and dtypes.

    **Raises:** `ImportError` without asdex.
    """
    return _pattern(_asdex().hessian_sparsity, function, arguments)


def detect_jacobian(function: Callable[..., Any], *arguments: Any) -> SparsityPattern:
    """Where first derivatives may be; as `detect_hessian`."""
    return _pattern(_asdex().jacobian_sparsity, function, arguments)


def _asdex() -> Any:
    try:
        import asdex
    except ImportError as error:
        raise ImportError(
            "hessian_pattern, jacobian_pattern: 'detect' needs the package asdex; "
            "install diffqcp[sparsity]"
        ) from error
    return asdex


def _pattern(
    detect: Callable[..., Any], function: Callable[..., Any], arguments: Any
) -> SparsityPattern:
    with jax.ensure_compile_time_eval():
        found = detect(
            function,
            *jax.tree.map(lambda part: np.zeros(part.shape, part.dtype), arguments),
        )
    return merged(np.asarray(found.rows), np.asarray(found.cols), found.shape)
