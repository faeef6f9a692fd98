import abc
from typing import Any

from jaxtyping import Array, Bool, Float

from ._quasidefinite import Outcome, Tolerances


class AbstractFactorisation(abc.ABC):
    """LDL' of sparse symmetric matrices with one pattern, without pivoting, on the CPU.

    Making one is the symbolic phase. The factor is a JAX array, so it may be kept in the
    state of a solver, be part of a batch, and serve any number of right-hand sides.
    Inside, all is in float64.

    **Attributes:**

    - `order`: the order of the matrix.
    - `fill`: how many numbers the factor has.
    - `operations`: how many multiplications a factorisation takes.
    """

    order: int
    fill: int
    operations: float

    @abc.abstractmethod
    def factorise(
        self, values: Float[Array, " entries"], shift: Float[Array, " N"], adapt: bool
    ) -> tuple[Any, Bool[Array, ""]]:
        """The factors of the matrix plus `diag(shift)`, which must be quasi-definite,
        with all else that `refined` needs, and whether the matrix itself is singular. If
        `adapt`, another shift may be taken where the factors are not accurate, or the
        matrix has eigenvalues of the size of this one.
        """

    @abc.abstractmethod
    def refined(
        self,
        factors: Any,
        singular: Bool[Array, ""],
        vector: Float[Array, " N"],
        tolerances: Tolerances,
    ) -> Outcome:
        """The least-squares solution of least norm, its estimated relative error, and the
        steps taken, from what `factorise` has returned.
        """
