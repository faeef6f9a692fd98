from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from .sparsity import SparsityPattern
from .structure import AbstractQCPStructure


@jax.tree_util.register_static
class QCPStructureDense(AbstractQCPStructure):
    """The structure of a QCP whose `P` and `A` are dense arrays.

    Every entry is stored, row after row, and `P` is all of the symmetric matrix.

    **Arguments:**

    - `P`: an array of shape `(n, n)`, or `(batch, n, n)`. Only its shape matters, so it
        may be traced.
    - `A`: an array of shape `(m, n)`; likewise.
    - `cone_dims`, `onto_dual`, `psd_order`: as for [`diffqcp.QCPStructureCPU`][].

    **Raises:** `TypeError` or `ValueError`, naming the argument, for sparse matrices, and
    for shapes or cones that do not fit together.
    """

    def _check_format(self, name: str, matrix: Any) -> None:
        if not isinstance(matrix, (jax.Array, np.ndarray)):
            raise TypeError(f"{name}: expected a dense array, got {type(matrix)}")

    def _stored(self, matrix: Any) -> Any:
        return matrix.ravel()

    def _indices(self, matrix: Any) -> tuple[Array, ...]:
        return ()

    def _expand(
        self, name: str, shape: tuple[int, int], *indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        del name, indices
        rows, cols = np.indices(shape)
        return rows.ravel(), cols.ravel()

    def _complete(
        self, stored: SparsityPattern
    ) -> tuple[SparsityPattern, np.ndarray, np.ndarray]:
        return stored, np.arange(stored.nnz), np.ones(stored.nnz, int)

    def wrap(self, values: Float[Array, " nnz"], pattern: SparsityPattern) -> Array:
        """The array."""
        return values.reshape(pattern.shape)
