import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractCone, ConeJacobian, IdentityEigenvectors


class ZeroCone(AbstractCone):
    """The zero cone `{0}` in `R^size`: equality constraints. Its dual is `FreeCone`.

    **Arguments:**

    - `size`: the number of rows.
    """

    size: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        """`size`."""
        return self.size

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """Zero."""
        return jnp.zeros_like(v)

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """`D = 0`."""
        return ConeJacobian(jnp.zeros_like(v), IdentityEigenvectors())

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """Zero."""
        return jnp.zeros_like(dv)

    def dual(self) -> "FreeCone":
        """All of `R^size`."""
        return FreeCone(self.size)


class FreeCone(AbstractCone):
    """All of `R^size`: the dual of `ZeroCone`.

    **Arguments:**

    - `size`: the number of rows.
    """

    size: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        """`size`."""
        return self.size

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """`v` itself."""
        return v

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """`D = I`."""
        return ConeJacobian(jnp.ones_like(v), IdentityEigenvectors())

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """`dv`."""
        return dv

    def dual(self) -> ZeroCone:
        """The zero cone."""
        return ZeroCone(self.size)
