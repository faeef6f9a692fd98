from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Integer

from .._lapack import lu_factor, lu_solve
from ..assembly import row_groups
from ..kkt import KKTOperator
from ._quasidefinite import (
    AbstractQuasidefiniteSolver,
    factorise_evenly,
    Outcome,
    QuasidefiniteState,
    refine,
    Tolerances,
)


class DenseFactors(NamedTuple):
    """`K`, the diagonal of `E`, and the factors of `K + E`."""

    matrix: Float[Array, "N N"]
    shift: Float[Array, " N"]
    lu: Float[Array, "N N"]
    pivots: Integer[Array, " N"]

    def multiply(self, vector: Float[Array, " N"]) -> Float[Array, " N"]:
        """`K @ vector`."""
        return jnp.matmul(self.matrix, vector, precision="highest")

    def inverse(self, vector: Float[Array, " N"]) -> Float[Array, " N"]:
        """`M^-1 vector`."""
        return lu_solve((self.lu, self.pivots), vector)


class LU(AbstractQuasidefiniteSolver):
    """Dense LU of the regularised `K`, refined: `solve_method="jax-lu"`.

    Takes `(n + m)^2` numbers of memory and `2/3 (n + m)^3` operations once, `O((n+m)^2)`
    for each right-hand side. Returns `K^+ r` where `K` is singular.

    **Arguments:**

    - `regularisation`: the shift added before factorising, relative to the largest
        entries of `P` and `A`. By default the machine epsilon to the power 2/3, which is
        4e-11 in float64.
    - `tol`: the estimated relative error at which refinement ends. By default a
        hundred times the machine epsilon.
    - `max_steps`: the most refinement steps. Two or three are usual.
    - `well_posed`: whether to take `K` for regular, and spend nothing on null spaces. A
        solve with one that is singular, or nearly so, then fails at once.
    """

    regularisation: float | None = None
    tol: float | None = None
    max_steps: int = 50
    well_posed: bool = False

    def default_shift(self, dtype: DTypeLike) -> float:
        """The machine epsilon to the power 2/3. The shift is the smallest eigenvalue that
        is resolved fast, and may be below `sqrt(eps)`: the null space is removed up to
        `(eps / shift)^3`.
        """
        return float(jnp.finfo(dtype).eps) ** (2 / 3)

    def factorise(
        self, operator: KKTOperator, shift: Float[Array, " N"]
    ) -> tuple[DenseFactors, Bool[Array, ""]]:
        """By LAPACK on CPUs."""
        matrix = operator.as_matrix()
        relative = None
        if self.regularisation is None:
            relative = self.relative_shift(shift.dtype)
        size = jnp.abs(matrix)

        def factor(shift: Float[Array, " N"]) -> tuple[DenseFactors, Callable]:
            lu, pivots = lu_factor(matrix + jnp.diag(shift))
            factors = DenseFactors(matrix, shift, lu, pivots)
            return factors, factors.inverse

        return factorise_evenly(
            factor,
            lambda scale: scale * jnp.max(size * scale[None], axis=1, initial=0),
            row_groups(operator),
            shift,
            relative,
        )

    def refined(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        tolerances: Tolerances,
    ) -> Outcome:
        """By two triangular solves a step."""
        factors, _, singular = state
        return refine(
            *(factors.multiply, factors.inverse, factors.shift),
            *(singular, vector, tolerances),
        )
