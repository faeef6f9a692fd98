from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO, BCSR

from .._structure_base import AbstractStructure, MatrixFreeStructure
from ..cones.psd import PSDOrder
from ..dense import QCPStructureDense
from ..sparsity import SparsityPattern
from ..structure import QCPStructureCPU


DETECT = "detect"


def as_pattern(name: str, given: Any) -> SparsityPattern | str | None:
    """A pattern from a matrix: the places of its stored entries if it is sparse, else of
    those that are not zero. None and `"detect"` stay what they are.

    **Raises:** `TypeError` or `ValueError`, naming the argument, if it is none.
    """
    if given is None or (isinstance(given, str) and given == DETECT):
        return given
    if isinstance(given, BCSR):
        given = given.to_bcoo()
    if isinstance(given, BCOO):
        indices = np.asarray(given.indices)
        return merged(indices[:, 0], indices[:, 1], given.shape)
    if sp.issparse(given):
        matrix: Any = sp.coo_array(given)
        return merged(matrix.row, matrix.col, matrix.shape)
    matrix = np.asarray(given)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise TypeError(
            f"{name}: expected a matrix, 'detect' or None, got a {type(given).__name__}"
        )
    rows, cols = np.nonzero(matrix)
    return merged(rows, cols, matrix.shape)


def merged(rows: Any, cols: Any, shape: Any) -> SparsityPattern:
    """A pattern with each place once, row after row."""
    shape = (int(shape[0]), int(shape[1]))
    places = np.unique(np.stack([rows, cols]).astype(np.int64), axis=1)
    return SparsityPattern(places[0], places[1], shape)


def make_structure(
    n: int,
    m: int,
    dims: Mapping[str, Any],
    psd_order: PSDOrder | None,
    hessian: SparsityPattern | None,
    jacobian: SparsityPattern | None,
    products: bool | None,
) -> AbstractStructure:
    """The structure of the local QCP: dense or matrix-free without any pattern.

    **Arguments:**

    - `products`: whether it is matrix-free. If None, where a dense one would be large.

    **Raises:** `ValueError`, naming the argument, for shapes or cones that do not fit.
    """
    if hessian is None and jacobian is None:
        if n * (n + m) > _MOST_ENTRIES if products is None else products:
            return MatrixFreeStructure(n, m, dims, psd_order=psd_order)
        zero = np.zeros(())
        P, A = np.broadcast_to(zero, (n, n)), np.broadcast_to(zero, (m, n))
        return QCPStructureDense(P, A, dims, psd_order=psd_order)
    hessian = _full(n, n) if hessian is None else hessian
    jacobian = _full(m, n) if jacobian is None else jacobian
    for name, pattern, shape in (
        ("hessian_pattern", hessian, (n, n)),
        ("jacobian_pattern", jacobian, (m, n)),
    ):
        if pattern.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {pattern.shape}")
    # An entry on one side of the diagonal stands for both.
    rows, cols = hessian.rows, hessian.cols
    upper = merged(np.minimum(rows, cols), np.maximum(rows, cols), (n, n))
    with jax.ensure_compile_time_eval():  # patterns are known, also under jit
        P, A = _matrix(upper), _matrix(jacobian)
        return QCPStructureCPU(P, A, dims, psd_order=psd_order)


_MOST_ENTRIES = 4000**2  # 128 MB in float64


def _full(rows: int, cols: int) -> SparsityPattern:
    places = np.indices((rows, cols)).reshape(2, -1)
    return merged(places[0], places[1], (rows, cols))


def _matrix(pattern: SparsityPattern) -> BCOO:
    indices: Any = np.stack([pattern.rows, pattern.cols], axis=1)
    values: Any = np.zeros(pattern.nnz)
    return BCOO((values, indices), shape=pattern.shape)
