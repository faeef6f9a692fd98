"""The derivative of the closest feasible problem's solution, as an operator."""

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from ._checks import as_vector
from ._closest import (
    closest_tangents,
    exposed_cone,
    linearise_closest,
    Linearised,
    shift_place,
)
from ._differentiate import Values
from ._operators import matrix_from_mv, register_queries
from .derivative import Data
from .kkt import KKTOperator
from .linear_solve import FrozenSolver
from .structure import AbstractQCPStructure


Closest: TypeAlias = tuple[
    Float[Array, " n"], Float[Array, " m"], Float[Array, " m"], Float[Array, " m"]
]


class ClosestDerivative(lx.AbstractLinearOperator):
    """The derivative of the closest feasible problem's solution, and of its shift, with
    respect to the data.

    A linear operator from perturbations `(dP, dA, dq, db)` of the stored entries to
    `(dx, dy, ds, dshift)`; `.T` is its exact transpose. The linear systems of both stages
    are factorised once, when the operator is made. Returned by `qcp.closest_derivative`.
    What a failed solve returns is NaN.
    """

    linearised: Linearised
    values: Values
    shift: Float[Array, " m"]
    structure: AbstractQCPStructure = eqx.field(static=True)

    def mv(self, vector: PyTree[ArrayLike]) -> Closest:
        """Jacobian-vector product.

        **Arguments:**

        - `vector`: `(dP, dA, dq, db)` of shapes `(nnz(P),)`, `(nnz(A),)`, `(n,)`, `(m,)`.

        **Returns:** `(dx, dy, ds, dshift)` of shapes `(n,)`, `(m,)`, `(m,)`, `(m,)`.

        **Raises:** `TypeError` or `ValueError`, naming the part, for a wrong shape.
        """
        return _forward(self, _parts("dP dA dq db", vector, self.in_structure()))

    def transpose_mv(self, vector: PyTree[ArrayLike]) -> Data:
        """Vector-Jacobian product.

        **Arguments:**

        - `vector`: `(dx, dy, ds, dshift)`, the cotangents of the solution.

        **Returns:** `(dP, dA, dq, db)`, the cotangents of the stored entries.

        **Raises:** as `mv`.
        """
        return _backward(self, _parts("dx dy ds dshift", vector, self.out_structure()))

    def as_matrix(self) -> Float[Array, "out in"]:
        """The Jacobian."""
        return _matrix(self.transpose()).T

    def transpose(self) -> "AdjointClosestDerivative":
        """The operator of vector-Jacobian products."""
        return AdjointClosestDerivative(self)

    def in_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dP, dA, dq, db)`."""
        sizes = self.structure.P_pattern.nnz, self.structure.A_pattern.nnz
        return self._structs(*sizes, self.structure.n, self.structure.m)

    def out_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dx, dy, ds, dshift)`."""
        return self._structs(self.structure.n, *(self.structure.m,) * 3)

    def _structs(self, *sizes: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(jax.ShapeDtypeStruct((size,), self.shift.dtype) for size in sizes)


class AdjointClosestDerivative(lx.AbstractLinearOperator):
    """The transpose of a [`diffqcp.ClosestDerivative`][]; shares its factorisations."""

    derivative: ClosestDerivative

    def mv(self, vector: PyTree[ArrayLike]) -> Data:
        """Vector-Jacobian product; see `ClosestDerivative.transpose_mv`."""
        return self.derivative.transpose_mv(vector)

    def as_matrix(self) -> Float[Array, "out in"]:
        """The transposed Jacobian."""
        return _matrix(self)

    def transpose(self) -> ClosestDerivative:
        """The derivative itself."""
        return self.derivative

    def in_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dx, dy, ds, dshift)`."""
        return self.derivative.out_structure()

    def out_structure(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """`(dP, dA, dq, db)`."""
        return self.derivative.in_structure()


def _parts(
    names: str, vector: PyTree[ArrayLike], structs: tuple[jax.ShapeDtypeStruct, ...]
) -> Any:
    words = names.split()
    if not isinstance(vector, (tuple, list)) or len(vector) != len(words):
        raise TypeError(
            f"vector: expected a tuple ({', '.join(words)}), got a "
            f"{type(vector).__name__}"
        )
    return tuple(
        as_vector(name, part, struct.size, struct.dtype)
        for name, part, struct in zip(words, vector, structs, strict=True)
    )


def _tangents(operator: ClosestDerivative, change: Data) -> Closest:
    values, shift = operator.values, operator.shift
    found = values.x, values.y, values.s, shift
    linearised, structure = operator.linearised, operator.structure
    return closest_tangents(structure, linearised, values[:4], found, change)


_forward = jax.jit(_tangents)


@jax.jit
def _backward(operator: ClosestDerivative, cotangents: Closest) -> Data:
    transposed = jax.linear_transpose(
        partial(_tangents, operator), operator.in_structure()
    )
    (data,) = transposed(cotangents)
    return data


@partial(jax.jit, static_argnums=(0,))
def closest_derivative(
    structure: AbstractQCPStructure,
    values: Values,
    shift: Float[Array, " m"],
    solver: FrozenSolver,
) -> ClosestDerivative:
    """See `AbstractQCP.closest_derivative`."""
    linearised = linearise_closest(structure, values, shift, solver)
    return ClosestDerivative(linearised, values, shift, structure)


_matrix = eqx.filter_jit(matrix_from_mv)

register_queries(ClosestDerivative)
register_queries(AdjointClosestDerivative)


@dataclass(frozen=True)
class ClosestRegularity:
    """What the derivative of a closest feasible problem rests on.

    **Attributes:**

    - `infeasible`: whether there is a shift.
    - `escapes`: in how many directions of `x` the shift stays as it is, and a change of
        the stored entries of `A` can make it smaller at once: the constraints then meet
        far away, and the shift jumps. Zero if it has a derivative with respect to `A`.
    - `free`: in how many directions `x` can move and stay optimal. Zero if it is unique.
    - `primal`, `dual`, `certificate`: the residuals `A x + s - b - shift`,
        `P x + A'y + q` and `A'shift` in the largest norm.
    - `differentiable`: whether the shift and `x` have derivatives with respect to all of
        the data, as far as these numbers can tell.
    - `verdict`: all of this in words.
    """

    infeasible: bool
    escapes: int
    free: int
    primal: float
    dual: float
    certificate: float
    differentiable: bool
    verdict: str


def examine_closest(
    structure: AbstractQCPStructure, values: Values, shift: Float[Array, " m"]
) -> ClosestRegularity:
    """See `AbstractQCP.closest_regularity`.

    `t` has a derivative with respect to `A` exactly if `A'dt = -dA't` has a solution with
    `dt = D (A dx + dA x)` for each `dA` on the pattern: if `t'dA w = 0` for those and all
    `w` with `D A w = 0`, that is, if `w` is zero in the columns of rows with `t != 0`.
    """
    if structure.n + structure.m > _LARGEST:
        raise ValueError(
            f"closest_regularity: expected n + m of at most {_LARGEST}, since it takes "
            f"singular values, got {structure.n + structure.m}"
        )
    x, y, s, t = (jnp.asarray(part) for part in (*values[4:], shift))
    A, P = structure.A_matrix(values.A), structure.P_matrix(values.P)

    def rows(jacobian: Any) -> np.ndarray:
        kkt = KKTOperator(P, A, jacobian)
        return np.asarray(jax.vmap(kkt.from_dual, 1, 1)(A.as_matrix()))

    place = shift_place(structure, t, s)
    first = rows(structure.dual_cone.jacobian(place))
    pattern, hit = structure.A_pattern, np.asarray(t) != 0
    columns = np.zeros(structure.n, bool)
    columns[pattern.cols[hit[pattern.rows]]] = True
    still = _null_space(first)[columns]
    escapes = int(np.sum(np.linalg.svd(still, compute_uv=False) > _SMALL))
    second = rows(exposed_cone(structure, t).jacobian(y - s))
    free = _null_space(np.concatenate([second, np.asarray(P.as_matrix())])).shape[1]

    def largest(vector: Array) -> float:
        return float(jnp.max(jnp.abs(vector), initial=0))

    residuals = (
        largest(A.mv(x) + s - values.b - t),
        largest(P.mv(x) + A.transpose_mv(y) + values.q),
        largest(A.transpose_mv(t)),
    )
    infeasible = bool(hit.any())
    words = ["The problem is infeasible." if infeasible else "The problem is feasible."]
    if escapes:
        words.append(
            f"In {escapes} directions of x a change of A makes the constraints meet far "
            "away, so that the shift has no derivative with respect to A. What is "
            "returned leaves that out: the active constraints stay as they are."
        )
    if free:
        words.append(f"x is not unique: it can move in {free} directions.")
    if not (escapes or free):
        words.append("The shift and x have derivatives here.")
    good = escapes == free == 0
    return ClosestRegularity(infeasible, escapes, free, *residuals, good, " ".join(words))


_LARGEST, _SMALL = 3000, 1e-8


def _null_space(matrix: np.ndarray) -> np.ndarray:
    """An orthonormal basis, as columns."""
    _, sizes, rows = np.linalg.svd(matrix)
    rank = int(np.sum(sizes > _SMALL * max(sizes.max(initial=0), 1e-300)))
    return rows[rank:].T
