"""From CVXPY's terms to the package's."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO


def cone_dims(dims: Any) -> dict[str, Any]:
    """CVXPY's `ConeDims` as an SCS-style dictionary."""
    return {
        "z": dims.zero,
        "l": dims.nonneg,
        "q": dims.soc,
        "s": dims.psd,
        "ep": dims.exp,
        "p": dims.p3d,
        "pnd": dims.pnd,
    }


def pattern_matrix(places: np.ndarray, shape: tuple[int, int]) -> BCOO:
    """A matrix of ones at the places given, each a row and a column."""
    indices = jnp.asarray(places.T, jnp.int32)
    return BCOO((jnp.ones(len(indices)), indices), shape=shape)
