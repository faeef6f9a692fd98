import abc
from typing import Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jaxtyping import Array, Bool, Float, Integer

from ..kkt import KKTOperator


_Factors = TypeVar("_Factors")


class QuasidefiniteState(NamedTuple):
    """`K`, the signed shift of its diagonal, the factors of the sum, and whether `K`
    has to be taken for singular.
    """

    operator: KKTOperator
    shift: Float[Array, " N"]
    factors: Any
    singular: Bool[Array, ""]


class AbstractQuasidefiniteSolver(
    lx.AbstractLinearSolver[QuasidefiniteState], Generic[_Factors]
):
    """Solves `K z = r` by factorising a regularised `K` once and refining.

    `K` is singular exactly where the solution map is not differentiable, and then the
    answer is `K^+ r`, the least-squares solution of least norm. With a shift
    `E = diag(e1 I, -e2 I)`, `e1, e2 > 0`, the matrix `M = K + E` is quasi-definite, so
    it can always be factorised, in any order. Put `J = diag(I, -I)`. Since `J K` is
    monotone (its symmetric part `diag(P, I - lam)` is positive semidefinite), the
    refinement

        z += M^-1 (r - K z)                                                       (1)

    is the proximal point method for `J K z = J r`, and converges whenever `r` lies in
    the range of `K`: the components of an eigenvalue `sigma` of `J K` at the rate
    `|e / (e + sigma)|`, at once if `K` is regular. As `null(K)` is the sum of a part in
    `x` and a part in `t`, `M` maps it and its complement to themselves, so nothing
    enters `z` from it: the limit is `K^+ r`. The shifts of the two blocks may differ
    for the same reason, which makes them independent of the units of the objective and
    the constraints.

    If `r` has a part in `null(K)`, (1) drifts off along it, and even if not, the
    rounding errors of a solve do, a relative `eps / e`. That part of any vector is the
    limit of

        r <- E M^-1 r  =  r - K M^-1 r,                                           (2)

    and is subtracted from `r` and from every correction to `z`. One step of (2) on a
    random vector tells a `K` that is regular, for which none of this is needed, with
    near certainty, when `K` is factorised.

    A component with `sigma` well below `e` is neither resolved by (1) nor removed by
    (2) in the steps allowed, and then the solve reports failure.

    A subclass is a backend: it says how to factorise and how to solve.
    """

    regularisation: eqx.AbstractVar[float | None]
    tol: eqx.AbstractVar[float | None]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def factorise(
        self, operator: KKTOperator, shift: Float[Array, " N"]
    ) -> _Factors:
        """Factorises `K + diag(shift)`."""

    @abc.abstractmethod
    def solve(
        self, factors: _Factors, vector: Float[Array, " N"]
    ) -> Float[Array, " N"]:
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
        factors = self.factorise(operator, shift)
        scale = jnp.sqrt(jnp.abs(shift))
        probe = jr.normal(jr.key(0), shift.shape, shift.dtype)
        left = shift * self.solve(factors, scale * probe) / scale
        # A unit vector of null(K) leaves a standard normal number of the probe.
        singular = jnp.linalg.norm(left) > 0.01
        return QuasidefiniteState(operator, shift, factors, singular)

    def _shift(self, operator: KKTOperator) -> Float[Array, " N"]:
        P, A = operator.P.values, operator.A.values
        eps = jnp.finfo(P.dtype).eps
        # A solve leaves a relative eps / regularisation of rounding errors in null(K), and
        # eigenvalues below regularisation are not resolved: the square root balances.
        relative = eps**0.5 if self.regularisation is None else self.regularisation
        size_P = jnp.max(jnp.abs(P), initial=0)
        size_A = jnp.max(jnp.abs(A), initial=0)
        size_A = jnp.where(size_A > 0, size_A, 1)
        m = operator.jacobian.eigenvalues.size
        upper = jnp.full(operator.n, jnp.maximum(size_P, size_A))
        blocks = [upper, jnp.full(m, -size_A)]
        return (relative * jnp.concatenate(blocks)).astype(P.dtype)

    def compute(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        options: dict[str, Any],
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        """Refines until the estimated relative error is below `tol`."""
        del options
        eps = float(jnp.finfo(vector.dtype).eps)
        tol = 4 * eps if self.tol is None else self.tol
        scale = jnp.sqrt(jnp.abs(state.shift))  # puts both blocks in the same units
        consistent = vector - self._null_part(state, vector, 1 / scale, tol)
        z, error, steps = self._refine(state, consistent, scale, tol)
        # A solution with NaN is left to lineax, which knows whether the input was finite.
        result = lx.RESULTS.where(
            error > max(tol, eps**0.5),
            lx.RESULTS.max_steps_reached,
            lx.RESULTS.successful,
        )
        stats = {"num_steps": steps, "error": error, "max_steps": self.max_steps}
        return z, result, stats

    def _refine(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        scale: Float[Array, " N"],
        tol: float,
    ) -> tuple[Float[Array, " N"], Float[Array, ""], Integer[Array, ""]]:
        """Iteration (1): the solution, its estimated relative error, and the steps.

        The steps decrease geometrically, which tells the error, until they are at the
        level of rounding errors.
        """

        def unfinished(carry):
            _, _, ratio, error, count = carry
            return (error > tol) & (ratio < 1) & (count < self.max_steps)

        def body(carry):
            z, last, _, _, count = carry
            correction = self.solve(state.factors, vector - state.operator.mv(z))
            correction -= self._null_part(state, correction, scale, tol)
            z = z + correction
            step, size = jnp.linalg.norm(scale * correction), jnp.linalg.norm(scale * z)
            ratio = step / last  # zero in the first step
            step_error = step / jnp.where(size > 0, size, 1)
            first = count == 0
            tail = jnp.where(first | (ratio >= 1), 1, ratio / (1 - ratio))
            return z, step, ratio, step_error * tail, count + 1

        infinite = jnp.asarray(jnp.inf, vector.dtype)
        start = (jnp.zeros_like(vector), infinite, jnp.zeros_like(infinite), infinite, 0)
        z, _, _, error, count = lax.while_loop(unfinished, body, start)
        return z, error, count

    def _null_part(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        scale: Float[Array, " N"],
        tol: float,
    ) -> Float[Array, " N"]:
        """The limit of iteration (2), or zero where `K` is regular."""
        size = jnp.linalg.norm(scale * vector)

        def unfinished(carry):
            _, change, count = carry
            return state.singular & (change > tol * size) & (count < self.max_steps)

        def body(carry):
            part, _, count = carry
            new = state.shift * self.solve(state.factors, part)
            return new, jnp.linalg.norm(scale * (new - part)), count + 1

        infinite = jnp.asarray(jnp.inf, vector.dtype)
        start = jnp.where(state.singular, vector, 0)
        return lax.while_loop(unfinished, body, (start, infinite, 0))[0]

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
