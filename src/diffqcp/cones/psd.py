from functools import partial
from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from .._lapack import eigh
from ._base import AbstractCone, AbstractEigenvectors, ConeJacobian
from ._central import divided_difference


PSDOrder: TypeAlias = Literal["lower", "upper"]


def triangle(size: int, order: PSDOrder) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each entry of a packed triangle, column after column."""
    if order == "upper":
        cols, rows = np.tril_indices(size)
    else:
        cols, rows = np.triu_indices(size)
    return rows, cols


def pack(matrix: Float[Array, "size size"], order: PSDOrder) -> Float[Array, " d"]:
    """A symmetric matrix as a vector with the same inner product: its triangle, with
    entries off the diagonal times `sqrt(2)`.
    """
    rows, cols = triangle(matrix.shape[0], order)
    scale = np.where(rows == cols, 1.0, np.sqrt(2.0))
    return matrix[rows, cols] * jnp.asarray(scale, matrix.dtype)


def unpack(
    vector: Float[Array, " d"], size: int, order: PSDOrder
) -> Float[Array, "size size"]:
    """The inverse of `pack`."""
    position, scale = unpacking(size, order)
    return vector[position] * jnp.asarray(scale, vector.dtype)


def unpacking(size: int, order: PSDOrder) -> tuple[np.ndarray, np.ndarray]:
    """Where each entry of a matrix is in its packed triangle, and what it is times."""
    rows, cols = triangle(size, order)
    position = np.zeros((size, size), int)
    position[rows, cols] = position[cols, rows] = np.arange(rows.size)
    scale = np.full((size, size), np.sqrt(0.5))
    np.fill_diagonal(scale, 1.0)
    return position, scale


class PSDEigenvectors(AbstractEigenvectors):
    """The map `C -> Q C Q'` on packed symmetric matrices, for an orthogonal `Q`."""

    basis: Float[Array, "size size"]
    order: PSDOrder = eqx.field(static=True)

    def _congruence(
        self, basis: Float[Array, "size size"], vector: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        matrix = unpack(vector, basis.shape[0], self.order)
        rotated = jnp.linalg.multi_dot([basis, matrix, basis.T], precision="highest")
        return pack(rotated, self.order)

    def mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._congruence(self.basis, vector)

    def transpose_mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._congruence(self.basis.T, vector)


class PSDCone(AbstractCone):
    """Positive semidefinite `size` x `size` matrices, as packed triangles. Self-dual.

    A matrix is stored as one triangle, column after column, with entries off the
    diagonal times `sqrt(2)`, so that inner products are kept.

    **Arguments:**

    - `size`: the order of the matrices, at least 1; `dim` is `size * (size + 1) / 2`.
    - `order`: `"lower"` for the lower triangle by columns (SCS), `"upper"` for the
        upper triangle by columns (Clarabel). They differ from size 3 on.

    **Raises:** `ValueError` for any other `size` or `order`.
    """

    size: int = eqx.field(static=True)
    order: PSDOrder = eqx.field(static=True)

    def __check_init__(self):
        if self.size < 1:
            raise ValueError(f"PSDCone: size must be at least 1, got {self.size}")
        if self.order not in ("lower", "upper"):
            raise ValueError(
                f"PSDCone: order must be 'lower' or 'upper', got {self.order!r}"
            )

    @property
    def dim(self) -> int:
        """`size * (size + 1) / 2`."""
        return self.size * (self.size + 1) // 2

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """Negative eigenvalues replaced by zero."""
        values, basis = eigh(unpack(v, self.size, self.order))
        kept = basis * jnp.maximum(values, 0)[None, :]
        return pack(jnp.matmul(kept, basis.T, precision="highest"), self.order)

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """`D(W) = Q (B o Q'WQ) Q'` with `V = Q diag(l) Q'` and
        `B_ij = (max(l_i, 0) - max(l_j, 0)) / (l_i - l_j)`.

        `B` is 1 where `l_i, l_j > 0`, 0 where neither is, and otherwise
        `l_+ / (l_+ - l_-)`, so equal eigenvalues never divide zero by zero. (Malick and
        Sendov, "Clarke generalized Jacobian of the projection onto the cone of positive
        semidefinite matrices", Set-Valued Analysis 14, 2006.)
        """
        values, basis = eigh(unpack(v, self.size, self.order))
        rows, cols = triangle(self.size, self.order)
        high = jnp.maximum(values[rows], values[cols])
        low = jnp.minimum(values[rows], values[cols])
        across = high / jnp.where(high > low, high - low, 1)
        eigenvalues = jnp.where(low > 0, 1, jnp.where(high > 0, across, 0))
        return ConeJacobian(
            eigenvalues.astype(v.dtype), PSDEigenvectors(basis, self.order)
        )

    def smoothed_jacobian(self, v: Float[Array, " d"], mu: ScalarLike) -> ConeJacobian:
        """`-log det` is the barrier."""
        values, basis = eigh(unpack(v, self.size, self.order))
        rows, cols = triangle(self.size, self.order)
        eigenvalues = divided_difference(values[rows], values[cols], mu)
        return ConeJacobian(eigenvalues, PSDEigenvectors(basis, self.order))

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """By a rule of its own, which divides by no difference of eigenvalues of the
        same sign: its derivative exists wherever no eigenvalue is zero.
        """
        return _differential(self, v, dv)

    def dual(self) -> "PSDCone":
        """The cone itself."""
        return self


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _differential(
    cone: PSDCone, v: Float[Array, " d"], dv: Float[Array, " d"]
) -> Float[Array, " d"]:
    return cone.jacobian(v).mv(dv)


@_differential.defjvp
def _second_differential(
    cone: PSDCone,
    primals: tuple[Float[Array, " d"], Float[Array, " d"]],
    tangents: tuple[Float[Array, " d"], Float[Array, " d"]],
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """With divided differences `f[..]` of `f(l) = max(l, 0)`, and `H`, `W` the matrices
    of the change of `v` and of `dv` in the eigenbasis, entry `(i, j)` changes by

        sum_k f[l_i, l_k, l_j] (H_ik W_kj + W_ik H_kj).

    (The chain rule for `D = f[l_i, l_j] W_ij` with the derivatives of eigenvectors put
    in; Bhatia, "Matrix analysis", section V.3.) `f[a, b, c]` is zero if all three have
    one sign. If `a > 0` alone is positive it is `a / ((a - b) (a - c))`, and if `c < 0`
    alone is negative, `-c / ((a - c) (b - c))`.
    """
    (v, dv), (change, ddv) = primals, tangents
    values, basis = eigh(unpack(v, cone.size, cone.order))
    rotate = PSDEigenvectors(basis, cone.order)

    def in_basis(vector):
        return unpack(rotate.transpose_mv(vector), cone.size, cone.order)

    H, W = in_basis(change), in_basis(dv)
    n = cone.size
    triple = jnp.stack(
        jnp.broadcast_arrays(
            *(values.reshape(np.roll([n, 1, 1], k)) for k in range(3))  # i, j, k
        )
    )
    low, middle, high = jnp.sort(triple, axis=0)
    # Divisors differ from 0 where they count: they are of numbers of two signs.
    first, second = jnp.where(high > low, high - low, 1), middle > 0
    other = jnp.where(second, middle - low, high - middle)
    other = jnp.where(other > 0, other, 1)
    weights = jnp.where(second, -low, high) / (first * other)
    weights = jnp.where((high > 0) & (low <= 0), weights, 0).astype(v.dtype)
    terms = jnp.einsum("ik,kj,ijk->ij", H, W, weights, precision="highest")
    bend = rotate.mv(pack(terms + terms.T, cone.order))
    return _differential(cone, v, dv), _differential(cone, v, ddv) + bend
