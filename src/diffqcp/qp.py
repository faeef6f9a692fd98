"""Quadratic programs as arrays: the forms of textbooks and of other packages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._checks import as_numbers, as_vector
from ._compiled import in_programs
from ._lapack import lu_factor, lu_solve
from .dense import QCPStructureDense
from .forward import AbstractForwardSolver, InteriorPoint
from .forward.interior_point import eliminates
from .linear_solve import DenseRange
from .solver import QCPSolution, QCPSolver


def solve_qp(
    Q: Any,
    q: Any,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    *,
    forward: AbstractForwardSolver | None = None,
    **options: Any,
) -> QCPSolution:
    """Solves a QP with equalities and inequalities, differentiably.

        minimise 1/2 x'Qx + q'x    subject to    A x = b,  G x <= h.

    For dense problems, without a callback: `jit(vmap(value_and_grad(...)))` solves and
    differentiates a batch in one compiled call.

    **Arguments:**

    - `Q`: shape `(n, n)`; the symmetric part counts. `q`: shape `(n,)`.
    - `A`, `b`: shapes `(p, n)` and `(p,)`; `p` may be 0, or both None.
    - `G`, `h`: shapes `(k, n)` and `(k,)`; `k` may be 0, or both None.
    - `forward`: the forward solver; by default [`diffqcp.Proximal`][] on CPUs, by the
        compiled extension, and with `closest_feasible`; else
        [`diffqcp.InteriorPoint`][]. With the latter, unless the problem is tiny, the
        derivative takes the factorisations of the solution.
    - `options`: as for [`diffqcp.QCPSolver`][]: `solve_method`, `solver`, `polish`,
        `smoothing`, `throw`, `closest_feasible`, `elastic`. With `throw=False` there is
        no callback that looks at the statuses.

    **Returns:** a [`diffqcp.QCPSolution`][]: the multipliers of the equalities are
    `y[:p]`, those of the inequalities `y[p:]`, and `h - G x` is `s[p:]`.

    **Raises:** as `QCPSolver`; `TypeError` or `ValueError`, naming the argument, for
    shapes that do not fit together.
    """
    q = as_numbers("q", q, "a vector of real numbers")
    Q = _symmetric_shape("Q", Q, "q", q)
    (A, b), (G, h) = _rows("A", A, "b", b, "q", q), _rows("G", G, "h", h, "q", q)
    with jax.numpy_dtype_promotion("standard"):
        rows, bounds = jnp.concatenate([A, G]), jnp.concatenate([b, h])
    structure = QCPStructureDense(Q, rows, {"z": A.shape[0], "l": G.shape[0]})
    special = options.get("closest_feasible") or options.get("elastic") is not None
    native = in_programs(structure)
    if forward is None and not (native or options.get("closest_feasible")):
        forward = InteriorPoint()
        named = {"solver", "solve_method"} & set(options)
        if not (special or named) and eliminates(structure):
            options["solver"] = DenseRange()
    return QCPSolver(structure, forward=forward, **options)(Q, rows, q, bounds)


def _symmetric_shape(name: str, matrix: Any, vector_name: str, vector: Array) -> Array:
    """`matrix` as an array, once it is known to be as wide and as high as `vector`."""
    if vector.ndim != 1:
        raise ValueError(f"{vector_name}: expected a vector, got shape {vector.shape}")
    shape = (vector.size, vector.size)
    matrix = as_numbers(name, matrix, f"an array of shape {shape}")
    if matrix.shape != shape:
        raise ValueError(
            f"{name}: expected shape {shape}, as {vector_name} has {vector.size} "
            f"entries, got {matrix.shape}"
        )
    return matrix


def _rows(
    name: str, matrix: Any, right_name: str, right: Any, like_name: str, like: Array
) -> tuple[Array, Array]:
    """A matrix as wide as `like`, and a right-hand side as high as the matrix."""
    n = like.size
    if matrix is None and right is None:
        return jnp.zeros((0, n), like.dtype), jnp.zeros(0, like.dtype)
    matrix = as_numbers(name, matrix, f"an array of shape (rows, {n})")
    if matrix.ndim != 2 or matrix.shape[1] != n:
        raise ValueError(
            f"{name}: expected shape (rows, {n}), as {like_name} has {n} entries, got "
            f"{matrix.shape}"
        )
    return matrix, as_vector(right_name, right, matrix.shape[0])


class EqualityQPSolution(NamedTuple):
    """`x` and the multipliers `y` of [`diffqcp.solve_equality_qp`][]."""

    x: Float[Array, " n"]
    y: Float[Array, " m"]


def solve_equality_qp(P: Any, c: Any, A: Any, b: Any) -> EqualityQPSolution:
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

    **Raises:** `TypeError` or `ValueError`, naming the argument, for shapes that do not
    fit together.
    """
    c = as_numbers("c", c, "a vector of real numbers")
    P = _symmetric_shape("P", P, "c", c)
    A, b = _rows("A", A, "b", b, "c", c)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(float, P, c, A, b)
    P, c, A, b = (part.astype(dtype) for part in (P, c, A, b))
    n = c.size
    P = (P + P.T) / 2
    corner = jnp.zeros((b.size, b.size), dtype)
    K = jnp.block([[P, A.T], [A, corner]])
    factors = lu_factor(K)
    z = jax.lax.custom_linear_solve(
        lambda z: jnp.matmul(K, z, precision="highest"),
        jnp.concatenate([-c, b]),
        lambda _, right: lu_solve(factors, right),
        symmetric=True,
    )
    return EqualityQPSolution(z[:n], z[n:])
