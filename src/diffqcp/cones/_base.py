"""What every cone offers.

Throughout, `Pi` is the Euclidean projection onto a closed convex cone and
`D = DPi(v)` its derivative at `v`. `D` is symmetric with eigenvalues in [0, 1]. Every
cone here knows its spectral decomposition in closed form,

    D = U diag(lam) U',        U orthogonal,

so `D`, its square root `U diag(sqrt(lam)) U'` and `I - D` cost the same. Where `Pi` is
not differentiable, `D` is an element of its generalised (Clarke) Jacobian.

Moreau's decomposition `v = Pi_K(v) - Pi_K*(-v)` gives the dual cone for free: its
projection is `v + Pi_K(-v)` and its derivative `I - D(-v)`.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from .._operators import register_queries


class AbstractEigenvectors(eqx.Module):
    """An orthogonal matrix `U`, known through its action."""

    @abc.abstractmethod
    def mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        """`U @ vector`."""

    @abc.abstractmethod
    def transpose_mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        """`U.T @ vector`."""


class IdentityEigenvectors(AbstractEigenvectors):
    """The identity: `D` is diagonal."""

    def mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        return vector

    def transpose_mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        return vector


class MatrixEigenvectors(AbstractEigenvectors):
    """A small dense orthogonal matrix."""

    matrix: Float[Array, "d d"]

    def mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.matmul(self.matrix, vector, precision="highest")

    def transpose_mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.matmul(self.matrix.T, vector, precision="highest")


class ConeJacobian(lx.AbstractLinearOperator):
    """The derivative `D = U diag(lam) U'` of a projection, as a lineax operator.

    It is symmetric and positive semidefinite, with eigenvalues in [0, 1].

    **Arguments:**

    - `eigenvalues`: `lam`, shape `(dim,)`.
    - `eigenvectors`: `U`, an `AbstractEigenvectors`.
    """

    eigenvalues: Float[Array, " d"]
    eigenvectors: AbstractEigenvectors

    def map(self, function: Callable[[Array], Array]) -> "ConeJacobian":
        """The operator with the same eigenvectors and eigenvalues `function(lam)`."""
        return ConeJacobian(function(self.eigenvalues), self.eigenvectors)

    def sqrt(self) -> "ConeJacobian":
        """The symmetric square root of `D`."""
        return self.map(jnp.sqrt)

    def mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        """`D @ vector`."""
        coefficients = self.eigenvectors.transpose_mv(vector)
        return self.eigenvectors.mv(self.eigenvalues * coefficients)

    def as_matrix(self) -> Float[Array, "d d"]:
        """`D` as a dense matrix."""
        eye = jnp.eye(self.eigenvalues.size, dtype=self.eigenvalues.dtype)
        return jax.vmap(self.mv)(eye)

    def transpose(self) -> "ConeJacobian":
        """`D` is symmetric."""
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Vectors as long as the cone's dimension."""
        return jax.ShapeDtypeStruct(self.eigenvalues.shape, self.eigenvalues.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """The same as `in_structure`."""
        return self.in_structure()


register_queries(ConeJacobian, symmetric=True, positive_semidefinite=True)


class AbstractCone(eqx.Module):
    """A closed convex cone in `R^dim` with a Euclidean projection."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The number of rows that the cone takes."""

    @abc.abstractmethod
    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """The point of the cone closest to `v`."""

    @abc.abstractmethod
    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """The derivative of `project` at `v`."""

    @abc.abstractmethod
    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """`D dv`, differentiable by JAX in `v` wherever `D` is, for second derivatives.

        `jacobian(v)` may not be: its eigenvectors need not be smooth where `D` is.
        """

    @abc.abstractmethod
    def dual(self) -> "AbstractCone":
        """The dual cone, `{y : y's >= 0 for all s in the cone}`."""


class DualCone(AbstractCone):
    """The dual of a cone, by Moreau's decomposition.

    **Arguments:**

    - `cone`: any cone.
    """

    cone: AbstractCone

    @property
    def dim(self) -> int:
        """As the cone's."""
        return self.cone.dim

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """`v + Pi_K(-v)`."""
        return v + self.cone.project(-v)

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """`I - D_K(-v)`."""
        return self.cone.jacobian(-v).map(lambda eigenvalues: 1 - eigenvalues)

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """`dv - D_K(-v) dv`."""
        return dv - self.cone.differential(-v, dv)

    def dual(self) -> AbstractCone:
        """The cone itself."""
        return self.cone
