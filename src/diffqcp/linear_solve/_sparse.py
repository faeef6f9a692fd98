import abc
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


class AbstractSparseSolver(AbstractQuasidefiniteSolver):
    """Factorises `K`, or its sparse expansion, as `diffqcp.assembly` has it."""

    @abc.abstractmethod
    def analyse(self, assembly: Assembly) -> AbstractFactorisation:
        """The symbolic phase, done once for a structure."""

    def default_shift(self, dtype: DTypeLike) -> float:
        """The square root of the machine epsilon of float64, or if the data are less
        accurate than that, theirs to the power 2/3.
        """
        eps = float(jnp.finfo(dtype).eps)
        return max(eps ** (2 / 3), float(np.finfo(np.float64).eps) ** 0.5)

    def factorise(
        self, operator: KKTOperator, shift: Float[Array, " N"]
    ) -> tuple["SparseFactors", Bool[Array, ""]]:
        """By what `analyse` returns."""
        assembly = assemble(operator)
        # Rounding errors of less accurate data are not to be taken for eigenvalues.
        adapt = self.regularisation is None and shift.dtype == np.float64
        factors, singular = self.analyse(assembly).factorise(
            assembly.values(operator),
            assembly.expand_shift(shift, self.relative_shift(shift.dtype)),
            adapt=adapt,
            well_posed=self.well_posed,
        )
        return SparseFactors(operator, factors), singular

    def has_signs_of_shift(self, state: QuasidefiniteState) -> Bool[Array, ""]:
        """Whether the factors show that `P` is positive definite in the null space of the
        active constraints. False if that is not known.
        """
        operator, factors = state.factors
        return self.analyse(assemble(operator)).has_signs_of_shift(factors)

    def refined(
        self,
        state: QuasidefiniteState,
        vector: Float[Array, " N"],
        tolerances: Tolerances,
    ) -> Outcome:
        """By the same factorisation."""
        operator, factors = state.factors
        assembly = assemble(operator)
        z, error, steps = self.analyse(assembly).refined(
            factors, state.singular, assembly.expand(operator, vector), tolerances
        )
        return assembly.contract(operator, z), error, steps


class SparseFactors(NamedTuple):
    """`K`, and what the factorisation of its sparse matrix has returned."""

    operator: KKTOperator
    factors: Any
