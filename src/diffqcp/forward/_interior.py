"""Mehrotra's predictor-corrector method, for equations and rays.

An iterate has `y > 0` and `s > 0` in the rows of rays, and `s = 0` in those of equations.
Newton's method for `P x + A'y + q = 0`, `A x + s = b` and `y_k s_k = mu` has in the rows
of rays

    y_k ds_k + s_k dy_k = -c_k,    or    lam_k ds_k + (1 - lam_k) dy_k = e_k

with `lam_k = y_k / (y_k + s_k)` and `e_k = -c_k / (y_k + s_k)`. That is the system of
`diffqcp.kkt`, with these numbers for the eigenvalues of `D` and

    K [dx; t] = [-r_dual - A'e; -L (r_primal + (1 - delta) e)],    dy = L t + e,
    ds = delta dy - r_primal - A dx,

for the residuals `r`, where proximal terms, `P + sigma I` for `P` and
`lam / (1 + delta lam)` for `lam`, keep it from being singular; they do not move the
solution. The first solution of two with the same factors has `c_k = y_k s_k`. With the
mean `m` of what would be left of `y_k s_k`, the second has
`c_k = y_k s_k + dy_k ds_k - (m / mu)^3 mu`. (Mehrotra, "On the implementation of a
primal-dual interior point method", 1992; Friedlander and Orban, "A primal-dual
regularized interior-point method for convex quadratic programs", 2012; Pougkakiotis and
Gondzio, "An interior point-proximal method of multipliers for convex quadratic
programming", 2021.)

The smaller `delta`, the fewer steps, but with it pivots may be lost in rounding errors.
So it starts small, and becomes larger where a solution is not accurate.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._accuracy import Residuals
from ..structure import AbstractQCPStructure
from ._systems import choose, Problem, System


class Iterate(NamedTuple):
    """An iterate, the mean `mu` of `y_k s_k`, and the proximal term of `y`."""

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]
    mu: Float[Array, ""]
    delta: Float[Array, ""]


class _Direction(NamedTuple):
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]


def takes(structure: AbstractQCPStructure) -> bool:
    """Whether all cones are those of equations and rays."""
    return not structure.curved_sizes


class Method(NamedTuple):
    """The method for a problem.

    - `ray`: in which rows `y` and `s` are to be positive.
    - `sigma`: the proximal term of `x`, and the largest one of `y`.
    """

    problem: Problem
    ray: Bool[Array, " m"]
    sigma: float

    @classmethod
    def make(cls, problem: Problem, sigma: float) -> "Method":
        """With the rows of nonnegative cones whose multipliers have a sign."""
        assert problem.free is not None
        rows = np.arange(problem.structure.m) >= problem.structure.dims["z"]
        return cls(problem, rows & ~problem.free, sigma)

    @property
    def _eps(self) -> float:
        return float(jnp.finfo(self.problem.data[2].dtype).eps)

    def begin(self) -> Iterate:
        """From the solution with `v / 2` for the projection of `v`, with `y` and `s` made
        positive. (Vandenberghe, "The CVXOPT linear and quadratic cone program solvers",
        2010, section 5.3.)
        """
        problem, ray = self.problem, self.ray
        _, _, q, b = problem.data
        delta = jnp.asarray(self._eps**0.64, q.dtype)
        lam = jnp.where(ray, 0.5, 1).astype(q.dtype)
        x, y, _ = self._factorise(lam, delta).solve(-q, b)
        s = jnp.where(ray, b - problem.A.mv(x), 0)

        def positive(vector: Float[Array, " m"]) -> Float[Array, " m"]:
            lowest = jnp.min(jnp.where(ray, vector, jnp.inf), initial=jnp.inf)
            return jnp.where(ray & ~(lowest > 0), vector + (1 - lowest), vector)

        y, s = positive(y), positive(s)
        return Iterate(x, y, s, self._mean(y, s), delta)

    def eigenvalues(self, at: Iterate) -> Float[Array, " m"]:
        """Those of `D` in the system of a step."""
        total = jnp.where(self.ray, at.y + at.s, 1)
        lam = jnp.where(self.ray, at.y / total, 1)
        return lam / (1 + at.delta * lam)

    def step(self, at: Iterate, system: System) -> Iterate:
        """The next iterate; or the same one with a larger proximal term, where rounding
        errors are too large.

        **Arguments:**

        - `system`: that with `eigenvalues`, and `sigma`.
        """
        problem, product = self.problem, at.y * at.s
        _, _, q, b = problem.data
        dual = problem.P.mv(at.x) + problem.A.transpose_mv(at.y) + q
        residuals = dual, problem.A.mv(at.x) + at.s - b
        first, residual = self._direction(at, system, residuals, product)
        exact = jnp.all(jnp.isfinite(first.x)) & (residual <= self._eps**0.4)
        again = ~exact & (at.delta < self.sigma)
        length = jnp.minimum(1, self._longest(at, first))
        left = self._mean(at.y + length * first.y, at.s + length * first.s)
        share = left / jnp.where(at.mu > 0, at.mu, 1)
        aim = product + first.y * first.s - share**3 * at.mu
        second, _ = self._direction(at, system, residuals, aim)
        length = jnp.minimum(1, _INSIDE * self._longest(at, second))
        x, y, s = (
            part + length * change for part, change in zip(at[:3], second, strict=True)
        )
        moved = Iterate(x, y, s, self._mean(y, s), at.delta)
        still = at._replace(delta=jnp.full_like(at.delta, self.sigma))
        return choose(again, still, moved)

    def _factorise(self, lam: Float[Array, " m"], delta: Float[Array, ""]) -> System:
        jacobian = self.problem.cone.jacobian(jnp.zeros_like(lam))
        lam = lam / (1 + delta * lam)
        shift = jnp.asarray(self.sigma, lam.dtype)
        return self.problem.factorise(jacobian.map(lambda _: lam), shift)

    def _direction(
        self,
        at: Iterate,
        system: System,
        residuals: Residuals,
        aim: Float[Array, " m"],
    ) -> tuple[_Direction, Float[Array, ""]]:
        """With `y_k ds_k + s_k dy_k = -aim_k`, and the residual of the system."""
        problem, ray, (dual, primal) = self.problem, self.ray, residuals
        pull = jnp.where(ray, -aim / jnp.where(ray, at.y + at.s, 1), 0)
        upper = -dual - problem.A.transpose_mv(pull)
        dx, u, residual = system.solve(upper, -primal - (1 - at.delta) * pull)
        dy = u + pull
        ds = at.delta * dy - primal - problem.A.mv(dx)
        return _Direction(dx, dy, jnp.where(ray, ds, 0)), residual

    def _longest(self, at: Iterate, d: _Direction) -> Float[Array, ""]:
        """The longest step that leaves `y` and `s` positive."""
        lengths = [
            jnp.where(self.ray & (change < 0), -part / change, jnp.inf)
            for part, change in ((at.y, d.y), (at.s, d.s))
        ]
        return jnp.min(jnp.concatenate(lengths), initial=jnp.inf)

    def _mean(self, y: Float[Array, " m"], s: Float[Array, " m"]) -> Float[Array, ""]:
        """Of `y_k s_k`. (Where there is no ray, `s` is zero.)"""
        return y @ s / jnp.maximum(jnp.sum(self.ray, dtype=y.dtype), 1)


_INSIDE = 0.995
