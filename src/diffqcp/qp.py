"""Quadratic programs as arrays: the forms of textbooks and of other packages."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Real

from .dense import QCPStructureDense
from .forward import AbstractForwardSolver, InteriorPoint
from .solver import QCPSolution, QCPSolver


def solve_qp(
    Q: Real[Array, "n n"],
    q: Real[Array, " n"],
    A: Real[Array, "p n"],
    b: Real[Array, " p"],
    G: Real[Array, "k n"],
    h: Real[Array, " k"],
    *,
    forward: AbstractForwardSolver | None = None,
    **options: Any,
) -> QCPSolution:
    """Solves a QP with equalities and inequalities, differentiably.

        minimise 1/2 x'Qx + q'x    subject to    A x = b,  G x <= h.

    For small dense problems: by default all of it runs inside XLA, and
    `jit(vmap(value_and_grad(...)))` is one fused call.

    **Arguments:**

    - `Q`: shape `(n, n)`; the symmetric part counts. `q`: shape `(n,)`.
    - `A`, `b`: shapes `(p, n)` and `(p,)`; `p` may be 0.
    - `G`, `h`: shapes `(k, n)` and `(k,)`; `k` may be 0.
    - `forward`: the forward solver; [`diffqcp.InteriorPoint`][] by default.
    - `options`: as for [`diffqcp.QCPSolver`][]: `solve_method`, `solver`, `polish`,
        `smoothing`, `throw`. `polish=False, throw=False` is fastest: no callback, and no
        Newton step after the interior-point method, whose solutions are good to 1e-10.

    **Returns:** a [`diffqcp.QCPSolution`][]: the multipliers of the equalities are
    `y[:p]`, those of the inequalities `y[p:]`, and `h - G x` is `s[p:]`.

    **Raises:** as `QCPSolver`.
    """
    with jax.numpy_dtype_promotion("standard"):
        rows, bounds = jnp.concatenate([A, G]), jnp.concatenate([b, h])
    structure = QCPStructureDense(Q, rows, {"z": A.shape[0], "l": G.shape[0]})
    forward = InteriorPoint() if forward is None else forward
    return QCPSolver(structure, forward=forward, **options)(Q, rows, q, bounds)
