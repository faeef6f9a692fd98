"""The linear system of a derivative in all of its unknowns, the changes of `x`, `y` and
`v = y - s`.

The Jacobian of the optimality conditions at a solution,

    M = [[P, A', 0], [A, I, -I], [0, -I, D]],

is symmetric, and with `dy = U L t - e`, a system `M (dx, dy, dv) = (a, c, e)` is

    K [dx; t] = [a + A'e; L U'(c + e)],    dv = dy - c + A dx.

A right-hand side of zero has the solution zero, whatever `M` is: where there is no
solution of the problem, and `M` is NaN, a cotangent of zero is no question about it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _traced
from ._compiled import in_programs
from ._differentiate import linearise, Smoothing, Values
from ._problem import eigenvectors
from ._structure_base import AbstractStructure
from .cones import ConeJacobian
from .kkt import KKTOperator
from .linear_solve import FrozenSolver
from .sparsity import SparseMatrix
from .structure import AbstractQCPStructure


def split(vector: Array, n: int) -> list[Array]:
    """The parts of length `n`, `m` and `m`."""
    return jnp.split(vector, (n, n + (vector.size - n) // 2))


class Point(eqx.Module):
    """`K` at a point, factorised: by the extension if it is there for it, else by JAX.

    - `P`, `A`: the stored values of the matrices.
    """

    structure: AbstractQCPStructure = eqx.field(static=True)
    solver: FrozenSolver
    P: Float[Array, " nnzP"]
    A: Float[Array, " nnzA"]
    state: _traced.State | tuple[KKTOperator, Any]

    def __init__(
        self,
        structure: AbstractQCPStructure,
        solver: FrozenSolver,
        values: Values,
        smoothing: Smoothing,
        options: dict[str, Any],
    ):
        """**Arguments:** as for `linearise`."""
        self.structure, self.solver = structure, solver
        self.P, self.A = values.P, values.A
        if in_programs(structure, solver.rest.value, values.x.dtype):
            mu = 0.0 if smoothing is None else smoothing
            self.state = _traced.linearise(self._call, values, mu)
        else:
            linearised = linearise(structure, values, solver.thaw(), smoothing, options)
            self.state = linearised.kkt, linearised.state

    @property
    def _call(self) -> _traced.Call:
        return _traced.Call(self.structure, self.solver.thaw())

    @property
    def jacobian(self) -> ConeJacobian:
        """`D`."""
        if isinstance(self.state, _traced.State):
            lam, frames = self.state[:2]
            return ConeJacobian(lam, eigenvectors(self.structure.dual_cone, frames))
        return self.state[0].jacobian

    def solve(self, right: Array) -> Float[Array, " unknowns"]:
        """The solution of the system with `M`."""
        if isinstance(self.state, _traced.State):
            matrices = self.P, self.A
            return _traced.solve(self._call, self.state, matrices, right)
        kkt, state = self.state

        def solve(upper: Array, dual: Array) -> Any:
            return kkt.solve(upper, dual, self.solver.thaw(), state)

        return solve_by(solve, self.structure.A_matrix(self.A), right)


def solve_by(
    solve: Callable[[Array, Array], Any], A: SparseMatrix, right: Array
) -> Array:
    """The solution of the system, by `dx` and `U L t` of `K`.

    **Arguments:**

    - `solve`: these from the two parts of the right-hand side.
    """
    a, c, e = split(right, A.pattern.shape[1])
    dx, u, *_ = solve(a + A.transpose_mv(e), c + e)
    dy = u - e
    unknowns = jnp.concatenate([dx, dy, dy - c + A.mv(dx)])
    return jnp.where(jnp.any(right != 0), unknowns, 0)


# Compiled by itself, with its constants: under `jax.shard_map` constants inside of a
# linear system would have to vary over the mesh as its arrays do.
@partial(jax.jit, static_argnames="structure")
def multiply_by(
    unknowns: Array,
    P: Array,
    A: Array,
    bend: Callable[[Array], Array],
    *,
    structure: AbstractQCPStructure,
) -> Array:
    """`M` times a vector.

    **Arguments:**

    - `bend`: the product with `D`, a PyTree.
    """
    dx, dy, dv = split(unknowns, structure.n)
    A_matrix = structure.A_matrix(A)
    upper = structure.P_mv(P, dx) + A_matrix.transpose_mv(dy)
    return jnp.concatenate([upper, A_matrix.mv(dx) + dy - dv, bend(dv) - dy])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def bend_by(
    structure: AbstractStructure, D: ConeJacobian, v: Array, vector: Array
) -> Array:
    """`D vector`, where `D` is known. Its derivative in `v` is that of
    [`diffqcp.cones.AbstractCone.differential`][], whose formulas are traced only where
    they are needed: for derivatives of second order. (JAX never transposes it, as `M` is
    symmetric: that would lose the rule.)
    """
    return D.mv(vector)


@bend_by.defjvp
def _bend_by_jvp(
    structure: AbstractStructure,
    primals: tuple[ConeJacobian, Array, Array],
    tangents: tuple[ConeJacobian, Array, Array],
) -> tuple[Array, Array]:
    differential = structure.dual_cone.differential
    _, moved = jax.jvp(differential, primals[1:], tangents[1:])
    return bend_by(structure, *primals), moved
