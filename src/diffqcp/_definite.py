import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._condition import compute_if
from ._lapack import cholesky


def is_semidefinite(
    matrix: Float[Array, "n n"], size: Float[Array, ""] | float
) -> Bool[Array, ""]:
    """Whether a symmetric matrix is positive semidefinite, up to the rounding errors of
    entries of this size.
    """
    n = matrix.shape[0]
    shift = jnp.asarray(100 * n * float(jnp.finfo(matrix.dtype).eps) * size)
    one = jnp.eye(n, dtype=matrix.dtype)
    if n <= _MOST_PIVOTS:
        return _has_positive_pivots(matrix + shift * one)

    # The first attempt is without the shift: solvers need the same factor, and within one
    # program the compiler computes it once for both.
    first = _is_finite(cholesky(matrix))
    return compute_if(
        ~first, lambda own: _is_finite(cholesky(own + shift * one)), (matrix,), first
    )


def _is_finite(factor: Float[Array, "n n"]) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(factor))


def _has_positive_pivots(matrix: Float[Array, "n n"]) -> Bool[Array, ""]:
    """By elimination: one pass over a batch for each pivot, while LAPACK is called for
    one matrix after the other.
    """

    def eliminate(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        rest, positive = state
        pivot, row = rest[k, k], rest[k]
        safe = jnp.where(pivot > 0, pivot, 1)
        return rest - row[:, None] * (row / safe)[None, :], positive & (pivot > 0)

    start = matrix, matrix[0, 0] > -jnp.inf
    return jax.lax.fori_loop(0, matrix.shape[0], eliminate, start)[1]


_MOST_PIVOTS = 12
