"""Figures that make sense where the solution map has no derivative.

There the derivative is built on the pseudoinverse of the matrix `K` of the package's
linear system, so `K K+ r` has to be the projection of `r` onto the range of `K`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from diffqcp import AutoSolver

from .forward import Forward
from .ours import host_qcp
from .problems import Problem


# Beyond, the dense eigenvalue decomposition takes too long.
_DENSE_UP_TO = 2500


def measure(problem: Problem, forward: Forward) -> dict[str, Any]:
    """How well `z = K+ r` does for random `r`.

    - `normal`: `|K (r - K z)| / (|K| |r|)`, zero for a least-squares solution; `|K|` is
      the 2-norm, by power iteration.
    - `consistent`: `|K z - r| / |r|` for an `r` in the range, `K u` with a random `u`.
    - `projection`: `|K z - Q Q'r| / |r|` with an orthonormal basis `Q` of the range from
      a dense eigenvalue decomposition, for small problems. `rank` and `gap` are those
      of the decomposition: the smallest eigenvalue kept and the largest dropped, as
      fractions of the largest.
    """
    qcp = host_qcp(problem, forward.x, forward.y, forward.s)
    K, rng = qcp.derivative().kkt, np.random.default_rng(2)
    size = problem.n + problem.m

    @jax.jit
    def solve(right: jax.Array) -> jax.Array:
        return K.mv(lx.linear_solve(K, right, AutoSolver(), throw=False).value)

    right = jnp.asarray(rng.normal(size=size))
    inside = K.mv(jnp.asarray(rng.normal(size=size)))
    projected = solve(right)
    normal = jnp.linalg.norm(K.mv(right - projected)) / jnp.linalg.norm(right)
    missed = jnp.linalg.norm(solve(inside) - inside) / jnp.linalg.norm(inside)
    figures = {"normal": float(normal / _norm(K, rng)), "consistent": float(missed)}
    if size <= _DENSE_UP_TO:
        figures |= _against_eigenvectors(np.asarray(K.as_matrix()), right, projected)
    return figures


def _norm(K: lx.AbstractLinearOperator, rng: np.random.Generator) -> jax.Array:
    vector = jnp.asarray(rng.normal(size=K.in_size()))
    for _ in range(20):
        vector = K.mv(vector / jnp.linalg.norm(vector))
    return jnp.linalg.norm(vector)


def _against_eigenvectors(
    K: np.ndarray, right: jax.Array, projected: jax.Array
) -> dict[str, Any]:
    values, vectors = np.linalg.eigh(K)
    sizes = np.abs(values) / np.abs(values).max()
    kept = sizes > 1e-11
    basis = vectors[:, kept]
    error = np.linalg.norm(projected - basis @ (basis.T @ right))
    return {
        "projection": float(error / np.linalg.norm(right)),
        "rank": int(kept.sum()),
        "gap": [float(sizes[kept].min()), float(sizes[~kept].max(initial=0))],
    }
