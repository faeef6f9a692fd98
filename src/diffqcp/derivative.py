from typing import Any, cast, TypeAlias, TypeVar

import equinox as eqx
import jax
import lineax as lx
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from ._checks import as_vector
from ._compiled import apply, is_compiled, Linearised
from ._operators import matrix_from_mv, register_queries
from ._problem import frames
from .cones.product import ProductEigenvectors
from .kkt import Check, KKTOperator
from .linear_solve import FrozenSolver
from .structure import AbstractQCPStructure


Data: TypeAlias = tuple[
    Float[Array, " nnzP"], Float[Array, " nnzA"], Float[Array, " n"], Float[Array, " m"]
]
Solution: TypeAlias = tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, " m"]]


class SolutionDerivative(lx.AbstractLinearOperator):
    """The derivative of the solution `(x, y, s)` with respect to the data.

    `qcp.derivative()` returns it. It is a linear operator that takes changes
    `(dP, dA, dq, db)` of the stored entries of the data to changes `(dx, dy, ds)` of the
    solution, by `mv`; its transpose `.T` takes gradients the other way. The linear system
    behind both is factorised once, when the operator is made. The mathematics is in
    [`diffqcp.kkt.KKTOperator`][].

    `x` and `y` are the solution at which the derivative is taken, after the correction by
    Newton steps if there was one.

    `dP` and `dA` are vectors here, not matrices: the stored values in the structure's
    order, as in the `.data` of a BCOO or BCSR matrix.
    """

    kkt: KKTOperator
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    frozen_solver: FrozenSolver
    state: Any
    structure: AbstractQCPStructure = eqx.field(static=True)
    throw: bool = eqx.field(static=True)

    @property
    def solver(self) -> lx.AbstractLinearSolver:
        """The solver of the linear system; `state` is its state for `kkt`."""
        return self.frozen_solver.thaw()

    def mv(self, vector: PyTree[ArrayLike]) -> Solution:
        """How the solution changes with the data: a Jacobian-vector product.

        **Arguments:**

        - `vector`: `(dP, dA, dq, db)` of shapes `(nnz(P),)`, `(nnz(A),)`, `(n,)`, `(m,)`.

        **Returns:**

        `(dx, dy, ds)` of shapes `(n,)`, `(m,)`, `(m,)`.

        **Raises:** `TypeError` or `ValueError`, naming the part, for a wrong shape;
        `RuntimeError` if the linear solve fails and the operator was made with
        `throw=True`.
        """
        dP, dA, dq, db = self._parts(
            ("dP", "dA", "dq", "db"), vector, self.in_structure()
        )
        data = dP, dA, dq, db
        if _is_traced((self, data)):
            return push_forward(self, data, self._check)[0]
        compiled = self._compiled(data, transposed=False)
        solution, solved = _forward(self, data) if compiled is None else compiled
        return checked(solution, solved, self.throw)

    def transpose_mv(self, vector: PyTree[ArrayLike]) -> Data:
        """The gradient of a function of the solution: a vector-Jacobian product.

        **Arguments:**

        - `vector`: `(dx, dy, ds)`, the gradient with respect to the solution.

        **Returns:**

        `(dP, dA, dq, db)`, the gradient with respect to the stored entries of the data.

        **Raises:** as `mv`.
        """
        dx, dy, ds = self._parts(("dx", "dy", "ds"), vector, self.out_structure())
        cotangents = dx, dy, ds
        if _is_traced((self, cotangents)):
            return _pull(self, cotangents, self._check)[0]
        compiled = self._compiled(cotangents, transposed=True)
        data, solved = _backward(self, cotangents) if compiled is None else compiled
        return checked(data, solved, self.throw)

    def _compiled(self, vector: tuple[Array, ...], transposed: bool) -> Any:
        """The product by the compiled extension, and whether it was solved; None if it
        is not for it.
        """
        if not is_compiled(self.structure, self.frozen_solver, *vector):
            return None
        D, (factors, shift, singular) = self.kkt.jacobian, self.state
        K, words = factors.factors
        basis = cast(ProductEigenvectors, D.eigenvectors)
        point = Linearised(
            *(D.eigenvalues, frames(basis), K, words, singular, shift),
            *(self.kkt.A.values, self.x, self.y),
        )
        out, solved = apply(self.structure, self.frozen_solver, point, vector, transposed)
        return tuple(out), solved

    def _check(self, value: Any, solved: Bool[Array, ""]) -> Any:
        """As a part of the solve: outside of it, a test of the solution would not be
        linear in the perturbation.
        """
        return checked(value, solved, self.throw)

    def _parts(
        self,
        names: tuple[str, ...],
        vector: PyTree[ArrayLike],
        structure: tuple[jax.ShapeDtypeStruct, ...],
    ) -> list[Array]:
        if not isinstance(vector, (tuple, list)) or len(vector) != len(names):
            wanted = ", ".join(names)
            raise TypeError(
                f"vector: expected a tuple ({wanted}), got a {type(vector).__name__}"
            )
        return [
            as_vector(name, part, struct.size, struct.dtype)
            for name, part, struct in zip(names, vector, structure, strict=True)
        ]

    def as_matrix(self) -> Float[Array, "out in"]:
        """The Jacobian as a dense matrix; takes one solve for each entry of
        `(x, y, s)`.
        """
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
    """The transpose of a [`diffqcp.SolutionDerivative`][]. The two share one
    factorisation.
    """

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


