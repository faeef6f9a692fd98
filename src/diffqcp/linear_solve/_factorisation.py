import abc
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from ..sparsity import SparsityPattern, SymmetricMatrix
from ._quasidefinite import (
    factorise_evenly,
    Outcome,
    refine,
    Tolerances,
)


class AbstractFactorisation(abc.ABC):
    """LDL' of sparse symmetric matrices with one pattern.

    Making one is the symbolic phase. The factor is made of JAX arrays, so it may be kept
    in the state of a solver, be part of a batch, and serve any number of right-hand
    sides.

    **Attributes:**

    - `order`: the order of the matrix.
    """

    order: int

    @abc.abstractmethod
    def factorise(
        self,
        values: Float[Array, " entries"],
        shift: Float[Array, " N"],
        *,
        adapt: bool,
        well_posed: bool,
    ) -> tuple[Any, Bool[Array, ""]]:
        """The factors of the matrix plus `diag(shift)`, which must be quasi-definite,
        with all else that `refined` needs, and whether the matrix itself is singular. If
        `adapt`, another shift may be taken where the factors are not accurate, or the
        matrix has eigenvalues of the size of this one. If `well_posed`, it is regular,
        and nothing need be spent on that.
        """

    @abc.abstractmethod
    def has_signs_of_shift(self, factors: Any) -> Bool[Array, ""]:
        """Whether it is clear that as many eigenvalues of the matrix are positive as the
        shift has positive entries, and as many negative ones, from what `factorise` has
        returned. False if that is not known.
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


class AbstractInverse(AbstractFactorisation):
    """A factorisation that has `factor` and `solve` only. Whether a matrix is singular is
    found, and solutions are refined, by the functions of `_quasidefinite.py`.

    The shift is that given, or if `adapt` one that follows the rows of the matrix where
    these are of very different sizes.
    """

    def __init__(
        self,
        order: int,
        rows: np.ndarray,
        cols: np.ndarray,
        groups: np.ndarray | None = None,
    ):
        """**Arguments:**

        - `order`: the order of the matrix.
        - `rows`, `cols`: where its entries are, one of each pair off the diagonal. Those
            with the same place add up.
        - `groups`: a number below `order` for each row, the same for those that have one
            unit. By default each has its own.
        """
        self.order = order
        self._groups = np.arange(order) if groups is None else groups
        self._pattern = SparsityPattern(rows, cols, (order, order))
        self.analyse()

    @abc.abstractmethod
    def analyse(self) -> None:
        """The symbolic phase."""

    @abc.abstractmethod
    def factor(self, values: Float[Array, " entries"], shift: Float[Array, " N"]) -> Any:
        """The factor of the matrix plus `diag(shift)`."""

    @abc.abstractmethod
    def solve(self, factor: Any, vector: Float[Array, " N"]) -> Float[Array, " N"]:
        """The inverse of that matrix times `vector`."""

    def factorise(
        self,
        values: Float[Array, " entries"],
        shift: Float[Array, " N"],
        *,
        adapt: bool,
        well_posed: bool,
    ) -> tuple[tuple[Array, Any, Array], Bool[Array, ""]]:
        """The entries, the factor and the shift, and whether the matrix is singular."""
        del well_posed
        rows, cols = self._pattern.rows, self._pattern.cols
        size = jnp.abs(values)

        def largest(scale: Float[Array, " N"]) -> Float[Array, " N"]:
            scaled = scale[rows] * size * scale[cols]
            return jnp.zeros_like(scale).at[rows].max(scaled).at[cols].max(scaled)

        relative = float(jnp.finfo(shift.dtype).eps) ** 0.5 if adapt else None

        def factor(shift: Float[Array, " N"]) -> tuple[tuple[Array, Any, Array], Any]:
            made = self.factor(values, shift)
            return (values, made, shift), partial(self.solve, made)

        return factorise_evenly(factor, largest, self._groups, shift, relative)

    def has_signs_of_shift(self, factors: Any) -> Bool[Array, ""]:
        """The pivots are not looked at."""
        del factors
        return jnp.asarray(False)

    def refined(
        self,
        factors: tuple[Array, Any, Array],
        singular: Bool[Array, ""],
        vector: Float[Array, " N"],
        tolerances: Tolerances,
    ) -> Outcome:
        """By `diffqcp.linear_solve._quasidefinite.refine`."""
        values, factor, shift = factors
        matrix = SymmetricMatrix(values, self._pattern)
        inverse = partial(self.solve, factor)
        return refine(matrix.mv, inverse, shift, singular, vector, tolerances)


def all_at_least(inverses: UInt32[Array, " words"], least: float) -> Bool[Array, ""]:
    """Whether pivots are at least `least > 0`, up to six digits, given their inverses as
    doubles that are pairs of 32-bit words, the less significant one first. (While JAX has
    no doubles, only the words can be compared. The more significant words of positive
    doubles are in the order of the numbers, and as unsigned integers those of negative
    numbers, infinity and NaN are larger than the bound.)
    """
    bound = int(np.float64(1 / least).view(np.uint64)) >> 32
    return jnp.all(inverses[1::2] <= jnp.uint32(bound))
