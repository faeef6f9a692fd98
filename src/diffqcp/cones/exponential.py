import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from ._base import AbstractCone, ConeJacobian, DualCone
from ._boundary import BoundaryProjection, differential, increasing_root, unit
from ._central import barrier_jacobian


class ExponentialCone(AbstractCone):
    """The exponential cone, the closure of `{(x, y, z) : y > 0, y exp(x/y) <= z}`.

    Its dual is the closure of `{(u, v, w) : u < 0, -u exp(v/u) <= e w}`.
    """

    @property
    def dim(self) -> int:
        """3."""
        return 3

    def project(self, v: Float[Array, "3"]) -> Float[Array, "3"]:
        """By a root search in one variable."""
        return _resolve(v).project(v)

    def jacobian(self, v: Float[Array, "3"]) -> ConeJacobian:
        """In closed form, given the ratio `x / y` of the projection."""
        return _resolve(v).jacobian(v)

    def smoothed_jacobian(self, v: Float[Array, "3"], mu: ScalarLike) -> ConeJacobian:
        """The barrier is that of Nesterov, `-log(y log(z/y) - x) - log(y) - log(z)`."""
        start = jnp.asarray([-1.0, 0.5, 1.0], v.dtype)
        return barrier_jacobian(_barrier, start, v, mu)

    def differential(
        self, v: Float[Array, "3"], dv: Float[Array, "3"]
    ) -> Float[Array, "3"]:
        """Through the root search, by the implicit function theorem."""
        return differential(self, v, dv)

    def dual(self) -> DualCone:
        """The dual exponential cone."""
        return DualCone(self)


def _barrier(p: Float[Array, "3"]) -> Float[Array, ""]:
    x, y, z = p
    return -jnp.log(y * jnp.log(z / y) - x) - jnp.log(y) - jnp.log(z)


def _resolve(v: Float[Array, "3"]) -> BoundaryProjection:
    """Finds the boundary ray that `v` projects to.

    The boundary off the face `y = 0` is the set of rays `(rho, 1, exp(rho))`, with
    normals `(exp(rho), (1 - rho) exp(rho), -1)`, and `v` lies in their plane exactly
    if it is orthogonal to their cross product, that is, if

        f(rho) = exp(rho) a - exp(-rho) b - (rho^2 - rho + 1) z,
        a = (rho - 1) x + y,    b = x - rho y,

    is zero. The wanted root is the one between the zeros of `a` and `b`, where both
    are positive. (Friberg, "Projection onto the exponential cone: a univariate
    root-finding problem", Optimization Methods and Software 38, 2023.) The search runs
    on `f exp(-|rho|)`, which neither overflows nor loses its slope far out, and the
    bracket is closed by bounds on the terms that decay.

    At `ph`, with `g = y exp(x/y) - z`, `grad g` is the normal above and
    `H = exp(rho)/y h h'`, `h = (1, -rho, 0)`. The cross product gives
    `h'eh = -norm((rho, 1, exp(rho))) / norm(grad g)`, hence

        c = exp(rho) (norm((rho, 1, exp(rho))) / norm(grad g))^3.

    Where `x <= 0` and `y <= 0` the projection is `(x, 0, max(z, 0))`, on the flat face
    (`c = 0`) if `z > 0` and on its edge (`c = inf`) if not.
    """
    x, y, z = v = unit(v)
    tiny = jnp.finfo(v.dtype).tiny

    def log(value):
        return jnp.log(jnp.maximum(value, tiny))

    inside = (z > 0) & (y > 0) & (x <= y * (log(z) - log(y)))
    polar = (z < 0) & (x > 0) & (y <= x * (log(-z) - log(x) + 1))
    face = (x <= 0) & (y <= 0)

    low, high = (jnp.where(inside | polar, 0, end) for end in _bracket(x, y, z))
    rho = increasing_root(_scaled_equation(x, y, z), low, high)
    # Rays and normals divided by the larger of 1 and exp(rho).
    decay = jnp.exp(-jnp.abs(rho))
    one, growth = jnp.where(rho > 0, decay, 1), jnp.where(rho > 0, 1, decay)
    ray = jnp.stack([rho * one, one, growth])
    normal = jnp.stack([growth, (1 - rho) * growth, -one])
    log_curvature = rho + 3 * (
        jnp.log(jnp.linalg.norm(ray)) - jnp.log(jnp.linalg.norm(normal))
    )

    upper = z > 0
    downward = jnp.asarray([0, -1, 0], v.dtype)
    face_ray = jnp.where(upper, v.at[1].set(0), jnp.asarray([-1, 0, 0], v.dtype))
    face_normal = jnp.where(upper | (y == 0) & (z == 0), downward, v.at[0].set(0))
    return BoundaryProjection(
        inside,
        polar,
        unit(jnp.where(face, face_ray, ray)),
        unit(jnp.where(face, face_normal, normal)),
        jnp.where(face, jnp.where(upper, -jnp.inf, jnp.inf), log_curvature),
    )


def _scaled_equation(x, y, z):
    """`f(rho) exp(-|rho|)` of `_resolve`, and its slope."""

    def equation(rho):
        a, b = (rho - 1) * x + y, x - rho * y
        quadratic = rho * (rho - 1) + 1
        decay = jnp.exp(-jnp.abs(rho))
        # exp(rho), exp(-rho) and 1, each times exp(-|rho|), and their slopes.
        positive = rho > 0
        up, down = jnp.where(positive, 1, decay**2), jnp.where(positive, decay**2, 1)
        slope_up, slope_down = (
            jnp.where(positive, 0, 2 * up),
            jnp.where(positive, -2 * down, 0),
        )
        slope_decay = jnp.where(positive, -decay, decay)
        value = up * a - down * b - decay * quadratic * z
        slope = (
            (slope_up * a + up * x)
            - (slope_down * b - down * y)
            - (slope_decay * quadratic + decay * (2 * rho - 1)) * z
        )
        return value, slope

    return equation


def _bracket(x, y, z):
    """An interval that holds the root for `v` outside the cone and its polar.

    The zeros of `a` and `b` are `1 - y/x` and `x/y`. Where `x > 0`, the root exceeds
    `l = max(1 - y/x, 1)` by at most what the two decaying terms amount to, which for
    `rho >= 1` is `(x + |y| + 0.41 |z|) / x`. Where `y > 0`, it is below
    `u = min(x/y, 0)` by at most `(2 |x| + |y| + 1.11 |z|) / y`.
    """
    largest = jnp.sqrt(jnp.finfo(x.dtype).max) / 4
    zero_a = 1 - y / jnp.where(x > 0, x, 1)
    zero_b = x / jnp.where(y > 0, y, 1)
    beyond = jnp.maximum(zero_a, 1) + (x + jnp.abs(y) + jnp.abs(z)) / jnp.where(
        x > 0, x, 1
    )
    before = jnp.minimum(zero_b, 0) - (
        2 * jnp.abs(x) + jnp.abs(y) + 2 * jnp.abs(z)
    ) / jnp.where(y > 0, y, 1)
    # A face needs no search: an interval of length zero.
    low = jnp.where(x > 0, zero_a, jnp.where(y > 0, before, 0))
    high = jnp.where(y > 0, zero_b, jnp.where(x > 0, beyond, 0))
    low = jnp.where((x > 0) & (y > 0), jnp.maximum(low, before), low)
    high = jnp.where((x > 0) & (y > 0), jnp.minimum(high, beyond), high)
    low, high = jnp.clip(low, -largest, largest), jnp.clip(high, -largest, largest)
    return low, jnp.maximum(low, high)
