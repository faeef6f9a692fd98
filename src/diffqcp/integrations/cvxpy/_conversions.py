"""From CVXPY's terms to the package's."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO, BCSR

from ..._arrays import as_jax


# CVXPY's names of the cones, and the keys of the dictionary.
_KEYS: dict[str, str] = {
    "zero": "z",
    "nonneg": "l",
    "soc": "q",
    "psd": "s",
    "exp": "ep",
    "p3d": "p",
    "pnd": "pnd",
}


def cone_dims(dims: Any) -> dict[str, Any]:
    """CVXPY's `ConeDims` as an SCS-style dictionary. A cone without a key keeps its name,
    so that a structure refuses it by that, if there are any.
    """
    sizes: dict[str, Any] = vars(dims)
    return {_KEYS.get(name, name): value for name, value in sizes.items()}


def as_bcoo(matrix: Any) -> BCOO:
    """A SciPy matrix as BCOO. (`BCOO.from_scipy_sparse` compiles programs for that.)"""
    matrix = sp.coo_array(matrix)
    indices = np.stack([matrix.row, matrix.col], axis=1).astype(np.int32)
    parts = as_jax(np.array(matrix.data, float)), as_jax(indices)
    return BCOO(parts, shape=matrix.shape)


def as_bcsr(matrix: Any) -> BCSR:
    """A SciPy matrix as BCSR; likewise."""
    matrix = sp.csr_array(matrix)
    indices, indptr = (np.array(p, np.int32) for p in (matrix.indices, matrix.indptr))
    parts = as_jax(np.array(matrix.data, float)), as_jax(indices), as_jax(indptr)
    return BCSR(parts, shape=matrix.shape)


def pattern_matrix(places: np.ndarray, shape: tuple[int, int]) -> BCOO:
    """A matrix of ones at the places given, each a row and a column."""
    indices = as_jax(np.array(places.T, np.int32))
    return BCOO((as_jax(np.ones(len(indices))), indices), shape=shape)
