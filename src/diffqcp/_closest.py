"""The closest feasible problem, its solution, and the derivatives of both.

Whatever the data, the problem

    minimise 1/2 x'Px + q'x    subject to    A x + s = b + t,  s in K,

with the smallest `t` for which there are such `x` and `s` at all is one with a feasible
point. (Chiche and Gilbert, "How the augmented Lagrangian algorithm can deal with an
infeasible convex quadratic optimization problem", 2016; Bambade et al., "Leveraging
augmented-Lagrangian techniques for differentiating over infeasible quadratic programs",
ICLR 2024, for QPs.) It is found in two stages.

1. `t = Pi(A x - b)` for an `x` that minimises `|t|^2 / 2`, with `Pi` onto `K*`. Then

       A't = 0,    A x + s = b + t,    t = Pi(t - s):                                  (1)

   `t` is the certificate of infeasibility of least norm.

2. As `t's = 0` for all feasible points, these are in the face `F` of `K` that `t`
   exposes, and relative to that there is an interior, unlike to `K`:

       P x + A'y + q = 0,    A x + s = b + t,    y = Pi_F*(y - s).                     (2)

   `y` is in `F*`, and need not be in `K*`: there may be no such multiplier.

The derivative of (1) gives `dt`, and that of (2), with `F` moving with `t`, the rest.
"""

from functools import partial
from typing import Any, cast, NamedTuple

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from ._accuracy import all_finite
from ._convexity import is_convex
from ._differentiate import linearise, Values
from ._implicit import Extras, somewhere, times_one
from ._scaling import in_own_units
from ._sharding import vary_together
from ._unknowns import multiply_by, solve_by, split
from .cones import (
    AbstractCone,
    DualCone,
    ExponentialCone,
    NonnegativeCone,
    PowerCone,
    ProductCone,
    PSDCone,
    SecondOrderCone,
    ZeroCone,
)
from .cones.dims import beyond, cones_of
from .cones.faces import face
from .cones.psd import triangle
from .derivative import Data
from .forward import Proximal, Start, Status
from .forward._least_shift import least_shift
from .forward._proximal import minimise
from .forward._systems import Problem
from .kkt import KKTOperator
from .linear_solve import AutoSolver, FrozenSolver
from .structure import AbstractQCPStructure


class ClosestRecipe(NamedTuple):
    """The static part of a closest feasible solve."""

    structure: AbstractQCPStructure
    forward: Proximal


class ClosestFound(NamedTuple):
    """A solution, `t`, the status, and the steps of both stages."""

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]
    shift: Float[Array, " m"]
    status: Array
    iterations: Array


def exposed_cone(structure: AbstractQCPStructure, t: Float[Array, " m"]) -> ProductCone:
    """`F*`, for the face `F` of `K` that `t` exposes."""
    return cast(ProductCone, face(structure.dual_cone.dual(), t).dual())


def interior(structure: AbstractQCPStructure) -> np.ndarray:
    """A point inside of `K`, and of `K*`, with zeros in the rows of zero cones.

    **Raises:** `ValueError` for a cone of which none is known.
    """
    cones = cones_of(structure.dims, structure.psd_order)
    return np.concatenate([_inside(key, cone) for key, cone in cones] or [np.zeros(0)])


def _inside(key: str, cone: AbstractCone) -> np.ndarray:
    bare = cone.cone if isinstance(cone, DualCone) else cone
    if isinstance(bare, ZeroCone):
        return np.zeros(bare.dim)
    if isinstance(bare, NonnegativeCone):
        return np.ones(bare.dim)
    if isinstance(bare, SecondOrderCone):
        return np.eye(1, bare.dim).ravel()
    if isinstance(bare, PSDCone):
        rows, cols = triangle(bare.size, bare.order)
        return (rows == cols).astype(float)
    if isinstance(bare, ExponentialCone):
        return np.array([-1.0, 1.0, 1.0])
    if isinstance(bare, PowerCone):
        return np.array([1.0, 1.0, 0.0])
    raise ValueError(
        f"cone_dims: no point inside of the cone {key!r} is known, a "
        f"{type(bare).__name__}; closest_feasible and elastic need one"
    )


