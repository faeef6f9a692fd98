import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .structure import AbstractQCPStructure


def is_convex(
    structure: AbstractQCPStructure, P: Float[Array, " nnzP"]
) -> Bool[Array, ""]:
    """Whether `P` is positive semidefinite, up to rounding errors, if it is dense. (The
    pattern of a sparse one may have no cheap factorisation.) Its largest entries are near
    one.
    """
    n = structure.n
    if not structure.P_pattern.full or n == 0:
        return jnp.asarray(True)
    shift = 100 * n * float(jnp.finfo(P.dtype).eps)
    matrix = P.reshape(n, n) + shift * jnp.eye(n, dtype=P.dtype)
    if n > _MOST_PIVOTS:
        return jnp.all(jnp.isfinite(jnp.linalg.cholesky(matrix)))

    # Pivots of an elimination: one pass over a batch for each, while LAPACK is called for
    # one matrix after the other.
    def eliminate(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        rest, positive = state
        pivot, row = rest[k, k], rest[k]
        safe = jnp.where(pivot > 0, pivot, 1)
        return rest - row[:, None] * (row / safe)[None, :], positive & (pivot > 0)

    start = matrix, matrix[0, 0] > -jnp.inf
    return jax.lax.fori_loop(0, n, eliminate, start)[1]


_MOST_PIVOTS = 12
