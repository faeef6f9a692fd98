"""Quadratic programs as arrays: the forms of textbooks and of other packages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float, Real

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


class EqualityQPSolution(NamedTuple):
    """`x` and the multipliers `y` of [`diffqcp.solve_equality_qp`][]."""

    x: Float[Array, " n"]
    y: Float[Array, " m"]


def solve_equality_qp(
    P: Float[Array, "n n"],
    c: Float[Array, " n"],
    A: Float[Array, "m n"],
    b: Float[Array, " m"],
) -> EqualityQPSolution:
    """Solves a QP with equality constraints only, differentiably.

        minimise 1/2 x'Px + c'x    subject to    A x = b.

    The solution is that of one linear system with the matrix `K = [[P, A'], [A, 0]]`,

        K [x; y] = [-c; b],

    which is factorised once. With cotangents `gx`, `gy` and `K [w; u] = [gx; gy]` the
    gradients are `dP = -(w x' + x w') / 2`, `dc = -w`, `dA = -(y w' + u x')` and
    `db = u`, from the same factorisation; `jax.vjp` and `jax.linearize` keep it for any
    number of cotangents and tangents. All orders of derivatives exist.

    **Arguments:**

    - `P`: shape `(n, n)`; the symmetric part counts, and is positive definite on the null
        space of `A`. `c`: shape `(n,)`.
    - `A`, `b`: shapes `(m, n)` and `(m,)`; the rows of `A` are independent.

    **Returns:** `x` and the multipliers `y`, with `P x + A'y + c = 0`. They are not
    finite, or meaningless, if `K` is singular.
    """
    n = c.size
    P = (P + P.T) / 2
    corner = jnp.zeros((b.size, b.size), c.dtype)
    K = jnp.block([[P, A.T], [A, corner]])
    factors = jsl.lu_factor(jax.lax.stop_gradient(K))
    z = jax.lax.custom_linear_solve(
        lambda z: jnp.matmul(K, z, precision="highest"),
        jnp.concatenate([-c, b]),
        lambda _, right: jsl.lu_solve(factors, right),
        symmetric=True,
    )
    return EqualityQPSolution(z[:n], z[n:])