def search_closest(recipe: ClosestRecipe, data: Data, start: Any) -> ClosestFound:
    """Both stages, each in units of its own."""
    structure, forward = recipe
    data, start = vary_together((data, start))
    finite = all_finite(data)
    data = jax.tree.map(lambda part: jnp.where(finite, part, 0), data)
    P, A, q, b = data
    solver = AutoSolver(well_posed=True)
    t, known, shift_steps = least_shift(
        structure, A, b, interior(structure), solver, forward.max_steps
    )
    shifted = P, A, q, b + t
    scaled, scaling = in_own_units(structure, shifted)
    first = None if start is None else Start(scaling.scale(start), ~finite)
    free = None if beyond(structure.dims, ("z", "l")) else t > 0
    problem = Problem(structure, scaled, exposed_cone(structure, t), free, solver)
    solution, _, status, steps = minimise(problem, first, forward.max_steps)
    x, y, s = scaling.restore(solution)
    # `y` is determined up to multiples of `t`. The one orthogonal to `t` is taken.
    square = t @ t
    y = y - (t @ y) / jnp.where(square > 0, square, 1) * t
    infeasible = jnp.any(t != 0)
    solved = status == Status.SOLVED
    status = jnp.where(solved & infeasible, Status.CLOSEST_FEASIBLE, status)
    # The shifted problem is feasible: if it seems not to be, the shift is none.
    known &= status != Status.INFEASIBLE
    status = jnp.where(known, status, Status.WEAKLY_INFEASIBLE)
    convex = is_convex(structure, scaled[0])
    status = jnp.where(convex, status, Status.NOT_CONVEX)
    status = jnp.where(finite, status, Status.NOT_FINITE)
    there = (status == Status.SOLVED) | (status == Status.CLOSEST_FEASIBLE)
    x, y, s, t = (jnp.where(there, part, jnp.nan) for part in (x, y, s, t))
    return ClosestFound(x, y, s, t, status, shift_steps + steps)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def find_closest(recipe: ClosestRecipe, data: Data, extras: Extras) -> ClosestFound:
    """The solution, differentiable in `data`; as `diffqcp._implicit.find`."""
    found = search_closest(recipe, data, extras.start)
    dtype = found.x.dtype
    status, iterations = found.status.astype(dtype), found.iterations.astype(dtype)
    return found._replace(status=status, iterations=iterations)


@find_closest.defjvp
def _find_closest_jvp(
    recipe: ClosestRecipe,
    primals: tuple[Data, Extras],
    tangents: tuple[Data, Extras],
) -> tuple[ClosestFound, ClosestFound]:
    data, extras = primals
    found = find_closest(recipe, data, extras)
    structure, solution = recipe.structure, found[:3]
    data, solution, t, change = vary_together((data, solution, found.shift, tangents[0]))
    constants = lax.stop_gradient((Values(*data, *solution), t))
    linearised = linearise_closest(structure, *constants, extras.solver)
    there = *somewhere(solution), jnp.where(jnp.isnan(t), 0, t)
    moved = closest_tangents(structure, linearised, data, there, change)
    still = jnp.zeros_like(found.status)
    return found, ClosestFound(*moved, still, still)


class System(NamedTuple):
    """A matrix, and a solver with its state for it."""

    kkt: KKTOperator
    state: Any
    solver: FrozenSolver


class Linearised(NamedTuple):
    """The linear systems of both stages."""

    shift: System
    face: System


def linearise_closest(
    structure: AbstractQCPStructure,
    values: Values,
    t: Float[Array, " m"],
    solver: FrozenSolver,
) -> Linearised:
    """Both systems, factorised, at a solution."""
    kkt = shift_system(structure, values, shift_place(structure, t, values.s))
    cone = exposed_cone(structure, t)
    face = linearise(structure, values, solver.thaw(), cone=cone)
    return Linearised(
        System(kkt, solver.thaw().init(kkt, {}), solver),
        System(face.kkt, face.state, solver),
    )


