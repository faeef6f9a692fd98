"""The line search of the methods of multipliers."""

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._sharding import vary_together
from ._systems import Problem


def line_search(
    problem: Problem,
    terms: tuple[
        Float[Array, ""], Float[Array, ""], Float[Array, " m"], Float[Array, ""]
    ],
    place: Float[Array, " m"],
    path: Float[Array, " m"],
    at_once: Bool[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, " m"], Float[Array, " m"]]:
    """A step at whose end the slope of the penalised objective is close to zero. (The
    objective is convex, so the slope never decreases.)

    **Arguments:**

    - `terms`: `c0`, `c1`, `a`, and the slope at 0; that at `t` is
        `c0 + c1 t + a'Pi(place + t path)`.
    - `at_once`: whether to take a step of length 1 without a search.

    **Returns:** `t`, `place + t path`, and its projection.
    """
    constant, square, across, first = terms

    def unfinished(carry):
        _, (_, _, _, slope), count = carry
        going = ~(jnp.abs(slope) <= 0.1 * jnp.abs(first)) & (count < 30) & ~at_once
        return (count == 0) | going

    def body(carry):
        (low, low_slope, high, high_slope), (length, _, _, slope), count = carry
        left = slope < 0
        low, low_slope = jnp.where(left, length, low), jnp.where(left, slope, low_slope)
        high, high_slope = (
            jnp.where(left, high, length),
            jnp.where(left, high_slope, slope),
        )
        bounded = jnp.isfinite(high)
        rise = jnp.where(bounded, high_slope - low_slope, 1)
        share = jnp.clip(-low_slope / jnp.where(rise > 0, rise, 1), 0.01, 0.99)
        share = jnp.where(count % 3 == 2, 0.5, share)
        between = low + share * (jnp.where(bounded, high, low) - low)
        length = jnp.where(bounded, between, 4 * low)
        length = jnp.where(count == 0, 1, length)
        z = place + length * path
        y = problem.cone.project(z)
        slope = constant + length * square + across @ y
        return (low, low_slope, high, high_slope), (length, z, y, slope), count + 1

    zero = jnp.zeros_like(first)
    bracket = zero, first, jnp.full_like(first, jnp.inf), zero
    carry = bracket, (zero, place, place, first), jnp.zeros_like(first, dtype=jnp.int32)
    _, (length, z, y, _), _ = lax.while_loop(unfinished, body, vary_together(carry))
    return length, z, y
