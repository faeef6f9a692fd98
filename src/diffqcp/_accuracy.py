"""How far a point is from being the solution, and what counts as being it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from ._scaling import block_max
from .derivative import Data, Solution
from .structure import AbstractQCPStructure


class Yardstick(NamedTuple):
    """What residuals of the optimality conditions are measured by, row by row.

    The error of a point is the largest of the ratios

        |P x + A'y + q|_j / (p_j |x| + a_j |y| + |q_j|),
        |A x + s - b|_i / (r_i |x| + |v_i| + |b_i|),

    where `p`, `a` and `r` are the largest entries of the columns of `P` and `A` and of
    the rows of `A`, norms are largest entries, and `|v_i|` is the largest in the cone of
    row `i`. So it says by how much the data would have to change, relative to
    themselves, for the point to be their solution (the backward error of Oettli and
    Prager, "Compatibility of approximate solution of linear equations with given error
    bounds for coefficients and right-hand sides", 1964), and one large number does not
    hide the errors of other rows.

    - `cap`: no denominator is larger, since on the way to infinity any residual is small
        against the point itself.
    """

    P_cols: Float[Array, " n"]
    A_cols: Float[Array, " n"]
    A_rows: Float[Array, " m"]
    q: Float[Array, " n"]
    b: Float[Array, " m"]
    cap: Float[Array, ""]

    @classmethod
    def make(cls, structure: AbstractQCPStructure, data: Data) -> "Yardstick":
        """That of a problem."""
        P, A, q, b = data
        A_matrix = structure.A_matrix(A)
        largest = jnp.maximum(_size(q), _size(b))
        # So that an exact point has a residual of at most sqrt(eps) times the data.
        eps = float(jnp.finfo(q.dtype).eps)
        cap = jnp.where(largest > 0, largest, 1) * (eps**0.5 / exact_error(q.dtype))
        x_ones, y_ones = jnp.ones_like(q), jnp.ones_like(b)
        return cls(
            structure.P_matrix(P).col_sizes(x_ones),
            *(A_matrix.col_sizes(y_ones), A_matrix.row_sizes(x_ones)),
            *(jnp.abs(q), jnp.abs(b), cap.astype(q.dtype)),
        )

    def error(
        self,
        structure: AbstractQCPStructure,
        solution: Solution,
        residuals: tuple[Float[Array, " n"], Float[Array, " m"]],
    ) -> Float[Array, ""]:
        """The error of a point with these residuals `P x + A'y + q` and `A x + s - b`."""
        x, y, s = solution
        x_size = _size(x)
        dual = self.P_cols * x_size + self.A_cols * _size(y) + self.q
        cone_size = block_max(structure, jnp.abs(y - s))
        primal = self.A_rows * x_size + cone_size + self.b
        size = jnp.minimum(jnp.concatenate([dual, primal]), self.cap)
        residual = jnp.abs(jnp.concatenate(residuals))
        # A NaN is kept. Without data, all but zero is infinitely wrong.
        zero = residual == 0
        ratios = jnp.where(zero, 0, residual / jnp.where(zero, 1, size))
        return jnp.max(ratios, initial=0)


def _size(vector: Float[Array, " d"]) -> Float[Array, ""]:
    return jnp.max(jnp.abs(vector), initial=0)


def exact_error(dtype: DTypeLike) -> float:
    """The error of a point that is the solution up to rounding errors."""
    return 100 * float(jnp.finfo(dtype).eps)


def accurate_error(dtype: DTypeLike) -> float:
    """The largest error of a point that is called a solution: 1e-11 in float64."""
    return float(jnp.finfo(dtype).eps) ** 0.7


def finite_bounds(
    structure: AbstractQCPStructure, A: Float[Array, " nnzA"], b: Float[Array, " m"]
) -> tuple[Bool[Array, " m"], Float[Array, " nnzA"], Float[Array, " m"]]:
    """A constraint `a'x <= inf` is none.

    **Returns:** in which nonnegative rows `b` is infinite, and `A` and `b` with the
    constraint `0 <= 1` there.
    """
    start, count = structure.dims["z"], structure.dims["l"]
    if not count:
        return jnp.zeros_like(b, bool), A, b
    rows = jnp.zeros_like(b, bool).at[start : start + count].set(True)
    none = rows & (b == jnp.inf)
    kept = jnp.where(none[structure.A_pattern.rows], 0, A)
    return none, kept, jnp.where(none, 1, b)


def all_finite(arrays: object) -> Bool[Array, ""]:
    """Whether all numbers of a PyTree are finite."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(arrays)]
    return jnp.all(jnp.stack(flags))
