import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .linear_solve.sparse_ldl import Factorisation
from .sparsity import SparsityPattern
from .structure import AbstractQCPStructure


def is_convex(
    structure: AbstractQCPStructure, P: Float[Array, " nnzP"]
) -> Bool[Array, ""]:
    """Whether `P` is positive semidefinite, up to rounding errors, by one factorisation.
    (On other platforms than CPUs, only if it is dense or diagonal.) Its largest entries
    are near one.
    """
    n, pattern = structure.n, structure.P_pattern
    shift = 100 * n * float(jnp.finfo(P.dtype).eps)
    if np.array_equal(pattern.rows, pattern.cols):
        return jnp.all(-shift <= P)
    if pattern.full:
        return _is_definite(P.reshape(n, n) + shift * jnp.eye(n, dtype=P.dtype))
    if jax.default_backend() != "cpu":
        return jnp.asarray(True)
    weights = np.where(pattern.rows == pattern.cols, 1, structure.P_weights / 2)
    values = jnp.append(P * weights.astype(P.dtype), jnp.full(n, shift, P.dtype))
    return _factorisation(pattern).is_definite(values, shift / 2)


@functools.lru_cache(maxsize=32)
def _factorisation(pattern: SparsityPattern) -> Any:
    n = pattern.shape[0]
    rows, cols = (np.append(part, np.arange(n)) for part in (pattern.rows, pattern.cols))
    return Factorisation(n, np.minimum(rows, cols), np.maximum(rows, cols))


def _is_definite(matrix: Float[Array, "n n"]) -> Bool[Array, ""]:
    n = matrix.shape[0]
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
