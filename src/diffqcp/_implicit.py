"""The derivative of the solution map, as a rule of JAX.

A solution is a zero of

    F(x, y, s; P, A, q, b) = (P x + A'y + q,  A x + s - b,  y - Pi(y - s)),

so its tangents solve the linear system `M (dx, dy, dy - ds) = (-r1, r2, 0)` of
`diffqcp._unknowns`. As `M` is built from the solution and the data, JAX's rule for linear
solves differentiates the solution of the system too, which gives second derivatives
wherever `D` has one.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from ._differentiate import Smoothing, Values
from ._search import search, shared_space
from ._sharding import vary_together
from ._unknowns import bend_by, multiply_by, Point, split
from .cones import ConeJacobian
from .derivative import Data, Solution
from .forward import AbstractForwardSolver, Found
from .linear_solve import DenseRange, FrozenSolver
from .structure import AbstractQCPStructure


class Recipe(NamedTuple):
    """What of a solve is static: it is compiled once for each.

    - `polish`: the most steps of Newton's method after the forward solver.
    """

    structure: AbstractQCPStructure
    forward: AbstractForwardSolver
    polish: int


class Extras(NamedTuple):
    """Arguments without derivatives: the solver of the linear systems, the parameter of
    the smoothed projection, and a point to start from.
    """

    solver: FrozenSolver
    smoothing: Smoothing
    start: Solution | None


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def find(recipe: Recipe, data: Data, extras: Extras) -> Found:
    """The solution; differentiable in `data`. The status and the number of iterations are
    floating-point numbers, since JAX has no tangents of integers that vary over a mesh.
    """
    structure, forward, steps = recipe
    found = search(structure, forward, data, extras.start, extras.solver.thaw(), steps)
    dtype = found.x.dtype
    status, iterations = found.status.astype(dtype), found.iterations.astype(dtype)
    return Found(found.x, found.y, found.s, status, iterations)


@find.defjvp
def _find_jvp(
    recipe: Recipe, primals: tuple[Data, Extras], tangents: tuple[Data, Extras]
) -> tuple[Found, Found]:
    data, extras = primals
    # `find` itself is called again, and the tangents use nothing but its value. So there
    # is one solve, and the rule can be differentiated itself, to any order.
    found = find(recipe, data, extras)
    solution = (found.x, found.y, found.s)
    moved = _tangents(recipe.structure, data, solution, tangents[0], extras)
    still = jnp.zeros_like(found.status)
    return found, Found(*moved, still, still)


def _tangents(
    structure: AbstractQCPStructure,
    data: Data,
    solution: Solution,
    change: Data,
    extras: Extras,
) -> Solution:
    data, solution, change = vary_together((data, solution, change))
    P, A, _, _ = data
    x, y, s = somewhere(solution)
    dP, dA, dq, db = change
    dA_matrix = structure.A_matrix(dA)
    r1 = structure.P_mv(dP, x) + dA_matrix.transpose_mv(y) + dq
    r2 = db - dA_matrix.mv(x)

    constants = jax.lax.stop_gradient((*data, *solution))  # NaN, where there is none
    options = {}
    if isinstance(extras.solver.thaw(), DenseRange):
        options["shared"] = shared_space(structure, constants[:4])
    values = Values(*constants)
    point = Point(structure, extras.solver, values, extras.smoothing, options)
    bend = Partial(partial(bend_by, structure), point.jacobian, y - s)
    if extras.smoothing is not None:  # which has no derivatives in `v`
        bend = Partial(ConeJacobian.mv, point.jacobian)

    def multiply(unknowns: Array) -> Array:
        return multiply_by(unknowns, P, A, bend, structure=structure)

    def solve(_: Any, right: Array) -> Array:
        return _solve(right, point)

    # One vector, since JAX wants all of a right-hand side to be linear, and not a part.
    right = jnp.concatenate([-r1, r2, jnp.zeros_like(r2)])
    moved = jax.lax.custom_linear_solve(multiply, right, solve, solve, symmetric=True)
    dx, dy, _ = split(times_one(moved, jnp.concatenate(solution)), structure.n)
    return dx, dy, r2 - structure.A_matrix(A).mv(dx)


def times_one(moved: Array, solution: Array) -> Array:
    """The same numbers. As they depend on the solution, so does their cotangent, even for
    a loss that is linear in `x`. JAX does not differentiate `custom_linear_solve` where
    the right-hand side has no tangent, but the matrix of `solve` has one.
    """
    first = solution[:1]
    return moved * (1 + jnp.sum(jnp.where(jnp.isfinite(first), 0 * first, 0)))


# Compiled by itself, as `multiply_by` is.
@jax.jit
def _solve(right: Array, point: Point) -> Array:
    return point.solve(right)


def somewhere(solution: Solution) -> Solution:
    """The solution, or an arbitrary point if there is none.

    Without it, a NaN times a cotangent of zero would be NaN. The numbers of the arbitrary
    point are linearly independent over the rationals (Lindemann and Weierstrass), so that
    a change of the data by simple numbers does not happen to have a right-hand side of
    zero, and with it a derivative of zero.
    """
    x, y, s = solution
    none = jnp.isnan(x).any() | jnp.isnan(y).any()
    sizes = np.cumsum([part.size for part in solution])
    point = np.split(np.sin(np.arange(1.0, 1 + sizes[-1])), sizes[:-1])
    x, y, s = (
        jnp.where(none, jnp.asarray(other, part.dtype), part)
        for part, other in zip(solution, point, strict=True)
    )
    return x, y, s
