import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float, Integer

from ..kkt import KKTOperator
from ._quasidefinite import AbstractQuasidefiniteSolver


class LU(AbstractQuasidefiniteSolver[tuple[Array, Array]]):
    """Dense LU of the regularised `K`, refined: `solve_method="jax-lu"`.

    Takes `(n + m)^2` numbers of memory and `2/3 (n + m)^3` operations once, `O((n+m)^2)`
    for each right-hand side. Returns `K^+ r` where `K` is singular.

    **Arguments:**

    - `regularisation`: the shift added before factorising, relative to the largest
        entries of `P` and `A`. By default the machine epsilon to the power 2/3, which is
        4e-11 in float64.
    - `tol`: the estimated relative error at which refinement ends. By default four
        times the machine epsilon.
    - `max_steps`: the most refinement steps. Two or three are usual.
    """

    regularisation: float | None = None
    tol: float | None = None
    max_steps: int = 50

    def factorise(
        self, operator: KKTOperator, shift: Float[Array, " N"]
    ) -> tuple[Float[Array, "N N"], Integer[Array, " N"]]:
        """By `jax.scipy.linalg.lu_factor`."""
        return jsl.lu_factor(operator.as_matrix() + jnp.diag(shift))

    def solve(
        self,
        factors: tuple[Float[Array, "N N"], Integer[Array, " N"]],
        vector: Float[Array, " N"],
    ) -> Float[Array, " N"]:
        """By `jax.scipy.linalg.lu_solve`."""
        return jsl.lu_solve(factors, vector)
