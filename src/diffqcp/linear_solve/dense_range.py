from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from .._condition import compute_if
from .._lapack import cho_solve, cholesky
from .._range_space import RangeSpace, Triangle
from ..kkt import KKTOperator
from .auto import AutoSolver
from .lu import LU


class SharedSpace(NamedTuple):
    """What a forward solver has already made of `P` and `A`, in units of its own.

    - `cols`, `rows`: there the matrices are `D P D` and `E A D` with `D = diag(cols)` and
        `E = diag(rows)`.
    """

    space: RangeSpace
    cols: Float[Array, " n"]
    rows: Float[Array, " m"]


class RangeState(NamedTuple):
    """`K`, with `x` eliminated.

    - `root`, `coupling`, `cols`, `rows`: `L` and `V`, and their units; see
        `SharedSpace`.
    - `schur`: the Cholesky factor of the matrix that is left for `t`.
    - `regular`: whether both factorisations are far from singular.
    """

    operator: KKTOperator
    root: Triangle
    coupling: Float[Array, "m n"]
    cols: Float[Array, " n"]
    rows: Float[Array, " m"]
    schur: Float[Array, "m m"]
    regular: Bool[Array, ""]


class DenseRange(lx.AbstractLinearSolver[RangeState]):
    """Solves `K z = r` for a dense positive definite `P`, by eliminating `x`:

        (L U'A P^-1 A'U L + I - lam) t = L U'A P^-1 r1 - r2.

    `A P^-1 A'` is shared with the forward solver, if the option `"shared"` has it. Where
    this matrix or `P` is nearly singular, or the solution does not satisfy the system,
    another solver takes over: dense LU, or where `K` is small [`diffqcp.AutoSolver`][].
    """

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> RangeState:
        """Factorises."""
        if not isinstance(operator, KKTOperator):
            raise TypeError(f"DenseRange: expected a KKTOperator, got {type(operator)}")
        shared = options.get("shared")
        lam, one = operator.jacobian.eigenvalues, jnp.ones(operator.n)
        if shared is None:
            space = RangeSpace.of(operator.P.as_matrix(), operator.A.as_matrix())
            shared = SharedSpace(space, one.astype(lam.dtype), jnp.ones_like(lam))
        gram = shared.space.gram / (shared.rows[:, None] * shared.rows[None, :])
        half = jax.vmap(operator.from_dual, in_axes=1, out_axes=1)(gram)
        matrix = jax.vmap(operator.from_dual)(half) + jnp.diag(1 - lam)
        schur = cholesky(matrix)
        pivots = _least_pivot(schur, matrix)
        P = operator.P.as_matrix() * shared.cols[:, None] * shared.cols[None, :]
        regular = jnp.minimum(pivots, _least_pivot(shared.space.root.matrix, P))
        least = float(jnp.finfo(lam.dtype).eps) ** 0.5
        space, cols, rows = shared
        parts = operator, space.root, space.rows, cols, rows, schur
        return RangeState(*parts, regular > least)

    def compute(
        self, state: RangeState, vector: Float[Array, " N"], options: dict[str, Any]
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        """Solves, and refines once."""
        del options
        operator, root, coupling, cols, rows, schur, regular = state
        n = operator.n

        def once(vector: Array) -> Array:
            upper, lower = vector[:n], vector[n:]
            inner = root.solve(cols * upper)
            moved = jnp.matmul(coupling, inner, precision="highest") / rows
            t = cho_solve(schur, (operator.from_dual(moved) - lower)[None])[0]
            pulled = operator.to_dual(t) / rows
            inner = inner - jnp.matmul(pulled, coupling, precision="highest")
            return jnp.concatenate([cols * root.solve_transposed(inner), t])

        z = once(vector)
        z = z + once(vector - operator.mv(z))
        left = jnp.max(jnp.abs(vector - operator.mv(z)), initial=0)
        size = jnp.max(jnp.abs(vector), initial=0)
        tol = float(jnp.finfo(vector.dtype).eps) ** 0.75
        fine = (left <= tol * size) & regular
        # For a right-hand side that is not finite no other solver is tried.
        settled = fine | ~jnp.isfinite(size)
        other = AutoSolver() if vector.size <= _SMALL else LU()

        def ask(operator: KKTOperator) -> tuple[Array, Array]:
            z, result, _ = other.compute(other.init(operator, {}), vector, {})
            return z, result == lx.RESULTS.successful

        otherwise = z, jnp.ones_like(settled)
        z, solved = compute_if(~settled, ask, (operator,), otherwise)
        result = lx.RESULTS.where(solved, lx.RESULTS.successful, lx.RESULTS.singular)
        return z, result, {}

    def transpose(
        self, state: RangeState, options: dict[str, Any]
    ) -> tuple[RangeState, dict[str, Any]]:
        """`K` is symmetric."""
        return state, options

    def conj(
        self, state: RangeState, options: dict[str, Any]
    ) -> tuple[RangeState, dict[str, Any]]:
        """`K` is real."""
        return state, options

    def assume_full_rank(self) -> bool:
        """`K` may be singular."""
        return False


_SMALL = 1000


def _least_pivot(
    factor: Float[Array, "d d"], matrix: Float[Array, "d d"]
) -> Float[Array, ""]:
    """The least part of a diagonal entry that elimination leaves: zero for a matrix that
    is singular, but for rounding errors.
    """
    parts = jnp.diagonal(factor) ** 2 / jnp.diagonal(matrix)
    return jnp.min(jnp.where(jnp.isnan(parts), 0, parts), initial=1)
