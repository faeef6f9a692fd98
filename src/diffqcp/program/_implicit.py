"""The solution of a program as a differentiable function of `theta`.

The tangents of the solution solve the system of `diffqcp.kkt`, with

    P = hess L,    A = Dc,    r1 = d_theta(grad L) dtheta,    r2 = -d_theta(c) dtheta,

and `ds = r2 - A dx`. What is differentiated once more is that system: `P`, `A` and the
derivative of the projection are functions of `theta` and of the solution.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._accuracy import all_finite
from .._differentiate import linearise, Linearised, Values
from .._implicit import somewhere
from .._newton import newton_along
from .._scaling import equilibrate
from .._structure_base import LocalData
from .._unknowns import bend_by
from ..derivative import Solution
from ..forward import Status
from ..linear_solve import Augmented, AutoSolver, FrozenSolver, LSMR
from ..structure import AbstractQCPStructure
from ._check import judge
from ._model import Local, Model
from ._multipliers import estimate_multipliers
from ._sqp import SQP, sqp


class Recipe(NamedTuple):
    """What is static: compiled once for each.

    - `method`: what finds the solution; None if it is given.
    - `keep`: whether a point that is no solution is kept; else it is NaN.
    - `polish`: the most Newton steps.
    - `tol`: the largest error of what counts as a solution.
    """

    model: Model
    method: SQP | None
    keep: bool
    polish: int
    tol: float


class Extras(NamedTuple):
    """Arguments without derivatives: the solver of linear systems, the point that is
    given or started from, and its multipliers if they are known.
    """

    solver: FrozenSolver
    x: Float[Array, " n"]
    y: Float[Array, " m"] | None


class Located(NamedTuple):
    """A solution. All of it is in floating-point numbers, since JAX has no tangents of
    integers.

    - `error`: of the first-order conditions; see `judge`.
    """

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]
    status: Float[Array, ""]
    iterations: Float[Array, ""]
    error: Float[Array, ""]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def locate(recipe: Recipe, theta: Any, extras: Extras) -> Located:
    """The solution; differentiable in `theta`."""
    model, solver = recipe.model, extras.solver.thaw()
    structure, x = model.structure, extras.x
    y, count, trouble = extras.y, jnp.zeros((), jnp.int32), jnp.asarray(False)
    otherwise = jnp.asarray(int(Status.INACCURATE), jnp.int32)
    if y is None:
        none = jnp.zeros(structure.m, x.dtype)
        first = model.local(x, none, theta).data
        least = AutoSolver() if isinstance(structure, AbstractQCPStructure) else solver
        s = -model.c(x, theta)
        y, solved = estimate_multipliers(structure, first, x, s, least)
        trouble = ~solved & all_finite((first[2:], x))
    if recipe.method is not None:
        x, y, count, otherwise = sqp(recipe.method, model, theta, x, y)
    s = -model.c(x, theta)
    if recipe.polish:
        x, y, s = _polish(recipe, theta, (x, y, s), solver)
    local, linearised = _linearised(model, theta, (x, y, s), solver)
    minimum = jnp.asarray(False)
    if isinstance(solver, Augmented):
        minimum = solver.shows_minimum(linearised.state)
    status, error = judge(structure, local, (x, y, s), recipe.tol, minimum)
    status = jnp.where(status == int(Status.INACCURATE), otherwise, status)
    trouble &= status == int(Status.NOT_FINITE)  # for want of multipliers
    status = jnp.where(trouble, jnp.int32(int(Status.NUMERICAL_TROUBLE)), status)
    if not recipe.keep:
        x, y, s = (
            jnp.where(status == int(Status.SOLVED), part, jnp.nan) for part in (x, y, s)
        )
    return Located(x, y, s, status.astype(x.dtype), count.astype(x.dtype), error)


def _linearised(
    model: Model, theta: Any, solution: Solution, solver: Any
) -> tuple[Local, Linearised]:
    """The local QCP, and `K` of it, factorised. Where both the test of a point and its
    derivative ask for them, the compiler makes them once.
    """
    x, y, s = somewhere(solution)
    local = model.local(x, y, theta)
    values = Values(*local.data, x, y, s)
    return local, linearise(model.structure, values, solver)


def _polish(recipe: Recipe, theta: Any, start: Solution, solver: Any) -> Solution:
    """Newton steps as long as they help, in units of the local QCP at the start."""
    model = recipe.model
    x, y, _ = start
    scaling = equilibrate(model.structure, model.local(x, y, theta).data)

    def local(x: Array, y: Array) -> LocalData:
        x, y, _ = scaling.restore((x, y, y))
        return scaling.data(model.structure, model.local(x, y, theta).data)

    found, _, _ = newton_along(
        *(model.structure, local, scaling.scale(start), solver),
        max_steps=recipe.polish,
        patience=2,
    )
    return scaling.restore(found)


@locate.defjvp
def _locate_jvp(
    recipe: Recipe, primals: tuple[Any, Extras], tangents: tuple[Any, Extras]
) -> tuple[Located, Located]:
    theta, extras = primals
    # The same function again: derivatives of any order.
    found = locate(recipe, theta, extras)
    model, solver = recipe.model, extras.solver.thaw()
    if isinstance(solver, LSMR):
        # A Newton step in the sense of least squares is one that may help, but as the
        # derivative it means nothing where the Hessian is indefinite.
        solver = replace(solver, well_posed=True)
    structure = model.structure
    good = found.status == int(Status.SOLVED)
    solution = found.x, found.y, found.s
    _, linearised = _linearised(model, theta, solution, solver)
    kkt, (x, y, s) = linearised.kkt, somewhere(solution)
    r1, r2 = model.change(x, y, theta, tangents[0])

    def known(values: Any, solved: Array) -> Any:
        return jax.tree.map(lambda part: jnp.where(solved & good, part, jnp.nan), values)

    dx, dy, _ = kkt.solve_for_jax(
        *(-r1, r2, solver, linearised.state, known),
        bend=lambda moved: bend_by(structure, kkt.jacobian, y - s, moved),
    )
    moved = dx, dy, r2 - kkt.A.mv(dx)
    still = (jnp.zeros_like(part) for part in found[3:])
    return found, Located(*moved, *still)