@jax.jit
def _forward(
    derivative: SolutionDerivative, data: Data
) -> tuple[Solution, Bool[Array, ""]]:
    return push_forward(derivative, data)


@jax.jit
def _backward(
    derivative: SolutionDerivative, cotangents: Solution
) -> tuple[Data, Bool[Array, ""]]:
    return _pull(derivative, cotangents)


def _pull(
    derivative: SolutionDerivative, cotangents: Solution, *check: Check
) -> tuple[Data, Bool[Array, ""]]:
    kkt = derivative.kkt
    solve = kkt.solve_for_jax if check else kkt.solve
    w, u, solved = solve(
        *adjoint_system(kkt, cotangents), derivative.solver, derivative.state, *check
    )
    pulled = pull_back(derivative.structure, derivative.x, derivative.y, cotangents, w, u)
    return pulled, solved


def _is_traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def push_forward(
    derivative: SolutionDerivative, data: Data, *check: Check
) -> tuple[Solution, Bool[Array, ""]]:
    """`(dx, dy, ds)`, and whether the system was solved; see `diffqcp.kkt`."""
    dP, dA, dq, db = data
    structure, x, y = derivative.structure, derivative.x, derivative.y
    dA_matrix = structure.A_matrix(dA)
    r1 = structure.P_mv(dP, x) + dA_matrix.transpose_mv(y) + dq
    r2 = db - dA_matrix.mv(x)
    kkt = derivative.kkt
    solve = kkt.solve_for_jax if check else kkt.solve
    dx, dy, solved = solve(-r1, r2, derivative.solver, derivative.state, *check)
    return (dx, dy, r2 - kkt.A.mv(dx)), solved


def adjoint_system(
    kkt: KKTOperator, cotangents: Solution
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The right-hand side of the transposed map; see `diffqcp.kkt`."""
    dx, dy, ds = cotangents
    return dx - kkt.A.transpose_mv(ds), dy


def pull_back(
    structure: AbstractQCPStructure,
    x: Float[Array, " n"],
    y: Float[Array, " m"],
    cotangents: Solution,
    w: Float[Array, " n"],
    dual: Float[Array, " m"],
) -> Data:
    """`(dP, dA, dq, db)` from the solution of `adjoint_system`."""
    u = cotangents[2] + dual
    dA = -structure.A_outer(y, w) - structure.A_outer(u, x)
    return -structure.P_outer(w, x), dA, -w, u


_Values = TypeVar("_Values")


def checked(values: _Values, solved: Bool[Array, ""] | bool, throw: bool) -> _Values:
    """`values`, or an error if they were not solved for and `throw`."""
    if not throw:
        return values
    if isinstance(solved, Tracer):
        return eqx.error_if(values, ~solved, _NOT_SOLVED)
    if not solved:
        raise RuntimeError(_NOT_SOLVED)
    return values


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
