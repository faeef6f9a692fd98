import abc
from typing import Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from ..kkt import KKTOperator


_Factors = TypeVar("_Factors")


class QuasidefiniteState(NamedTuple):
    """`K`, the shifts `e` of its two blocks, and the factors of `K + diag(e, -e)`."""

    operator: KKTOperator
    shift: Float[Array, " n+m"]
    factors: Any


class AbstractQuasidefiniteSolver(
    lx.AbstractLinearSolver[QuasidefiniteState], Generic[_Factors]
):
    """Solves `K z = r` by factorising a regularised `K` once and refining.

    `K` is singular exactly where the solution map is not differentiable, and then the
    answer is `K^+ r`, the least-squares solution of least norm. With `e > 0` the matrix
    `M = K + diag(e I, -e I)` is quasi-definite, so it can always be factorised, in any
    order. The iteration

        z += M^-1 K M^-1 (r - K z)

    converges to `K^+ r`, because `null(K)` is the sum of a part in `x` and a part in
    `t`: `M` maps it and its complement to themselves, `K` removes what `r` has in it,
    and nothing of `z` enters it. A component of `z` that belongs to the eigenvalue
    `sigma` converges at the rate `1 - (sigma / (sigma + e))^2`: at once on a regular
    `K`. The two blocks have shifts of their own, which the argument allows and which
    makes the choice independent of the units of the objective and the constraints.

    A subclass is a backend: it says how to factorise and how to solve.
    """

    regularisation: eqx.AbstractVar[float | None]
    tol: eqx.AbstractVar[float | None]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def factorise(
        self, operator: KKTOperator, diagonal: Float[Array, " n+m"]
    ) -> _Factors:
        """Factorises `K + diag(diagonal)`."""

    @abc.abstractmethod
    def solve(
        self, factors: _Factors, vector: Float[Array, " n+m"]
    ) -> Float[Array, " n+m"]:
        """Solves with the factors."""

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> QuasidefiniteState:
        """Factorises."""
        del options
        if not isinstance(operator, KKTOperator):
            raise TypeError(
                f"{type(self).__name__}: expected a KKTOperator, got {type(operator)}"
            )
        shift = self._shift(operator)
        below = jnp.arange(shift.size) >= operator.n
        factors = self.factorise(operator, jnp.where(below, -shift, shift))
        return QuasidefiniteState(operator, shift, factors)

    def _shift(self, operator: KKTOperator) -> Float[Array, " n+m"]:
        P, A = operator.P.values, operator.A.values
        eps = jnp.finfo(P.dtype).eps
        # The rounding errors of a solve leave a relative eps / regularisation in null(K),
        # eigenvalues of that relative size take long to converge: the square root
        # balances the two.
        relative = eps**0.5 if self.regularisation is None else self.regularisation
        size_P = jnp.max(jnp.abs(P), initial=0)
        size_A = jnp.max(jnp.abs(A), initial=0)
        size_A = jnp.where(size_A > 0, size_A, 1)
        upper = jnp.maximum(size_P, size_A)
        lower = size_A * (size_A / upper)
        m = operator.jacobian.eigenvalues.size
        blocks = [jnp.full(operator.n, upper), jnp.full(m, lower)]
        return (relative * jnp.concatenate(blocks)).astype(P.dtype)

    def compute(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " n+m"],
        options: dict[str, Any],
    ) -> tuple[Float[Array, " n+m"], lx.RESULTS, dict[str, Any]]:
        """Refines until the estimated error is below `tol`, or stops decreasing."""
        del options
        operator, shift, factors = state
        eps = jnp.finfo(vector.dtype).eps
        tol = 4 * eps if self.tol is None else self.tol
        weights = jnp.sqrt(shift)  # measures both blocks in comparable units

        def norm(z):
            return jnp.linalg.norm(weights * z)

        def unfinished(carry):
            z, step, error, count = carry
            return (error > tol * norm(z)) & (count < self.max_steps)

        def body(carry):
            z, last_step, last_error, count = carry
            residual = vector - operator.mv(z)
            filtered = operator.mv(self.solve(factors, residual))
            correction = self.solve(factors, filtered)
            step = norm(correction)
            # The steps decrease geometrically, down to the level of rounding errors.
            ratio = jnp.where(count > 0, step / last_step, 0.5)
            error = jnp.where(ratio < 1, step * ratio / (1 - ratio), 0)
            error = jnp.where(step == 0, 0, error)
            return z + correction, step, error, count + 1

        infinite = jnp.asarray(jnp.inf, vector.dtype)
        carry = (jnp.zeros_like(vector), infinite, infinite, 0)
        z, step, error, count = lax.while_loop(unfinished, body, carry)
        accepted = error <= jnp.maximum(tol, eps**0.5) * norm(z)
        result = lx.RESULTS.where(
            accepted | ~jnp.all(jnp.isfinite(z)),
            lx.RESULTS.successful,
            lx.RESULTS.max_steps_reached,
        )
        return z, result, {"num_steps": count, "error": error, "max_steps": self.max_steps}

    def transpose(
        self, state: QuasidefiniteState, options: dict[str, Any]
    ) -> tuple[QuasidefiniteState, dict[str, Any]]:
        """`K` is symmetric."""
        return state, options

    def conj(
        self, state: QuasidefiniteState, options: dict[str, Any]
    ) -> tuple[QuasidefiniteState, dict[str, Any]]:
        """`K` is real."""
        return state, options

    def assume_full_rank(self) -> bool:
        """`K` may be singular."""
        return False
