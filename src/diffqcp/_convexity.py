import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._definite import is_semidefinite
from .linear_solve.sparse_ldl import factorisation
from .sparsity import SparsityPattern
from .structure import AbstractQCPStructure


def is_convex(
    structure: AbstractQCPStructure,
    P: Float[Array, " nnzP"],
    added: Float[Array, " n"] | float = 0.0,
) -> Bool[Array, ""]:
    """Whether `P` is positive semidefinite, up to rounding errors, by one factorisation.
    (On platforms other than CPUs a sparse `P` that is not diagonal is taken for convex.)

    **Arguments:**

    - `P`: its largest entries should be near one, since rounding errors are measured
        against that.
    - `added`: is added to the diagonal of `P`.
    """
    n, pattern = structure.n, structure.P_pattern
    shift = 100 * n * float(jnp.finfo(P.dtype).eps)
    if np.array_equal(pattern.rows, pattern.cols):
        entries = jnp.zeros(n, P.dtype).at[pattern.rows].set(P)
        return jnp.all(-shift <= entries + added)
    if pattern.full:
        return is_semidefinite(P.reshape(n, n) + added * jnp.eye(n, dtype=P.dtype), 1.0)
    if jax.default_backend() != "cpu":
        return jnp.asarray(True)
    weights = np.where(pattern.rows == pattern.cols, 1, structure.P_weights / 2)
    values = jnp.append(P * weights.astype(P.dtype), jnp.full(n, shift, P.dtype) + added)
    return _factorisation(pattern).is_definite(values, shift / 2)


@functools.lru_cache(maxsize=32)
def _factorisation(pattern: SparsityPattern) -> Any:
    n = pattern.shape[0]
    rows, cols = (np.append(part, np.arange(n)) for part in (pattern.rows, pattern.cols))
    return factorisation(n, np.minimum(rows, cols), np.maximum(rows, cols))