def closest_tangents(
    structure: AbstractQCPStructure,
    linearised: Linearised,
    data: Data,
    found: tuple[Array, Array, Array, Array],
    change: Data,
) -> tuple[Array, Array, Array, Array]:
    """`(dx, dy, ds, dt)`.

    **Arguments:**

    - `found`: `(x, y, s, t)`; what is NaN in it has been replaced.
    """
    P, A, _, _ = data
    x, y, s, t = found
    dP, dA, dq, db = change
    dA_matrix = structure.A_matrix(dA)
    r1 = structure.P_mv(dP, x) + dA_matrix.transpose_mv(y) + dq
    r2 = db - dA_matrix.mv(x)
    right = -dA_matrix.transpose_mv(t), r2, jnp.zeros_like(r2)
    place = shift_place(structure, t, s)
    dt = _solve_shift(structure, linearised.shift, A, place, right)
    v = y - s

    def projection(t: Array) -> Array:
        return exposed_cone(structure, t).project(v)

    _, turned = jax.jvp(projection, (t,), (dt,))
    cone = exposed_cone(structure, t)
    bend = Partial(type(cone).differential, cone, v)

    def multiply(unknowns: Array) -> Array:
        return multiply_by(unknowns, P, A, bend, structure=structure)

    def solve(_: Any, right: Array) -> Array:
        return _solve_face_system(right, linearised.face)

    right = jnp.concatenate([-r1, r2 + dt, -turned])
    moved = lax.custom_linear_solve(multiply, right, solve, solve, symmetric=True)
    dx, dy, _ = split(times_one(moved, y), structure.n)
    return dx, dy, r2 + dt - structure.A_matrix(A).mv(dx), dt


@jax.jit
def _solve_face_system(right: Array, system: System) -> Array:
    kkt, state, solver = system

    def solve(upper: Array, dual: Array) -> Any:
        return kkt.solve(upper, dual, solver.thaw(), state)

    return solve_by(solve, kkt.A, right)


def shift_place(
    structure: AbstractQCPStructure, t: Float[Array, " m"], s: Float[Array, " m"]
) -> Float[Array, " m"]:
    """The point `t - s` at which stage 1 linearises the projection onto `K*`.

    Where strict complementarity fails between `t` and `s` the projection has a kink. So
    `s` is moved a little into its cone, and there the constraint counts as inactive: it
    is not one of those that make the problem infeasible.
    """
    v = t - s
    small = float(jnp.finfo(v.dtype).eps) ** 0.75
    size = jnp.max(jnp.abs(lax.stop_gradient(v)), initial=0)
    return v - small * size * jnp.asarray(interior(structure), v.dtype)


def shift_system(
    structure: AbstractQCPStructure, values: Values, place: Float[Array, " m"]
) -> KKTOperator:
    """The matrix of stage 1: with `dt = U L' t'`, and `lam' = lam / (1 + lam)`,

        [[0, A'U L'], [L'U'A, -(I - lam')]] [dx; t'] = [a; L'U'c]

    says that `A'dt = a` and `dt = D (A dx - c)`.
    """
    jacobian = structure.dual_cone.jacobian(place).map(lambda lam: lam / (1 + lam))
    P, A = structure.P_matrix(0 * values.P), structure.A_matrix(values.A)
    return KKTOperator(P, A, jacobian)


def _solve_shift(
    structure: AbstractQCPStructure,
    system: System,
    A: Float[Array, " nnzA"],
    place: Float[Array, " m"],
    right: tuple[Array, Array, Array],
) -> Float[Array, " m"]:
    """`dt` of the derivative of (1), in which `dv = dt - ds`: the symmetric system

    A'dt = a,    A dx - dv = c,    D dv - dt = e.
    """
    kkt, state, solver = system

    def multiply(unknowns: Array) -> Array:
        return _multiply_shift(unknowns, A, place, structure=structure)

    def solve(_: Any, right: Array) -> Array:
        return _solve_shift_system(right, kkt, state, solver)

    moved = lax.custom_linear_solve(
        multiply, jnp.concatenate(right), solve, solve, symmetric=True
    )
    return split(times_one(moved, place), structure.n)[1]


@partial(jax.jit, static_argnames="structure")
def _multiply_shift(
    unknowns: Array, A: Array, v: Array, *, structure: AbstractQCPStructure
) -> Array:
    dx, dt, dv = split(unknowns, structure.n)
    A_matrix = structure.A_matrix(A)
    bent = structure.dual_cone.differential(v, dv)
    return jnp.concatenate([A_matrix.transpose_mv(dt), A_matrix.mv(dx) - dv, bent - dt])


@jax.jit
def _solve_shift_system(
    right: Array, kkt: KKTOperator, state: Any, solver: FrozenSolver
) -> Array:
    a, c, e = split(right, kkt.n)
    dx, u, _ = kkt.solve(a + kkt.A.transpose_mv(e), c, solver.thaw(), state)
    unknowns = jnp.concatenate([dx, u - e, kkt.A.mv(dx) - c])
    return jnp.where(jnp.any(right != 0), unknowns, 0)
