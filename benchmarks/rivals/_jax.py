from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..problems import Problem
from ._base import dense_qp, DenseQP, gradient, Prepared


def by_pullback(
    problem: Problem, cotangent: np.ndarray, solve: Callable[..., Any]
) -> Prepared:
    """A solver of dense QPs, `(Q, q, A, b, G, h) -> x`, under `jax.vjp`, jitted."""
    arrays = [jnp.asarray(part) for part in dense_qp(problem)]
    forward = jax.jit(lambda *data: jax.vjp(solve, *data))
    x, pullback = jax.block_until_ready(forward(*arrays))
    apply = jax.jit(lambda function, vector: function(vector))
    vector = jnp.asarray(cotangent)
    return Prepared(
        np.asarray(x),
        lambda: jax.block_until_ready(forward(*arrays)),
        lambda: jax.block_until_ready(apply(pullback, vector)),
        lambda found: gradient(problem, DenseQP(*found)),
    )
