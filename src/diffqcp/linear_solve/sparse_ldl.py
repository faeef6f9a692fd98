import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float

from ..assembly import assemble, Assembly
from ..kkt import KKTOperator
from ._factorisation import AbstractFactorisation
from ._quasidefinite import (
    AbstractQuasidefiniteSolver,
    Outcome,
    QuasidefiniteState,
    Tolerances,
)


try:
    from ._native import NativeFactorisation as Factorisation

    COMPILED = True
except ImportError:
    from ._qdldl import QDLDLFactorisation as Factorisation

    COMPILED = False


@functools.lru_cache(maxsize=32)
def analyse(assembly: Assembly) -> AbstractFactorisation:
    """The symbolic phase: ordering and pattern of the factor. It is kept."""
    return Factorisation(assembly.order, assembly.rows, assembly.cols)


class SparseLDL(AbstractQuasidefiniteSolver):
    """Sparse LDL' of the regularised `K` on the CPU, refined: `solve_method="ldl"`.

    The ordering and the pattern of the factor depend on the structure of the QCP alone,
    and are found once, when a program is compiled for it. After that the cost is one
    numeric factorisation, and two triangular solves with a product for each step of
    refinement. Returns `K^+ r` where `K` is singular.

    The linear algebra is in float64, whatever the dtype of the data, also where JAX is
    restricted to float32.

    **Arguments:**

    - `regularisation`: the shift added before factorising, relative to the largest
        entries of `P` and `A`. By default 1.5e-8 (2e-5 if the data are in float32):
        without pivoting, the error of the factorisation grows as the shift
        falls. Where `K` has eigenvalues of about that size or less, smaller shifts are
        tried, down to 4e-12, and where the factors are not accurate, larger ones, up to
        6e-5.
    - `tol`: the estimated relative error at which refinement ends. By default a
        hundred times the machine epsilon.
    - `max_steps`: the most refinement steps. Two or three are usual.
    """

    regularisation: float | None = None
    tol: float | None = None
    max_steps: int = 50

    def default_shift(self, dtype: DTypeLike) -> float:
        """The square root of the machine epsilon of float64, or if the data are less
        accurate than that, theirs to the power 2/3.
        """
        eps = float(jnp.finfo(dtype).eps)
        return max(eps ** (2 / 3), float(np.finfo(np.float64).eps) ** 0.5)

    def factorise(
        self, operator: KKTOperator, shift: Float[Array, " N"]
    ) -> tuple["SparseFactors", Bool[Array, ""]]:
        """By the compiled extension, or QDLDL where there is none."""
        assembly = assemble(operator)
        # Rounding errors of less accurate data are not to be taken for eigenvalues.
        adapt = self.regularisation is None and shift.dtype == np.float64
        factors, singular = analyse(assembly).factorise(
            assembly.values(operator),
            assembly.expand_shift(shift, self.relative_shift(shift.dtype)),
            adapt=adapt,
        )
        return SparseFactors(operator, factors), singular

    def refined(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        tolerances: Tolerances,
    ) -> Outcome:
        """Likewise."""
        operator, factors = state.factors
        assembly = assemble(operator)
        z, error, steps = analyse(assembly).refined(
            factors, state.singular, assembly.expand(operator, vector), tolerances
        )
        return assembly.contract(operator, z), error, steps


class SparseFactors(NamedTuple):
    """`K`, and what the factorisation of its sparse matrix has returned."""

    operator: KKTOperator
    factors: Any
