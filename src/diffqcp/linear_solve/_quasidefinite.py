import abc
from typing import Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jaxtyping import Array, Bool, DTypeLike, Float, Integer

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
    `|e / (e + sigma)|`, in a few steps if `K` is regular. As `null(K)` is the sum of a
    part in `x` and a part in `t`, `M` maps it and its complement to themselves, so
    nothing enters `z` from it: the limit is `K^+ r`. The shifts of the two blocks may
    differ for the same reason, and follow the sizes of `P` and `A`.

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
    def factorise(self, operator: KKTOperator, shift: Float[Array, " N"]) -> _Factors:
        """Factorises `K + diag(shift)`."""

    @abc.abstractmethod
    def solve(self, factors: _Factors, vector: Float[Array, " N"]) -> Float[Array, " N"]:
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

    def _relative_shift(self, dtype: DTypeLike) -> float:
        # The shift e is the smallest eigenvalue that is resolved fast. It may be below
        # sqrt(eps), as removing the null space three times leaves (eps / e)^3 of it.
        default = float(jnp.finfo(dtype).eps) ** (2 / 3)
        return default if self.regularisation is None else self.regularisation

    def _shift(self, operator: KKTOperator) -> Float[Array, " N"]:
        """Of the size of `P` and of `A`; less where the other one is much larger, since
        `A`'s rows see `A P^-1 A'`, and `P` may be all there is in the null space of `A`.
        """
        P, A = operator.P.values, operator.A.values
        size_P = jnp.max(jnp.abs(P), initial=0)
        size_A = jnp.max(jnp.abs(A), initial=0)
        size_P, size_A = (
            jnp.where(size_P > 0, size_P, jnp.where(size_A > 0, size_A, 1)),
            jnp.where(size_A > 0, size_A, jnp.where(size_P > 0, size_P, 1)),
        )
        ratio = jnp.clip(size_P / size_A, 1e-10, 1e10)
        upper = size_A * jnp.where(ratio > 1, ratio, jnp.sqrt(ratio))
        lower = size_A * jnp.where(ratio > 1, 1 / jnp.sqrt(ratio), 1)
        m = operator.jacobian.eigenvalues.size
        blocks = [jnp.full(operator.n, upper), jnp.full(m, -lower)]
        return self._relative_shift(P.dtype) * jnp.concatenate(blocks)

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
        z, error, steps = self._refine(state, vector, scale, tol)
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

        # A solution smaller than this is zero up to rounding errors.
        eps = float(jnp.finfo(vector.dtype).eps)
        floor = self._relative_shift(vector.dtype) * eps**0.5
        smallest = floor * jnp.linalg.norm(vector / scale)
        consistent = self._range_part(state, vector, 1 / scale, tol)

        def unfinished(carry):
            _, _, ratio, error, count = carry
            return (error > tol) & (ratio < 1) & (count < self.max_steps)

        def body(carry):
            z, last, _, _, count = carry
            correction = self.solve(state.factors, consistent - state.operator.mv(z))
            correction = self._range_part(state, correction, scale, tol)
            z = z + correction
            step = jnp.linalg.norm(scale * correction)
            size = jnp.maximum(jnp.linalg.norm(scale * z), smallest)
            ratio = step / last  # zero in the first step
            step_error = step / jnp.where(size > 0, size, 1)
            first = count == 0
            tail = jnp.where(first | (ratio >= 1), 1, ratio / (1 - ratio))
            return z, step, ratio, step_error * tail, count + 1

        infinite = jnp.asarray(jnp.inf, vector.dtype)
        zero, count = jnp.zeros_like(infinite), jnp.asarray(0)
        start = (jnp.zeros_like(vector), infinite, zero, infinite, count)
        z, _, _, error, count = lax.while_loop(unfinished, body, start)
        return z, error, count

    def _range_part(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        scale: Float[Array, " N"],
        tol: float,
    ) -> Float[Array, " N"]:
        """`vector` less its part in `null(K)`, the limit of iteration (2).

        That limit has a relative error of `eps / e`, so it is taken repeatedly, as in
        Gram-Schmidt. Where `K` is regular nothing is done.
        """

        def unfinished(carry):
            _, change, size, count = carry
            return state.singular & (change > tol * size) & (count < self.max_steps)

        def body(carry):
            part, _, size, count = carry
            new = state.shift * self.solve(state.factors, part)
            return new, jnp.linalg.norm(scale * (new - part)), size, count + 1

        def remove(_, vector):
            infinite = jnp.asarray(jnp.inf, vector.dtype)
            start = (vector, infinite, jnp.linalg.norm(scale * vector), 0)
            null_part = lax.while_loop(unfinished, body, start)[0]
            return jnp.where(state.singular, vector - null_part, vector)

        return lax.fori_loop(0, 3, remove, vector)

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
