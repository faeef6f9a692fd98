import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import AbstractCone, AbstractEigenvectors, ConeJacobian


class SecondOrderEigenvectors(AbstractEigenvectors):
    """The eigenvectors of `D` for the second-order cone.

    With `zh = z / norm(z)` they are `(1, zh) / sqrt(2)`, `(1, -zh) / sqrt(2)` and
    `(0, w)` for an orthonormal basis of the `w` orthogonal to `zh`. That basis is the
    Householder reflection `H = I - 2 h h' / h'h` with `h = e1 + sign(zh_1) zh`, which
    sends `e1` to `-sign(zh_1) zh` without cancellation.
    """

    direction: Float[Array, " k"]

    def _sign(self) -> Float[Array, ""]:
        return jnp.where(self.direction[0] < 0, 1.0, -1.0).astype(self.direction.dtype)

    def _reflect(self, w: Float[Array, " k"]) -> Float[Array, " k"]:
        h = (-self._sign() * self.direction).at[0].add(1)
        # norm(h)^2 = 2 (1 + |zh_1|) = 2 h_1, because zh has norm 1.
        return w - (h @ w / h[0]) * h

    def mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        plus, minus = vector[0], vector[1]
        scale = jnp.sqrt(jnp.asarray(0.5, vector.dtype))
        axial = self._sign() * scale * (plus - minus)
        z = self._reflect(vector[1:].at[0].set(axial))
        return jnp.concatenate([(scale * (plus + minus))[None], z])

    def transpose_mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        z = self._reflect(vector[1:])
        scale = jnp.sqrt(jnp.asarray(0.5, vector.dtype))
        t, axial = vector[0], self._sign() * z[0]
        ends = jnp.stack([scale * (t + axial), scale * (t - axial)])
        return jnp.concatenate([ends, z[1:]])


class SecondOrderCone(AbstractCone):
    """The second-order cone `{(t, z) : norm(z) <= t}` in `R^size`. Self-dual.

    **Arguments:**

    - `size`: the number of rows, `t` included; at least 2.

    **Raises:** `ValueError` if `size < 2`. (In one dimension it is the nonnegative ray.)
    """

    size: int = eqx.field(static=True)

    def __check_init__(self):
        if self.size < 2:
            raise ValueError(f"SecondOrderCone: size must be at least 2, got {self.size}")

    @property
    def dim(self) -> int:
        """`size`."""
        return self.size

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """`v` in the cone, 0 in its polar, else `(t + r) / 2 (1, z / r)`; `r = |z|`."""
        t, z = v[0], v[1:]
        r = jnp.linalg.norm(z)
        half = (t + r) / 2
        boundary = jnp.concatenate([half[None], half / jnp.where(r > 0, r, 1) * z])
        return jnp.where(t >= r, v, jnp.where(t <= -r, 0, boundary))

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """Outside cone and polar the eigenvalues are 1, 0 and `(1 + t/r) / 2`.

        (Ali, Wong and Kolter, "A semismooth Newton method for fast, generic convex
        programming", ICML 2017, section 3.)
        """
        t, z = v[0], v[1:]
        r = _norm(z)
        safe = jnp.where(r > 0, r, 1)
        direction = jnp.where(r > 0, z / safe, jnp.zeros_like(z).at[0].set(1))
        rest = jnp.full_like(z, (1 + t / safe) / 2).at[0].set(0)
        boundary = jnp.concatenate([jnp.ones_like(t)[None], rest])
        eigenvalues = jnp.where(t >= r, 1, jnp.where(t <= -r, 0, boundary))
        return ConeJacobian(
            eigenvalues.astype(v.dtype), SecondOrderEigenvectors(direction)
        )

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """By the closed form."""
        return self.jacobian(v).mv(dv)

    def dual(self) -> "SecondOrderCone":
        """The cone itself."""
        return self


def _norm(z: Float[Array, " k"]) -> Float[Array, ""]:
    """The Euclidean norm, with derivative zero at zero."""
    zero = jnp.all(z == 0)
    return jnp.where(zero, 0, jnp.linalg.norm(jnp.where(zero, 1, z)))
