import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractCone, ConeJacobian, IdentityEigenvectors


class NonnegativeCone(AbstractCone):
    """The nonnegative orthant of `R^size`. Self-dual.

    **Arguments:**

    - `size`: the number of rows.
    """

    size: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        """`size`."""
        return self.size

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """`max(v, 0)`, entry by entry."""
        return jnp.maximum(v, 0)

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """`D = diag(v > 0)`."""
        return ConeJacobian((v > 0).astype(v.dtype), IdentityEigenvectors())

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """`dv` where `v > 0`."""
        return jnp.where(v > 0, dv, 0)

    def dual(self) -> "NonnegativeCone":
        """The cone itself."""
        return self
