"""Smoothed projections: the central path.

Let `F` be a logarithmically homogeneous self-concordant barrier of a cone. For `mu > 0`
the point `p` in its interior with

    p + mu F'(p) = v

is a smooth approximation of the projection of `v`: it is the projection for `mu = 0`, and
in general the minimiser of `1/2 |p - v|^2 + mu F(p)`. Its derivative

    D = (I + mu F''(p))^-1

is symmetric with eigenvalues in (0, 1), whatever `v` is. With the conjugate barrier for
the dual cone Moreau's decomposition holds as for projections, and so does
`D* (v) = I - D(-v)`.

For the nonnegative ray and `F = -log`, `p = f(v) = (v + sqrt(v^2 + 4 mu)) / 2`. For the
second-order and the PSD cone and `F = -log det`, `p` has the eigenvectors of `v` and
eigenvalues `f(l_i)`, so `D` has the eigenvectors of the projection's and the eigenvalues
`(f(l_i) - f(l_j)) / (l_i - l_j)`.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from .._lapack import cho_solve, cholesky, eigh
from ._base import ConeJacobian, MatrixEigenvectors


Barrier: TypeAlias = Callable[[Float[Array, " d"]], Float[Array, ""]]


def divided_difference(
    left: Float[Array, " d"], right: Float[Array, " d"], mu: ScalarLike
) -> Float[Array, " d"]:
    """`(f(left) - f(right)) / (left - right)` for `f` above; where equal, `f'`."""
    mu = jnp.asarray(mu, left.dtype)
    roots = jnp.sqrt(left**2 + 4 * mu) + jnp.sqrt(right**2 + 4 * mu)
    return (1 + (left + right) / roots) / 2


def barrier_jacobian(
    barrier: Barrier, start: Float[Array, " d"], v: Float[Array, " d"], mu: ScalarLike
) -> ConeJacobian:
    """`D` of a small cone, by following the central path from `start`, a point inside.

    Damped Newton steps on `1/2 |p - v|^2 + t F(p)`, which is `t` times a self-concordant
    function, with `t` reduced to `mu` tenfold whenever they are close. (Nesterov,
    "Lectures on convex optimization", sections 5.2 and 5.3.)
    """
    slope, curvature = jax.grad(barrier), jax.hessian(barrier)
    eye = jnp.eye(v.size, dtype=v.dtype)
    eps = float(jnp.finfo(v.dtype).eps)
    # Less than this cannot be told from zero next to `v`.
    mu = jnp.maximum(jnp.asarray(mu, v.dtype), eps**0.7 * (v @ v))

    def unfinished(state):
        _, _, done, count = state
        return ~done & (count < 300)

    def body(state):
        p, t, _, count = state
        gradient = p - v + t * slope(p)
        step = cho_solve(cholesky(eye + t * curvature(p)), -gradient[None])[0]
        decrement = jnp.sqrt(jnp.maximum(-gradient @ step, 0) / t)
        # Full steps where they converge quadratically, else ones that stay inside.
        length = jnp.where(decrement < 0.25, 1, 1 / (1 + decrement))
        done = (t == mu) & (decrement < eps**0.5)
        t = jnp.where(decrement < 0.25, jnp.maximum(t / 10, mu), t)
        return p + length * step, t, done, count + 1

    size = jnp.maximum(jnp.linalg.norm(v), jnp.sqrt(mu))
    first = (size * start, size**2, jnp.asarray(False), 0)
    p, _, _, _ = lax.while_loop(unfinished, body, first)
    values, basis = eigh(mu * curvature(p))
    return ConeJacobian(1 / (1 + jnp.maximum(values, 0)), MatrixEigenvectors(basis))
