from typing import Any, TypeAlias

import equinox as eqx
import jax
import lineax as lx
from jaxtyping import Array, ArrayLike, Float, PyTree

from ._checks import as_vector
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

    `x` and `y` are the solution at which it is taken, polished or as given.

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

    def mv(self, vector: PyTree[ArrayLike]) -> Solution:
        """Jacobian-vector product.

        **Arguments:**

        - `vector`: `(dP, dA, dq, db)` of shapes `(nnz(P),)`, `(nnz(A),)`, `(n,)`, `(m,)`.

        **Returns:**

        `(dx, dy, ds)` of shapes `(n,)`, `(m,)`, `(m,)`.

        **Raises:** `TypeError` or `ValueError`, naming the part, for a wrong shape; and
        if the operator was made with `throw=True`, a `RuntimeError` if the solve fails.
        """
        dP, dA, dq, db = self._parts(
            ("dP", "dA", "dq", "db"), vector, self.in_structure()
        )
        return _forward(self, (dP, dA, dq, db))

    def transpose_mv(self, vector: PyTree[ArrayLike]) -> Data:
        """Vector-Jacobian product.

        **Arguments:**

        - `vector`: `(dx, dy, ds)`, the cotangents of the solution.

        **Returns:**

        `(dP, dA, dq, db)`, the cotangents of the stored entries.

        **Raises:** as `mv`.
        """
        dx, dy, ds = self._parts(("dx", "dy", "ds"), vector, self.out_structure())
        return _backward(self, (dx, dy, ds))

    def _parts(
        self,
        names: tuple[str, ...],
        vector: PyTree[ArrayLike],
        structure: tuple[jax.ShapeDtypeStruct, ...],
    ) -> list[Array]:
        if not isinstance(vector, (tuple, list)) or len(vector) != len(names):
            wanted = ", ".join(names)
            raise TypeError(f"vector: expected a tuple ({wanted}), got {vector!r}")
        return [
            as_vector(name, part, struct.size, struct.dtype)
            for name, part, struct in zip(names, vector, structure, strict=True)
        ]

    def as_matrix(self) -> Float[Array, "out in"]:
        """The Jacobian: one solve for each entry of `(x, y, s)`."""
        return _matrix(self.transpose()).T

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

    def mv(self, vector: PyTree[ArrayLike]) -> Data:
        """Vector-Jacobian product; see `SolutionDerivative.transpose_mv`."""
        return self.derivative.transpose_mv(vector)

    def as_matrix(self) -> Float[Array, "out in"]:
        """The transposed Jacobian."""
        return _matrix(self)

    def transpose(self) -> SolutionDerivative:
        """The derivative itself."""
        return self.derivative

    def in_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dx, dy, ds)`."""
        return self.derivative.out_structure()

    def out_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dP, dA, dq, db)`."""
        return self.derivative.in_structure()


@eqx.filter_jit
def _forward(derivative: SolutionDerivative, data: Data) -> Solution:
    dP, dA, dq, db = data
    structure, x, y = derivative.structure, derivative.x, derivative.y
    dA_matrix = structure.A_matrix(dA)
    r1 = structure.P_mv(dP, x) + dA_matrix.transpose_mv(y) + dq
    r2 = db - dA_matrix.mv(x)
    dx, dy = _solve(derivative, -r1, r2)
    return dx, dy, r2 - derivative.kkt.A.mv(dx)


@eqx.filter_jit
def _backward(derivative: SolutionDerivative, cotangents: Solution) -> Data:
    dx, dy, ds = cotangents
    structure, x, y = derivative.structure, derivative.x, derivative.y
    w, dual = _solve(derivative, dx - derivative.kkt.A.transpose_mv(ds), dy)
    u = ds + dual
    dA = -structure.A_outer(y, w) - structure.A_outer(u, x)
    return -structure.P_outer(w, x), dA, -w, u


def _solve(
    derivative: SolutionDerivative, upper: Float[Array, " n"], dual: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    w, u, solved = derivative.kkt.solve(upper, dual, derivative.solver, derivative.state)
    if derivative.throw:
        w, u = eqx.error_if((w, u), ~solved, _NOT_SOLVED)
    return w, u


_NOT_SOLVED = (
    "diffqcp: the linear system behind the derivative was not solved. Either the data, "
    "the solution or the perturbation are not finite, or the system is so nearly "
    "singular that the solver did not reach its tolerance: diffqcp.LU("
    "regularisation=1e-13) resolves smaller eigenvalues, diffqcp.LSMR(max_steps=...) "
    "takes more steps. With throw=False the result is NaN instead"
)

_matrix = eqx.filter_jit(matrix_from_mv)

register_queries(SolutionDerivative)
register_queries(AdjointSolutionDerivative)
