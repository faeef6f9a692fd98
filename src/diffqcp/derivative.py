from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from ._operators import matrix_from_mv, register_queries
from .kkt import KKTOperator
from .structure import AbstractQCPStructure


Data: TypeAlias = tuple[
    Float[Array, " nnzP"], Float[Array, " nnzA"], Float[Array, " n"], Float[Array, " m"]
]
Solution: TypeAlias = tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, " m"]]


class SolutionDerivative(lx.AbstractLinearOperator):
    """The derivative of the solution `(x, y, s)` with respect to the data.

    A linear operator from perturbations `(dP, dA, dq, db)` of the stored entries to
    perturbations `(dx, dy, ds)` of the solution; `.T` is its exact transpose. The
    linear system behind both is factorised once, when the operator is made. Returned by
    `qcp.derivative()`; the mathematics is in [`diffqcp.kkt.KKTOperator`][].

    `dP` and `dA` are vectors here, of the stored values in the structure's order (the
    `.data` of a BCOO or BCSR).
    """

    kkt: KKTOperator
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    solver: lx.AbstractLinearSolver
    state: Any
    structure: AbstractQCPStructure = eqx.field(static=True)
    throw: bool = eqx.field(static=True)

    def mv(self, vector: Data) -> Solution:
        """Jacobian-vector product.

        **Arguments:**

        - `vector`: `(dP, dA, dq, db)` of shapes `(nnz(P),)`, `(nnz(A),)`, `(n,)`, `(m,)`.

        **Returns:**

        `(dx, dy, ds)` of shapes `(n,)`, `(m,)`, `(m,)`.
        """
        dP, dA, dq, db = vector
        dA_matrix = self.structure.A_matrix(dA)
        r1 = self.structure.P_mv(dP, self.x) + dA_matrix.transpose_mv(self.y) + dq
        r2 = db - dA_matrix.mv(self.x)
        dx, dy = self._solve(-r1, r2)
        return dx, dy, r2 - self.kkt.A.mv(dx)

    def transpose_mv(self, vector: Solution) -> Data:
        """Vector-Jacobian product.

        **Arguments:**

        - `vector`: `(dx, dy, ds)`, the cotangents of the solution.

        **Returns:**

        `(dP, dA, dq, db)`, the cotangents of the stored entries.
        """
        dx, dy, ds = vector
        w, dual = self._solve(dx - self.kkt.A.transpose_mv(ds), dy)
        u = ds + dual
        dP = -self.structure.P_outer(w, self.x)
        dA = -self.structure.A_outer(self.y, w) - self.structure.A_outer(u, self.x)
        return dP, dA, -w, u

    def _solve(
        self, upper: Float[Array, " n"], dual: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """Solves `K [w; t] = [upper; L U'dual]` for `w` and `U L t`."""
        vector = jnp.concatenate([upper, self.kkt.from_dual(dual)])
        solution = lx.linear_solve(
            self.kkt, vector, self.solver, state=self.state, throw=self.throw
        )
        solved = solution.result == lx.RESULTS.successful
        value = jnp.where(solved, solution.value, jnp.nan)
        return value[: self.kkt.n], self.kkt.to_dual(value[self.kkt.n :])

    def as_matrix(self) -> Float[Array, "n+2m nnzP+nnzA+n+m"]:
        """The Jacobian: one solve for each entry of `(x, y, s)`."""
        return matrix_from_mv(self.transpose()).T

    def transpose(self) -> "AdjointSolutionDerivative":
        """The operator of vector-Jacobian products."""
        return AdjointSolutionDerivative(self)

    def in_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dP, dA, dq, db)`."""
        sizes = (self.structure.P_pattern.nnz, self.structure.A_pattern.nnz)
        return self._structs(*sizes, self.structure.n, self.structure.m)

    def out_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dx, dy, ds)`."""
        return self._structs(self.structure.n, self.structure.m, self.structure.m)

    def _structs(self, *sizes: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(jax.ShapeDtypeStruct((size,), self.x.dtype) for size in sizes)


class AdjointSolutionDerivative(lx.AbstractLinearOperator):
    """The transpose of a [`diffqcp.SolutionDerivative`][]; shares its factorisation."""

    derivative: SolutionDerivative

    def mv(self, vector: Solution) -> Data:
        """Vector-Jacobian product; see `SolutionDerivative.transpose_mv`."""
        return self.derivative.transpose_mv(vector)

    def as_matrix(self) -> Float[Array, "nnzP+nnzA+n+m n+2m"]:
        """The transposed Jacobian."""
        return matrix_from_mv(self)

    def transpose(self) -> SolutionDerivative:
        """The derivative itself."""
        return self.derivative

    def in_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dx, dy, ds)`."""
        return self.derivative.out_structure()

    def out_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dP, dA, dq, db)`."""
        return self.derivative.in_structure()


register_queries(SolutionDerivative)
register_queries(AdjointSolutionDerivative)
