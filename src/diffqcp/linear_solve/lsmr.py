from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float


class LSMR(lx.AbstractLinearSolver[lx.AbstractLinearOperator]):
    """Matrix-free LSMR (Fong and Saunders, SIAM J. Sci. Comput. 33, 2011):
    `solve_method="jax-lsmr"`.

    `lineax.LSMR` with tolerances that follow the dtype. Takes `O(nnz)` memory; the
    number of steps grows with the condition number of `K`. Returns `K^+ r` where `K`
    is singular.

    **Arguments:**

    - `rtol`, `atol`: when to stop; see `lineax.LSMR`. By default the machine epsilon
        and zero.
    - `max_steps`: the most steps. By default `100 * (n + m)`.
    """

    rtol: float | None = None
    atol: float = 0.0
    max_steps: int | None = None

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> lx.AbstractLinearOperator:
        """Nothing to prepare."""
        del options
        return lx.linearise(operator)

    def compute(
        self,
        state: lx.AbstractLinearOperator,
        vector: Float[Array, " N"],
        options: dict[str, Any],
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        """Runs `lineax.LSMR`."""
        eps = float(jnp.finfo(vector.dtype).eps)
        solver = lx.LSMR(
            rtol=eps if self.rtol is None else self.rtol,
            atol=self.atol,
            max_steps=100 * state.in_size() if self.max_steps is None else self.max_steps,
            conlim=1 / eps,
        )
        # lineax's LSMR does not take float32 where JAX's default is float64.
        wide = jnp.result_type(float)
        operator = jax.tree.map(
            lambda leaf: leaf.astype(wide) if eqx.is_inexact_array(leaf) else leaf, state
        )
        solution, result, stats = solver.compute(operator, vector.astype(wide), options)
        return solution.astype(vector.dtype), result, stats

    def transpose(
        self, state: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> tuple[lx.AbstractLinearOperator, dict[str, Any]]:
        """The transposed operator."""
        return state.transpose(), options

    def conj(
        self, state: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> tuple[lx.AbstractLinearOperator, dict[str, Any]]:
        """The conjugate operator."""
        return lx.conj(state), options

    def assume_full_rank(self) -> bool:
        """LSMR takes any matrix."""
        return False
