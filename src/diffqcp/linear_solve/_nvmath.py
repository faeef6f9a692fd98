"""cuDSS through callbacks, by nvmath-python. Needs the extra `gpu`."""

import threading
import weakref
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float
from nvmath.sparse.advanced import (  # pyright: ignore[reportMissingImports]
    DirectSolver,
    DirectSolverMatrixType,
    DirectSolverMatrixViewType,
)

from .._callbacks import host_callback
from ..csr import CompressedRows
from ._factorisation import AbstractInverse


class NvmathFactorisation(AbstractInverse):
    """LDL' by cuDSS on the GPU, with values and right-hand sides that pass through the
    memory of the host.

    cuDSS analyses the pattern once. Only the factors of the last matrix are kept: a solve
    with another matrix factorises that one first.
    """

    def analyse(self) -> None:
        """The pattern in CSR; cuDSS analyses it with the first values."""
        rows, cols = self._pattern.rows, self._pattern.cols
        self._rows = CompressedRows(self.order, rows, cols, "upper")
        self._lock = threading.Lock()
        self._solver: Any = None
        self._current: np.ndarray | None = None

    def factor(
        self, values: Float[Array, " entries"], shift: Float[Array, " N"]
    ) -> Float[Array, " nnz"]:
        """The matrix in CSR. `solve` factorises it."""
        return self._rows.values(values, shift)

    def solve(
        self, factor: Float[Array, " nnz"], vector: Float[Array, " N"]
    ) -> Float[Array, " N"]:
        """By `DirectSolver`."""
        shape = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
        return host_callback(self._solve, shape, factor, vector, vmap_method="sequential")

    def _solve(self, factor: Array, vector: Array) -> np.ndarray:
        matrix, right = np.array(factor), np.array(vector)
        if not (np.all(np.isfinite(matrix)) and np.all(np.isfinite(right))):
            return np.full_like(right, np.nan)
        with self._lock:
            if self._current is None or not np.array_equal(self._current, matrix):
                self._factorise(matrix, right)
            self._solver.reset_operands(b=right)
            return np.asarray(self._solver.solve())

    def _factorise(self, values: np.ndarray, right: np.ndarray) -> None:
        parts = (values, self._rows.indices, self._rows.indptr)
        matrix = sp.csr_array(parts, shape=(self.order, self.order))
        self._current = None  # an error below leaves no factors
        if self._solver is None or self._dtype != values.dtype:
            options = {
                "sparse_system_type": DirectSolverMatrixType.SYMMETRIC,
                "sparse_system_view": DirectSolverMatrixViewType.UPPER,
            }
            self._solver, self._dtype = (
                DirectSolver(matrix, right, options=options),
                values.dtype,
            )
            weakref.finalize(self, self._solver.free)
            self._solver.plan()
        else:
            self._solver.reset_operands(a=matrix)
        self._solver.factorize()
        self._current = values
