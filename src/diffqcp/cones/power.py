import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from ._base import AbstractCone, ConeJacobian, DualCone
from ._boundary import BoundaryProjection, differential, increasing_root, unit
from ._central import barrier_jacobian


class PowerCone(AbstractCone):
    """The power cone `{(x, y, z) : x^alpha y^(1 - alpha) >= |z|, x >= 0, y >= 0}`.

    Its dual is `{(u, v, w) : (u/alpha)^alpha (v/(1-alpha))^(1-alpha) >= |w|, u, v >= 0}`.

    **Arguments:**

    - `alpha`: the exponent, strictly between 0 and 1.
    """

    alpha: ScalarLike

    @property
    def dim(self) -> int:
        """3."""
        return 3

    def project(self, v: Float[Array, "3"]) -> Float[Array, "3"]:
        """By a root search in one variable."""
        return _resolve(v, self.alpha).project(v)

    def jacobian(self, v: Float[Array, "3"]) -> ConeJacobian:
        """In closed form, given the projection."""
        return _resolve(v, self.alpha).jacobian(v)

    def smoothed_jacobian(self, v: Float[Array, "3"], mu: ScalarLike) -> ConeJacobian:
        """The barrier is that of Chares, of degree three."""
        alpha = jnp.asarray(self.alpha, v.dtype)

        def barrier(p: Float[Array, "3"]) -> Float[Array, ""]:
            x, y, z = p
            power = jnp.exp(2 * alpha * jnp.log(x) + 2 * (1 - alpha) * jnp.log(y))
            rest = (1 - alpha) * jnp.log(x) + alpha * jnp.log(y)
            return -jnp.log(power - z**2) - rest

        start = jnp.asarray([1.0, 1.0, 0.0], v.dtype)
        return barrier_jacobian(barrier, start, v, mu)

    def differential(
        self, v: Float[Array, "3"], dv: Float[Array, "3"]
    ) -> Float[Array, "3"]:
        """Through the root search, by the implicit function theorem."""
        return differential(self, v, dv)

    def dual(self) -> DualCone:
        """The dual power cone."""
        return DualCone(self)


def _resolve(v: Float[Array, "3"], alpha: ScalarLike) -> BoundaryProjection:
    """Finds the boundary ray that `v` projects to.

    Write `(x0, y0, z0)` for `v` and `r = |z|` for its projection `(x, y, z)`. Then

        x = (x0 + sqrt(x0^2 + 4 alpha m)) / 2,  y = (y0 + sqrt(y0^2 + 4 (1-alpha) m)) / 2,
        m = r (|z0| - r),

    and `r` in `(0, |z0|)` is the zero of the decreasing function
    `alpha log(x/r) + (1 - alpha) log(y/r)`. (Hien, "Differential properties of
    Euclidean projection onto power cone", Math. Methods of Operations Research 82,
    2015; for `z0 = 0` the limit `z0 -> 0` serves.) Everything is kept by its logarithm,
    since `x`, `y` and `r` underflow in turn as `alpha` nears 0 or 1, and the search runs
    over `w = log(r / (|z0| - r))`, which resolves both ends of the interval.

    At `p = (x, y, r)`, with `g = |z| - x^alpha y^(1-alpha)`,
    `grad g = (-alpha r/x, -(1-alpha) r/y, 1)` and `H = alpha (1-alpha) r h h'`,
    `h = (1/x, -1/y, 0)`. The cross product gives
    `h'eh = norm(p) / (x y norm(grad g))`, hence, with `normal = x y grad g`,

        c = alpha (1-alpha) r x y norm(p)^3 / norm(normal)^3.

    All of this is homogeneous in `p`, so ratios to `r` are enough.
    """
    alpha = jnp.asarray(alpha, v.dtype)
    weights = jnp.stack([alpha, 1 - alpha])
    log_weights = jnp.log(weights)
    v = unit(v)
    xy, sign = v[:2], jnp.where(v[2] < 0, -1, 1).astype(v.dtype)
    tiny = jnp.finfo(v.dtype).tiny

    def log(value):
        return jnp.log(jnp.maximum(value, tiny))

    log_z = log(jnp.abs(v[2]))
    inside = jnp.all(xy >= 0) & ((weights @ log(xy) >= log_z) | (v[2] == 0))
    polar = jnp.all(xy <= 0) & (
        (weights @ (log(-xy) - log_weights) >= log_z) | (v[2] == 0)
    )

    def ratios(w):
        """`log((x, y) / r)`."""
        log_r = log_z + jax.nn.log_sigmoid(w)
        log_rest = log_z + jax.nn.log_sigmoid(-w)
        log_m = log_weights + log_r + log_rest
        half = (jnp.abs(xy) + jnp.sqrt(xy**2 + 4 * jnp.exp(log_m))) / 2
        # Where exp(log_m) underflows, half is |x0|, which may be zero.
        log_half = jnp.maximum(log(half), log_m / 2)
        # The larger root of x^2 - x0 x - m, or else the smaller one without cancellation.
        return jnp.where(xy >= 0, log_half - log_r, log_weights + log_rest - log_half)

    def equation(w):
        log_ratios = ratios(w)
        share = weights @ jax.nn.sigmoid(log_weights - w - 2 * log_ratios)
        r_share, d_share = jax.nn.sigmoid(w), jax.nn.sigmoid(-w)
        return -weights @ log_ratios, d_share - (d_share - r_share) * share

    # r from |z0| exp(-1e6) to |z0| (1 - exp(-1e6)): beyond, p is on a face or v in K.
    bound = jnp.where(inside | polar, 0, 1e6).astype(v.dtype)
    w = increasing_root(equation, -bound, bound)
    log_xy = ratios(w)
    ray, log_ray = _exp_scaled(jnp.append(log_xy, 0.0))
    log_product = jnp.sum(log_xy)
    normal, log_normal = _exp_scaled(jnp.append(log_weights + log_xy[::-1], log_product))
    log_curvature = jnp.sum(log_weights) + log_product + 3 * (log_ray - log_normal)
    return BoundaryProjection(
        inside,
        polar,
        ray.at[2].multiply(sign),
        (-normal).at[2].multiply(-sign),
        log_curvature,
    )


def _exp_scaled(
    logs: Float[Array, "3"],
) -> tuple[Float[Array, "3"], Float[Array, ""]]:
    """`exp(logs)` scaled to norm one, and the logarithm of its norm."""
    largest = jnp.max(logs)
    scaled = jnp.exp(logs - largest)
    norm = jnp.linalg.norm(scaled)
    return scaled / norm, largest + jnp.log(norm)
