"""How far a point is from being the solution, and what counts as being it."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float

from ._scaling import block_max
from ._structure_base import AbstractStructure, LocalData
from .derivative import Solution
from .structure import AbstractQCPStructure


Residuals: TypeAlias = tuple[Float[Array, " n"], Float[Array, " m"]]


def scaled_error(
    structure: AbstractStructure,
    data: LocalData,
    solution: Solution,
    residuals: Residuals,
) -> Float[Array, ""]:
    """The error of a point for a problem in units of its own, as
    [`diffqcp._scaling.equilibrate`][] makes them: the largest of the ratios

        |P x + A'y + q|_j / (1 + |x| + |y|),    |A x + s - b|_i / (1 + |x| + |s_i|),

    where norms are largest entries. In a cone that is not a product of rays, where `s` is
    a part of `y - s` and has rounding errors of its size, `|s_i|` is the largest entry of
    `y - s`. As the entries of the data are at most about one, the error says by how much
    the rows would have to change, relative to themselves, for the point to be their
    solution (the backward error of Oettli and Prager, "Compatibility of approximate
    solution of linear equations with given error bounds for coefficients and right-hand
    sides", 1964). One large number in the data as they were given does not hide the
    errors of other rows.

    **Arguments:**

    - `solution`, `residuals`: the point, and `P x + A'y + q` and `A x + s - b` there.
    """
    x, y, s = solution
    dual = jnp.ones_like(x) * (1 + _size(x) + _size(y))
    straight = np.arange(structure.m) < structure.dims["z"] + structure.dims["l"]
    projected = block_max(structure, jnp.abs(jnp.where(straight, s, y - s)))
    primal = 1 + _size(x) + projected
    # If the iterates diverge, any residual is small relative to the point itself. The cap
    # keeps such a point from counting as exact: the residual of an exact one is at most
    # sqrt(eps) times the largest entry of q and b.
    _, _, q, b = data
    eps = float(jnp.finfo(x.dtype).eps)
    largest = jnp.maximum(_size(q), _size(b))
    cap = jnp.where(largest > 0, largest, 1) * (eps**0.5 / exact_error(x.dtype))
    size = jnp.minimum(jnp.concatenate([dual, primal]), cap)
    residual = jnp.concatenate(residuals)
    return jnp.max(jnp.abs(residual) / size, initial=0) + _poison(residual)


def relative_error(
    terms: Sequence[Array],
    solution: Solution,
    residuals: Residuals,
) -> Float[Array, ""]:
    """The error of a point for a problem in any units: its largest residual over its
    largest term.

    **Arguments:**

    - `terms`: those of the residuals: `P x`, `A'y`, `q`, `A x`, `b`. Where a constraint
        is not active, `b` and `s` do not count: they may be as large as one likes.
    - `solution`, `residuals`: as for `scaled_error`.
    """
    Px, pulled, q, Ax, b = terms
    _, y, s = solution
    active = y != 0
    bounds = jnp.where(active, jnp.abs(b), 0), jnp.where(active, jnp.abs(s), 0)
    size = jnp.max(jnp.stack([_size(part) for part in (Px, pulled, q, Ax, *bounds)]))
    residual = jnp.maximum(_size(residuals[0]), _size(residuals[1]))
    error = jnp.where(residual == 0, 0, residual / jnp.where(size > 0, size, 1))
    return error + _poison(jnp.concatenate(residuals))


def _poison(vector: Float[Array, " d"]) -> Float[Array, ""]:
    """Zero, or NaN if the vector is not finite: the largest of numbers may hide a NaN."""
    return jnp.sum(0 * vector)


def _size(vector: Float[Array, " d"]) -> Float[Array, ""]:
    return jnp.max(jnp.abs(vector), initial=0)


def exact_error(dtype: DTypeLike) -> float:
    """The error of a point that is the solution up to rounding errors."""
    return 100 * float(jnp.finfo(dtype).eps)


def accurate_error(dtype: DTypeLike) -> float:
    """The largest error of a point that is called a solution: 1e-11 in float64."""
    return float(jnp.finfo(dtype).eps) ** 0.7


def finite_bounds(
    structure: AbstractQCPStructure, A: Any, b: Any
) -> tuple[Any, Any, Any]:
    """Constraints `a'x <= inf` restrict nothing. They are replaced by `0 <= 1`.

    **Arguments:**

    - `A`, `b`: arrays of JAX or NumPy, perhaps with axes for a batch in front.

    **Returns:** in which nonnegative rows `b` is infinite, and `A` and `b` with the
    constraint `0 <= 1` there.
    """
    xp: Any = np if isinstance(b, np.ndarray) else jnp
    start, count = structure.dims["z"], structure.dims["l"]
    if not count:
        return xp.zeros_like(b, bool), A, b
    rows = np.arange(structure.m)
    none = ((start <= rows) & (rows < start + count)) & (b == np.inf)
    pattern = structure.A_pattern
    if pattern.full:
        matrix = A.reshape(*b.shape, structure.n)
        kept = xp.where(none[..., None], 0, matrix).reshape(A.shape)
    else:
        kept = xp.where(none[..., pattern.rows], 0, A)
    return none, kept, xp.where(none, 1, b)


def all_finite(arrays: object) -> Bool[Array, ""]:
    """Whether all numbers of a PyTree are finite."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(arrays)]
    return jnp.all(jnp.stack(flags))
