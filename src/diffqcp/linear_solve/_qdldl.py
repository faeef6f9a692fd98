import threading

import jax
import jax.numpy as jnp
import numpy as np
import qdldl
import scipy.sparse as sp
import scipy.sparse.linalg as spl
from jaxtyping import Array, Bool, Float

from .._callbacks import host_callback
from ..sparsity import flat_places
from ._factorisation import AbstractInverse, all_at_least


class QDLDLFactorisation(AbstractInverse):
    """By QDLDL and SciPy, through callbacks: for where there is no compiled extension.

    Column by column, so it is slow where there is much fill. The items of a batch run one
    after the other. (Callbacks use NumPy only: JAX inside one may wait for itself.)

    **Attributes:**

    - `fill`: how many numbers the factor has.
    - `operations`: how many multiplications a factorisation takes.
    """

    fill: int
    operations: float

    def analyse(self) -> None:
        """Factorises once, for the pattern."""
        order, rows, cols = self.order, self._pattern.rows, self._pattern.cols
        self._lock = threading.Lock()  # the solver is changed by each factorisation
        # The upper triangle, its diagonal always stored: where each entry goes.
        diagonal = np.arange(order)
        i = np.concatenate([np.minimum(rows, cols), diagonal])
        j = np.concatenate([np.maximum(rows, cols), diagonal])
        self._places, self._place = np.unique(
            flat_places(j, i, order), return_inverse=True
        )
        # The first factorisation finds the pattern; a dominant diagonal lets it succeed.
        degrees = np.bincount(np.concatenate([rows, cols]), minlength=order)
        first = self._upper(np.ones(rows.size), 2.0 + 2 * degrees)
        self._solver = qdldl.Solver(first, upper=True)
        lower, _, self._pivots = self._solver.factors()
        self._lower = sp.csc_array(lower)
        self.fill = self._lower.nnz + order
        counts = np.diff(self._lower.indptr).astype(float)
        self.operations = float(np.sum(counts * (counts + 3) / 2))

    def factor(
        self, values: Float[Array, " entries"], shift: Float[Array, " N"]
    ) -> Array:
        """The factor as pairs of 32-bit words: JAX may have no doubles."""
        shape = jax.ShapeDtypeStruct((2 * self.fill,), jnp.uint32)
        return host_callback(
            self._factorise, shape, values, shift, vmap_method="sequential"
        )

    def is_definite(
        self, values: Float[Array, " entries"], least: float
    ) -> Bool[Array, ""]:
        """Whether the matrix is positive definite, with pivots of at least `least`."""
        factor = self.factor(values, jnp.zeros(self.order, values.dtype))
        return all_at_least(factor[-2 * self.order :], least)

    def solve(self, factor: Array, vector: Float[Array, " N"]) -> Float[Array, " N"]:
        """By `scipy.sparse.linalg.spsolve_triangular`."""
        shape = jax.ShapeDtypeStruct((self.order,), vector.dtype)
        return host_callback(self._solve, shape, factor, vector, vmap_method="sequential")

    def _upper(self, values: np.ndarray, diagonal: np.ndarray) -> sp.csc_array:
        # (SciPy's own sums leave out zeros, which are part of the pattern.)
        data = np.bincount(self._place, np.concatenate([values, diagonal]))
        starts = np.searchsorted(self._places, np.arange(self.order + 1) * self.order)
        shape = (self.order, self.order)
        return sp.csc_array((data, self._places % self.order, starts), shape)

    def _factorise(self, values: Array, shift: Array) -> np.ndarray:
        with self._lock:
            self._solver.update(
                self._upper(np.asarray(values), np.asarray(shift)), upper=True
            )
            lower, pivots, _ = self._solver.factors()
        return np.concatenate([lower.data, 1 / pivots]).view(np.uint32)

    def _solve(self, factor: Array, vector: Array) -> np.ndarray:
        numbers = np.asarray(factor).view(np.float64)
        entries, inverse = numbers[: -self.order], numbers[-self.order :]
        lower = sp.csc_array(
            (entries, self._lower.indices, self._lower.indptr), self._lower.shape
        )
        lower = sp.csr_array(lower)
        triangular = lambda matrix, right, low: spl.spsolve_triangular(  # noqa: E731
            matrix, right, lower=low, unit_diagonal=True
        )
        z = triangular(lower, np.asarray(vector, float)[self._pivots], True)
        solution = np.empty(self.order, vector.dtype)
        solution[self._pivots] = triangular(sp.csr_array(lower.T), z * inverse, False)
        return solution
