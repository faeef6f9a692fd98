"""Problems in units of their own, so that solvers and tolerances see numbers near one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import _traced
from ._compiled import in_programs
from ._linear_map import LinearMap
from ._structure_base import AbstractStructure, LocalData
from .derivative import Data, Solution
from .linear_solve import AutoSolver
from .structure import AbstractQCPStructure


class Scaling(NamedTuple):
    """Units of a problem: powers of two, so that nothing is rounded.

    With `D = diag(cols)`, `E = diag(rows)` and `u = unit` the problem with

        P^ = D P D,    A^ = E A D,    q^ = D q / u,    b^ = E b / u

    has the solution `x^ = D^-1 x / u`, `y^ = E^-1 y / u`, `s^ = E s / u`. The rows of a
    cone that is not a product of rays have one factor, so `s^` is in the same cone.
    """

    cols: Float[Array, " n"]
    rows: Float[Array, " m"]
    unit: Float[Array, ""]

    def data(self, structure: AbstractStructure, data: LocalData) -> LocalData:
        """The scaled problem."""
        P, A, q, b = data
        P, A = structure.scaled(P, A, self.rows, self.cols)
        return P, A, self.cols * q / self.unit, self.rows * b / self.unit

    def scale(self, solution: Any) -> Any:
        """From a solution of the problem to that of the scaled one, by JAX or by NumPy as
        the arrays are.
        """
        x, y, s = (part / self.unit for part in solution)
        return x / self.cols, y / self.rows, s * self.rows

    def restore(self, solution: Solution) -> Solution:
        """The inverse of `scale`."""
        x, y, s = (part * self.unit for part in solution)
        return x * self.cols, y * self.rows, s / self.rows


def equilibrate(structure: AbstractStructure, data: LocalData) -> Scaling:
    """Units in which the rows and columns of

        [[P, A', q], [A, 0, b], [q', b', 0]]

    have a largest entry near one: Ruiz's iteration, "A scaling algorithm to equilibrate
    both rows and columns norms in matrices", 2001, on the matrix of the homogeneous
    embedding. As `b` is part of it, a bound far away from all else makes its row small
    and does not count. The first step takes the rows alone, and all of their norms, as
    their units differ most.
    """
    P, A, q, b = data
    P_matrix, A_matrix = structure.P_matrix(P), structure.A_matrix(A)
    q, b = jnp.abs(q), jnp.abs(b)

    def step(scaling: Scaling, first: bool = False) -> Scaling:
        D, E, unit = scaling
        q_, b_ = D * q / unit, E * b / unit
        cols = jnp.maximum(P_matrix.col_sizes(D), A_matrix.col_sizes(E))
        cols = jnp.maximum(D * cols, q_)
        rows = block_max(structure, jnp.maximum(E * A_matrix.row_sizes(D), b_))
        largest = jnp.max(jnp.concatenate([q_, b_]), initial=0)
        cols, rows, largest = (
            jnp.where(size > 0, size, 1) for size in (cols, rows, largest)
        )
        if first:
            return Scaling(D, E / rows, unit)
        cols, rows, largest = (jnp.sqrt(size) for size in (cols, rows, largest))
        return Scaling(D / cols, E / rows, unit * largest)

    one = jnp.ones_like(q, shape=())
    scaling = step(Scaling(jnp.ones_like(q), jnp.ones_like(b), one), first=True)
    if isinstance(P_matrix, LinearMap):  # products may be long programs
        scaling = jax.lax.fori_loop(0, _STEPS, lambda _, last: step(last), scaling)
    else:  # no loop of JAX: two of them are not made one
        for _ in range(_STEPS):
            scaling = step(scaling)
    return jax.tree.map(_power_of_two, scaling)


_STEPS = 4


def in_own_units(structure: AbstractQCPStructure, data: Data) -> tuple[Data, Scaling]:
    """The problem in the units of `equilibrate`, and these."""
    solver = AutoSolver()
    if in_programs(structure, solver, data[2].dtype):
        scaled, units = _traced.equilibrate(_traced.Call(structure, solver), data)
        return scaled, Scaling(*units)
    scaling = equilibrate(structure, data)
    return scaling.data(structure, data), scaling


def _power_of_two(values: Array) -> Array:
    """Those next to these values: without a mantissa."""
    bits = jnp.finfo(values.dtype).nexp
    return jax.lax.reduce_precision(values, exponent_bits=bits, mantissa_bits=0)


def block_max(
    structure: AbstractStructure, values: Float[Array, " m"]
) -> Float[Array, " m"]:
    """For each row the largest of the values in its cone, which is the row itself for
    zero and nonnegative cones.
    """
    dims = structure.dims
    straight = dims["z"] + dims["l"]
    if straight == structure.m:
        return values
    lengths = structure.curved_sizes
    cone = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    largest = jnp.zeros(len(lengths), values.dtype).at[cone].max(values[straight:])
    return jnp.concatenate([values[:straight], largest[cone]])
