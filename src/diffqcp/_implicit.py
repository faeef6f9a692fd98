"""The derivative of the solution map, as a rule of JAX.

A solution is a zero of

    F(x, y, s; P, A, q, b) = (P x + A'y + q,  A x + s - b,  y - Pi(y - s)),

so its tangents solve the linear system `M (dx, dy, ds) = (-r1, r2, 0)` of
`diffqcp.kkt`, with

    M = [[P, A', 0], [A, 0, I], [0, I - D, D]].

With `dy = U L t + e` a system `M (dx, dy, ds) = (a, c, e)` is

    K [dx; t] = [a - A'e; L U'(c - e)],    ds = c - A dx,

and a transposed one, `M' (w, u, h) = (a, c, e)`, with `D h = -U L t`,

    K [w; t] = [a - A'e; L U'c],    u = e + U L t,    h = c - A w - U L t.

So one factorisation of `K` serves tangents and cotangents. A right-hand side of zero has
the solution zero, whatever `M` is: where there is no solution of the problem, and `M` is
NaN, a cotangent of zero is no question about it. As `M` is built from the
solution and the data, JAX's rule for linear solves differentiates the solution of the
system too, which gives second derivatives wherever `D` has one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._differentiate import Point, Smoothing, Values
from ._search import search, shared_space
from ._sharding import vary_together
from .cones import ConeJacobian, ProductCone
from .derivative import Data, Solution
from .forward import AbstractForwardSolver, Found
from .linear_solve import DenseRange, FrozenSolver
from .sparsity import SparseMatrix
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
    bent = None if extras.smoothing is None else point.jacobian
    A_constant = constants[1]

    def multiply(unknowns: Array) -> Array:
        return multiply_by(unknowns, P, A, y - s, bent, structure=structure)

    def solve(_: Any, right: Array) -> Array:
        return _solve(right, point, A_constant, transposed=False)

    def solve_transposed(_: Any, right: Array) -> Array:
        return _solve(right, point, A_constant, transposed=True)

    # One vector, since JAX wants all of a right-hand side to be linear, and not a part.
    right = jnp.concatenate([-r1, r2, jnp.zeros_like(r2)])
    moved = jax.lax.custom_linear_solve(multiply, right, solve, solve_transposed)
    dx, dy, ds = split(times_one(moved, y), structure.n)
    return dx, dy, ds


def times_one(moved: Array, y: Array) -> Array:
    """The same numbers. As they depend on the solution, so does their cotangent, even for
    a loss that is linear in `x`. JAX does not differentiate `custom_linear_solve` where
    the right-hand side has no tangent, but the matrix of `solve` has one.
    """
    return moved * (1 + 0 * jnp.sum(y))


def split(vector: Array, n: int) -> list[Array]:
    """The parts of length `n`, `m` and `m`."""
    return jnp.split(vector, (n, n + (vector.size - n) // 2))


# The functions below are compiled by themselves, with their constants. Under
# `jax.shard_map` constants inside of a linear system would have to vary over the mesh as
# its arrays do.


@partial(jax.jit, static_argnames="structure")
def multiply_by(
    unknowns: Array,
    P: Array,
    A: Array,
    v: Array,
    bend: ConeJacobian | ProductCone | None,
    *,
    structure: AbstractQCPStructure,
) -> Array:
    """The optimality conditions' derivative in `x`, `y` and `s`, at `v = y - s`; with
    `bend` for the derivative of the projection, or for the cone, if it is given.
    """
    dx, dy, ds = split(unknowns, structure.n)
    A_matrix = structure.A_matrix(A)
    if isinstance(bend, ConeJacobian):
        bent = bend.mv(dy - ds)
    else:
        cone = structure.dual_cone if bend is None else bend
        bent = cone.differential(v, dy - ds)
    upper = structure.P_mv(P, dx) + A_matrix.transpose_mv(dy)
    return jnp.concatenate([upper, A_matrix.mv(dx) + ds, dy - bent])


@partial(jax.jit, static_argnames="transposed")
def _solve(right: Array, point: Point, A: Array, *, transposed: bool) -> Array:
    """The solution of the system with that matrix, or its transpose. A right-hand side of
    zero has a solution of zero, where there is no other, too.
    """
    A_matrix = point.structure.A_matrix(A)
    return solve_by(point.solve, A_matrix, right, transposed)


def solve_by(
    solve: Callable[[Array, Array], Any],
    A: SparseMatrix,
    right: Array,
    transposed: bool,
) -> Array:
    """The solution of the system, or of the transposed one, by `w` and `U L t` of `K`.

    **Arguments:**

    - `solve`: these from the two parts of the right-hand side.
    """
    a, c, e = split(right, A.pattern.shape[1])
    upper, dual = a - A.transpose_mv(e), c if transposed else c - e
    w, u, *_ = solve(upper, dual)
    h = c - A.mv(w)
    parts = jnp.concatenate([w, e + u, h - u if transposed else h])
    return jnp.where(jnp.any(right != 0), parts, 0)


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
