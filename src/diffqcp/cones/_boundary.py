"""What the exponential and the power cone share.

Both are three-dimensional, with a boundary `{g = 0}` for a `g` that is homogeneous of
degree one, so that the Hessian `H` of `g` has the single nonzero eigenvector `eh`
orthogonal to the ray. For `v` outside the cone and its polar the projection `p` lies on
a boundary ray with unit direction `ph`, and `d = v - p` on a ray of the polar cone with
unit direction `dh`, orthogonal to `ph`. With `eh = ph x dh`,

    p = (ph'v) ph,    D = ph ph' + mu eh eh',    mu = 1 / (1 + norm(d)/norm(p) c),

where `c = eh'H(ph)eh / norm(grad g(ph))` is the curvature of the boundary at `ph`.
(Differentiate `p + lambda grad g(p) = v`, `g(p) = 0`.) Given `ph` and `dh` this divides
nothing by a small number: `norm(p) = ph'v`, `norm(d) = dh'v`, and `c` enters by its
logarithm, which ranges over all orders of magnitude near the faces of the cone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._base import AbstractCone, ConeJacobian, MatrixEigenvectors


class BoundaryProjection(NamedTuple):
    """The projection of a point onto a three-dimensional cone, resolved.

    - `inside`, `polar`: whether the point lies in the cone, in its polar cone.
    - `primal`, `normal`: the directions `ph` and `dh`; any two in these cones.
    - `log_curvature`: `log(c)`.
    """

    inside: Bool[Array, ""]
    polar: Bool[Array, ""]
    primal: Float[Array, "3"]
    normal: Float[Array, "3"]
    log_curvature: Float[Array, ""]

    def project(self, v: Float[Array, "3"]) -> Float[Array, "3"]:
        """The projection of `v`."""
        boundary = jnp.maximum(self.primal @ v, 0) * self.primal
        return jnp.where(self.inside, v, jnp.where(self.polar, 0, boundary))

    def jacobian(self, v: Float[Array, "3"]) -> ConeJacobian:
        """The derivative of the projection at `v`."""
        tiny = jnp.finfo(v.dtype).tiny
        log_p = jnp.log(jnp.maximum(self.primal @ v, tiny))
        log_d = jnp.log(jnp.maximum(self.normal @ v, tiny))
        mu = 1 / (1 + jnp.exp(log_d - log_p + self.log_curvature))
        boundary = jnp.stack([jnp.ones_like(mu), jnp.zeros_like(mu), mu])
        eigenvalues = jnp.where(self.inside, 1, jnp.where(self.polar, 0, boundary))
        third = jnp.cross(self.primal, self.normal)
        basis = jnp.stack([self.primal, self.normal, third], axis=1)
        return ConeJacobian(eigenvalues.astype(v.dtype), MatrixEigenvectors(basis))


@jax.custom_jvp
def differential(
    cone: AbstractCone, v: Float[Array, "3"], dv: Float[Array, "3"]
) -> Float[Array, "3"]:
    """`D dv` for a three-dimensional cone, differentiable in `v`."""
    return cone.jacobian(v).mv(dv)


@differential.defjvp
def _second_differential(primals, tangents):
    cone, v, dv = primals
    _, change, ddv = tangents
    second = jax.jacfwd(lambda v: cone.jacobian(v).as_matrix())(v)
    # On faces, edges and at kinks the formulas for the curved part of the boundary, which
    # do not count there, have no derivatives.
    second = jnp.where(jnp.isfinite(second), second, 0)
    bend = jnp.einsum("ijk,j,k->i", second, dv, change, precision="highest")
    value, moved = differential(cone, v, dv), differential(cone, v, ddv)
    return value, moved + bend


def unit(v: Float[Array, " d"]) -> Float[Array, " d"]:
    """`v / norm(v)`; zero stays zero, and nothing overflows or underflows."""
    largest = jnp.max(jnp.abs(v))
    v = v / jnp.where(largest > 0, largest, 1)
    norm = jnp.linalg.norm(v)
    return v / jnp.where(norm > 0, norm, 1)


def increasing_root(
    function: Callable[[Float[Array, ""]], tuple[Float[Array, ""], Float[Array, ""]]],
    low: Float[Array, ""],
    high: Float[Array, ""],
) -> Float[Array, ""]:
    """The zero in `[low, high]` of a function that changes sign from - to + there.

    Newton's method, with a bisection wherever its step leaves the bracket, by more than
    rounding errors, or does not halve the step before it. The bisection of a wide bracket
    is one of `asinh(x)`, since its ends may differ by orders of magnitude. `function`
    returns the value and the slope. If there is no sign change, the end of the bracket
    nearest to one.
    """
    eps = jnp.finfo(low.dtype).eps

    def middle(low, high):
        wide = jnp.sinh((jnp.arcsinh(low) + jnp.arcsinh(high)) / 2)
        return jnp.where(high - low < 16, (low + high) / 2, wide)

    def unfinished(state):
        *_, finished, count = state
        return ~finished & (count < 300)

    def body(state):
        low, high, x, step, before, _, count = state
        value, slope = function(x)
        low = jnp.where(value < 0, x, low)
        high = jnp.where(value > 0, x, high)
        rounding = 2 * eps * jnp.maximum(jnp.abs(x), 1)
        newton = jnp.where(value == 0, 0, -value / jnp.where(slope == 0, 1, slope))
        inside = (x + newton >= low - rounding) & (x + newton <= high + rounding)
        inside &= (slope != 0) | (value == 0)
        taken = inside & (2 * jnp.abs(newton) <= jnp.abs(step))
        step = jnp.where(taken, jnp.clip(x + newton, low, high), middle(low, high)) - x
        # Where the method converges quadratically, the next step is about
        # step^3 / before^2. Before that, steps may be as long as the bracket, and say
        # nothing. `before` is zero after a bisection.
        ratio = jnp.abs(newton / jnp.where(before == 0, 1, before))
        settled = taken & (before != 0) & (jnp.abs(before) < 1) & (ratio < 1e-2)
        small = settled & (jnp.abs(newton) * ratio**2 <= rounding / 2)
        # Also where it is NaN.
        finished = ~(jnp.abs(step) > rounding) | small
        return low, high, x + step, step, jnp.where(taken, newton, 0), finished, count + 1

    def search(_, start):
        zero = jnp.zeros_like(start)
        state = (low, high, start, high - low, zero, jnp.asarray(False), 0)
        return lax.while_loop(unfinished, body, state)[2]

    def divide(slope, value):
        slope = slope(jnp.ones_like(value))
        return value / jnp.where(slope == 0, 1, slope)

    # Its derivative is that of the implicit function, not of the search.
    return lax.custom_root(lambda x: function(x)[0], middle(low, high), search, divide)
