"""Interior-point method for dense QPs after `x` and the equalities are eliminated.

With `P` positive definite, `x` and the multipliers `y` of the equalities that belong to
multipliers `z` of the inequalities are affine functions of `z`, and what is left of the
optimality conditions is a linear complementarity problem

    s = S z + c,    s >= 0,  z >= 0,  s'z = 0,

whose order is the number of inequalities, with a positive semidefinite `S`. So all
iterations together cost less than the elimination. (Wright, "Primal-dual interior-point
methods", 1997, chapter 8.)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from .._lapack import cho_solve, cholesky, solve_lower
from .._range_space import RangeSpace, Triangle


class Eliminated(NamedTuple):
    """The complementarity problem, and the way back.

    - `space`, `equalities`: of `P` and all rows, and how many of these are equalities.
    - `corner`, `coupling`: `C` with `C C' = E P^-1 E'`, and `C^-1 E P^-1 G'`.
    - `S`: see the head of this file.
    """

    space: RangeSpace
    equalities: int
    corner: Triangle
    coupling: Float[Array, "p k"]
    S: Float[Array, "k k"]

    @classmethod
    def of(cls, space: RangeSpace, equalities: int) -> "Eliminated":
        """`equalities`: how many of the rows, the first ones."""
        gram, p = space.gram, equalities
        corner = cholesky(gram[:p, :p])
        coupling = solve_lower(corner, gram[p:, :p]).T
        S = gram[p:, p:] - jnp.matmul(coupling.T, coupling, precision="highest")
        return cls(space, p, Triangle.of(corner), coupling, S)

    def reduce(
        self, right: Float[Array, " n"], bounds: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " p"], Float[Array, " k"]]:
        """The `x` and `y` that solve `P x + E'y + G'z = right` and `E x = e`, as far as
        they do not depend on `z`.

        **Arguments:**

        - `bounds`: `(e, h)`.

        **Returns:** `L'x` for `y = 0` and `z = 0`, `C'y` for `z = 0`, and `G x - h` for
        `z = 0`, from which a `z` subtracts `S z`.
        """
        root, rows, p = self.space.root, self.space.rows, self.equalities
        inner = root.solve(right)
        moved = jnp.matmul(rows, inner, precision="highest") - bounds
        outer = self.corner.solve(moved[:p])
        left = moved[p:] - jnp.matmul(outer, self.coupling, precision="highest")
        return inner, outer, left

    def restore(
        self, inner: Float[Array, " n"], outer: Float[Array, " p"], z: Float[Array, " k"]
    ) -> tuple[Float[Array, " n"], Float[Array, " p"]]:
        """`x` and `y`, from `z` and the first two results of `reduce`."""
        y = outer - jnp.matmul(self.coupling, z, precision="highest")
        y = self.corner.solve_transposed(y)
        rows = self.space.rows
        inner = inner - jnp.matmul(jnp.concatenate([y, z]), rows, precision="highest")
        return self.space.root.solve_transposed(inner), y


class Complementary(NamedTuple):
    """A solution of a complementarity problem, or the last iterate.

    - `solve`: a function that solves `S z = right` in the coordinates that are positive,
      with zeros in the others.
    - `steps`: the number of iterations.
    """

    z: Float[Array, " k"]
    s: Float[Array, " k"]
    solve: Callable[[Float[Array, " k"]], Float[Array, " k"]]
    steps: Integer[Array, ""]


class _State(NamedTuple):
    z: Float[Array, " k"]
    s: Float[Array, " k"]
    steps: Integer[Array, ""]
    going: Bool[Array, ""]


def complementary(
    S: Float[Array, "k k"],
    c: Float[Array, " k"],
    tol: float,
    max_iter: int,
) -> Complementary:
    """Mehrotra's predictor-corrector method. At the end the coordinates of `z` that are
    positive are computed exactly, by one solve, if all signs stay right.

    **Arguments:**

    - `tol`: the relative tolerance.
    """
    units = jnp.sqrt(jnp.diagonal(S))
    units = 1 / jnp.where(units > 0, units, 1)
    S, c = units[:, None] * S * units[None, :], units * c
    k = c.size
    one = jnp.eye(k, dtype=c.dtype)

    def mv(z: Array) -> Array:
        return jnp.matmul(S, z, precision="highest")

    def positive(vector: Array) -> Array:
        lowest = jnp.min(vector, initial=jnp.inf)
        return jnp.where(lowest > 0, vector, vector + (1 - lowest))

    def body(state: _State) -> _State:
        z, s, steps, _ = state
        residual = s - mv(z) - c
        solve = _factorise(S + jnp.diag(s / z))

        def direction(complementarity: Array) -> tuple[Array, Array]:
            """The Newton direction with `z ds + s dz = -complementarity`."""
            dz = solve(residual - complementarity / z)
            return dz, mv(dz) - residual

        gap = z @ s / k
        dz, ds = direction(z * s)
        step = longest_step((z, s), (dz, ds))
        predicted = (z + step * dz) @ (s + step * ds) / k
        centring = (predicted / gap) ** 3
        dz, ds = direction(z * s + dz * ds - centring * gap)
        step = longest_step((z, s), (dz, ds))
        step = jnp.where(step < 1, 0.995 * step, 1)
        z, s = z + step * dz, s + step * ds
        pulled = mv(z)
        scale = 1 + jnp.max(jnp.abs(jnp.stack([c, s, pulled])), initial=0)
        error = jnp.max(jnp.abs(s - pulled - c), initial=0) / scale
        costs = jnp.abs(jnp.stack([z @ pulled, c @ z]))
        error = jnp.maximum(error, z @ s / (1 + jnp.max(costs)))
        # If `S z = 0 > c'z`, `z` grows without end: the rows are inconsistent.
        ray = jnp.max(jnp.abs(pulled), initial=0) <= tol**0.75 * -(c @ z)
        return _State(z, s, steps + 1, (error > tol) & ~ray)

    if k == 0:
        return Complementary(c, c, lambda right: right, jnp.zeros((), jnp.int32))
    z = _factorise(S + one)(-c)
    going = jnp.all(jnp.isfinite(z))
    start = _State(positive(z), positive(-z), jnp.zeros((), jnp.int32), going)
    last = lax.while_loop(
        lambda state: state.going & (state.steps < max_iter), body, start
    )
    on = last.z > last.s
    mask = jnp.where(on, 1, 0).astype(c.dtype)
    exact = _factorise(mask[:, None] * S * mask[None, :] + jnp.diag(1 - mask))
    z = exact(-mask * c)
    s = mv(z) + c
    right = jnp.all(jnp.where(on, z, s) >= 0)
    z, s = jnp.where(right, z, last.z), jnp.where(right, jnp.where(on, 0, s), last.s)
    return Complementary(
        *(units * z, s / units),
        lambda right: units * exact(mask * units * right),
        last.steps,
    )


def longest_step(values: tuple[Array, ...], changes: tuple[Array, ...]) -> Array:
    """The longest step, of at most 1, that keeps all values nonnegative."""
    value, change = jnp.concatenate(values), jnp.concatenate(changes)
    down = change < 0
    steps = jnp.where(down, -value / jnp.where(down, change, 1), jnp.inf)
    return jnp.minimum(jnp.min(steps, initial=jnp.inf), 1)


def _factorise(matrix: Float[Array, "k k"]) -> Callable[[Array], Array]:
    """A function that solves with a positive definite matrix."""
    factor = cholesky(matrix)
    return lambda right: cho_solve(factor, right[None])[0]
