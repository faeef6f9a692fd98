"""Problems, and the systems that steps with a proximal term solve."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float

from .._lapack import cholesky
from .._range_space import is_dense
from ..cones import ConeJacobian, ProductCone
from ..derivative import Data
from ..kkt import KKTOperator
from ..sparsity import SparseMatrix, SparsityPattern
from ..structure import AbstractQCPStructure


class System(NamedTuple):
    """A matrix `K`, factorised."""

    kkt: KKTOperator
    solver: lx.AbstractLinearSolver
    state: Any

    def solve(
        self, upper: Float[Array, " n"], dual: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, ""]]:
        """`w` and `U L t` with `K [w; t] = [upper; L U'dual]`, and the residual relative
        to the right-hand side.
        """
        kkt = self.kkt
        right = jnp.concatenate([upper, kkt.from_dual(dual)])
        z, _, _ = self.solver.compute(self.state, right, {})
        unit = largest(right)
        residual = largest(right - kkt.mv(z)) / jnp.where(unit > 0, unit, 1)
        return z[: kkt.n], kkt.to_dual(z[kkt.n :]), residual


class Problem(NamedTuple):
    """A problem in units of its own.

    - `cone`: `K*`, or the cone that takes its place.
    - `free`: how these two differ, if at most in the rows of nonnegative cones: those
        whose multipliers have any sign. None if they differ in others.
    """

    structure: AbstractQCPStructure
    data: Data
    cone: ProductCone
    free: Bool[Array, " m"] | None
    solver: lx.AbstractLinearSolver

    @classmethod
    def make(
        cls,
        structure: AbstractQCPStructure,
        data: Data,
        solver: lx.AbstractLinearSolver,
    ) -> "Problem":
        """With `K*` itself."""
        free = jnp.zeros(structure.m, bool)
        return cls(structure, data, structure.dual_cone, free, solver)

    @property
    def A(self) -> SparseMatrix:
        """The constraint matrix."""
        return self.structure.A_matrix(self.data[1])

    @property
    def P(self) -> SparseMatrix:
        """All of the objective matrix."""
        return self.structure.P_matrix(self.data[0])

    def is_definite(self, shift: float) -> Bool[Array, ""]:
        """Whether `P` is dense, and elimination leaves no pivot of `P + shift I` smaller
        than the square root of `shift`.
        """
        if not is_dense(self.structure):
            return jnp.asarray(False)
        P = self.P.as_matrix()
        root = cholesky(P + shift * jnp.eye(P.shape[0], dtype=P.dtype))
        return jnp.all(jnp.diagonal(root) ** 2 >= shift**0.5)

    def factorise(self, jacobian: ConeJacobian, shift: Float[Array, ""]) -> "System":
        """The system with the matrix `K` of `P + shift I` and the given `D`."""
        kkt = KKTOperator(_shifted(self.P, shift), self.A, jacobian)
        return System(kkt, self.solver, self.solver.init(kkt, {}))


def largest(vector: Float[Array, " d"]) -> Float[Array, ""]:
    """The size of its largest entry."""
    return jnp.max(jnp.abs(vector), initial=0)


def choose(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The one or the other PyTree."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _shifted(P: SparseMatrix, shift: Float[Array, ""]) -> SparseMatrix:
    """`P + shift I`."""
    pattern, places = _with_diagonal(P.pattern)
    missing = pattern.nnz - P.pattern.nnz
    values = jnp.concatenate([P.values, jnp.zeros(missing, P.values.dtype)])
    return SparseMatrix(values.at[places].add(shift), pattern)


@functools.lru_cache(maxsize=64)
def _with_diagonal(pattern: SparsityPattern) -> tuple[SparsityPattern, np.ndarray]:
    """The pattern with the whole diagonal added, and the places of the diagonal in it."""
    on = np.flatnonzero(pattern.rows == pattern.cols)
    missing = np.setdiff1d(np.arange(pattern.shape[0]), pattern.rows[on])
    places = np.concatenate([on, pattern.nnz + np.arange(missing.size)])
    rows = np.concatenate([pattern.rows, missing])
    cols = np.concatenate([pattern.cols, missing])
    return SparsityPattern(rows, cols, pattern.shape), places.astype(np.int32)
