import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractCone, ConeJacobian, IdentityEigenvectors


class ZeroCone(AbstractCone):
    """The zero cone `{0}` in `R^dim`: equality constraints. Its dual is `FreeCone`."""

    dim: int = eqx.field(static=True)

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """Zero."""
        return jnp.zeros_like(v)

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """`D = 0`."""
        return ConeJacobian(jnp.zeros_like(v), IdentityEigenvectors())

    def dual(self) -> "FreeCone":
        """All of `R^dim`."""
        return FreeCone(self.dim)


class FreeCone(AbstractCone):
    """All of `R^dim`: the dual of `ZeroCone`."""

    dim: int = eqx.field(static=True)

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """`v` itself."""
        return v

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """`D = I`."""
        return ConeJacobian(jnp.ones_like(v), IdentityEigenvectors())

    def dual(self) -> ZeroCone:
        """The zero cone."""
        return ZeroCone(self.dim)
