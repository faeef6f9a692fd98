"""The proximal method of multipliers, with semismooth Newton steps.

For a penalty `rho`, a proximal parameter `sigma` and the last `(x_k, y_k)` the next one
is the minimiser `x` of the strongly convex, once differentiable

    1/2 x'Px + q'x + sigma/2 |x - x_k|^2 + 1/(2 rho) |Pi(y_k + rho (A x - b))|^2

with the projection `Pi` onto `K*`, and `y = Pi(w)`, `w = y_k + rho (A x - b)`. Then
`s = (y - w) / rho` is in `K`, and orthogonal to `y`, and what is left of the optimality
conditions is

    P x + A'y + q = -sigma (x - x_k),      A x + s - b = (y - y_k) / rho.

(Rockafellar, "Augmented Lagrangians and applications of the proximal point algorithm in
convex programming", 1976; Hermans, Themelis and Patrinos, "QPALM", 2022, and Bambade et
al., "ProxQP", 2022, for QPs; Li, Sun and Toh, 2020, for LPs.) A Newton step for `x` is

    (P + sigma I + rho A'D A) d = -gradient,

the solution of the system of `diffqcp.kkt` with `P + sigma I` for `P` and
`rho lam / (1 + rho lam)` for `lam`: quasi-definite, and never singular. After a
minimisation `sigma` becomes smaller and, if the constraints have been violated about as
much as before, `rho` larger; where it has taken many steps, `sigma` becomes larger. Where
`P` is dense and far from singular, `sigma` is small from the beginning and never changes,
so that the extension eliminates `x` once for all steps; see `diffqcp._range_space`.

Where the cones are those of equations and rays only, an interior-point method takes over
after a few steps, and without `P` and without a start at once; see
`diffqcp.forward._interior`. The minimisations begin again if it does not get there.

The steps of a minimisation move `x` alone, and rounding errors of `A x - b` enter `y`
multiplied by `rho`. So near the solution either method is followed by steps in `x` and
`v = y - s` at once,

    [[P + e I, A'U L], [L U'A, -(I - lam) - e lam]],      e = sqrt(eps),

which are those of Newton's method but for a small proximal term, as long as they help.
They converge where `K` is singular, too.
"""

from typing import NamedTuple

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from .. import _traced
from .._accuracy import accurate_error, exact_error, scaled_error
from .._compiled import in_programs
from .._sharding import vary_together
from ..derivative import Solution
from . import _interior
from ._base import Start, Status
from ._line_search import line_search
from ._systems import choose, largest, Problem


_RUNNING = -1  # no status yet


class _Point(NamedTuple):
    """A point with its products, `v = y - s`, and its error."""

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    v: Float[Array, " m"]
    Px: Float[Array, " n"]
    Ax: Float[Array, " m"]
    Aty: Float[Array, " n"]
    error: Float[Array, ""]


class _State(NamedTuple):
    """The state of the method.

    - `point`: the current point of the minimisation.
    - `outer`: `(x_k, y_k)`.
    - `best`: the point with the smallest error so far.
    - `rho`, `sigma`: the parameters of the minimisation.
    - `tol`: the minimisation ends at a gradient of this size.
    - `primal`: the primal residual at the end of the last minimisation.
    - `threshold`: below this error, steps in `x` and `v` are tried.
    - `polishing`: whether the next step is one of these. Then `point` is `outer`.
    - `inner`: how many steps the minimisation has taken.
    - `interior`: the iterate of the interior-point method, if the problem is one for it.
    - `inside`: how many steps that may still take. If there are none, the method is
        minimising.
    - `before`: the point next to its last iterate.
    - `trigger`: with this mean of `y_k s_k` there, steps in `x` and `v` are tried.
    """

    point: _Point
    outer: _Point
    best: _Point
    rho: Float[Array, ""]
    sigma: Float[Array, ""]
    tol: Float[Array, ""]
    primal: Float[Array, ""]
    threshold: Float[Array, ""]
    polishing: Bool[Array, ""]
    inner: Integer[Array, ""]
    interior: _interior.Iterate | None
    inside: Integer[Array, ""]
    before: _Point
    trigger: Float[Array, ""]
    status: Integer[Array, ""]
    steps: Integer[Array, ""]


def _point(
    problem: Problem, x: Float[Array, " n"], y: Float[Array, " m"], v: Float[Array, " m"]
) -> _Point:
    _, _, q, b = problem.data
    Px, Ax, Aty = problem.P.mv(x), problem.A.mv(x), problem.A.transpose_mv(y)
    solution, residuals = (x, y, y - v), (Px + Aty + q, Ax + (y - v) - b)
    error = scaled_error(problem.structure, problem.data, solution, residuals)
    return _Point(x, y, v, Px, Ax, Aty, error)


def minimise(
    problem: Problem,
    start: Start | None,
    max_steps: int,
) -> tuple[Solution, Float[Array, ""], Integer[Array, ""], Integer[Array, ""]]:
    """Solves a problem in units of its own.

    **Arguments:**

    - `start`: `(x, y, s)`, or None.

    **Returns:** the best point, its error, the status and the number of steps.
    """
    structure, (_, _, q, b) = problem.structure, problem.data
    dtype = q.dtype
    if problem.free is not None and in_programs(structure, problem.solver, dtype):
        call = _traced.Call(structure, problem.solver, steps=max_steps)
        begin, known = (None, None) if start is None else start
        return _traced.minimise(call, problem.data, begin, known, problem.free)
    exact, accurate = exact_error(dtype), accurate_error(dtype)
    eps = float(jnp.finfo(dtype).eps)
    nearby = eps**0.45
    method = None
    if problem.free is not None and _interior.takes(structure):
        method = _interior.Method.make(problem, nearby)
    zero = np.arange(structure.m) < structure.dims["z"]
    weight = jnp.asarray(np.where(zero, _EQUALITIES, 1.0), dtype)
    # The same for the eigenvalues, which are in the order of the cones.
    rows = problem.cone.rows
    own_weight = weight if rows is None else weight[rows.value]

    definite = problem.is_definite(nearby)

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.status == _RUNNING) & (state.steps < max_steps)

    def is_inside(state: _State) -> Bool[Array, ""]:
        return (state.inside > 0) & ~state.polishing

    def step(state: _State) -> tuple[_Point, _interior.Iterate | None]:
        """The next point, and the next iterate of the interior-point method: one
        factorisation, for a step of any kind.
        """
        polishing, sigma = state.polishing, state.sigma
        point, outer = state.point, state.outer
        rho = state.rho * weight
        place = jnp.where(polishing, outer.v, outer.y + rho * (point.Ax - b))
        jacobian = problem.cone.jacobian(place)
        y = jacobian.mv(place)  # projections are homogeneous
        Aty = problem.A.transpose_mv(y)
        gradient = point.Px + Aty + q + sigma * (point.x - outer.x)
        primal = jnp.where(polishing, point.Ax + y - outer.v - b, 0)
        lam, own_rho = jacobian.eigenvalues, state.rho * own_weight
        lam = jnp.where(
            polishing, lam / (1 + nearby * lam), own_rho * lam / (1 + own_rho * lam)
        )
        small = jnp.where(polishing, nearby, sigma)
        inside = is_inside(state)
        if state.interior is not None and method is not None:
            lam = jnp.where(inside, method.eigenvalues(state.interior), lam)
            small = jnp.where(inside, method.sigma, small)
        # In a batch, items that are finished are factorised too; with NaN, at once.
        small = jnp.where(unfinished(state), small, jnp.nan)
        system = problem.factorise(jacobian.map(lambda _: lam), small)
        d, dy, _ = system.solve(-gradient, -primal)
        downhill = jnp.all(jnp.isfinite(d)) & (gradient @ d < 0)
        d = jnp.where(downhill | polishing, d, -gradient)
        Ad = problem.A.mv(d)
        path = jnp.where(polishing, (1 - nearby) * dy + primal + Ad, rho * Ad)
        curvature = d @ problem.P.mv(d) + sigma * (d @ d)
        first = gradient @ d
        slope = first - y @ Ad, curvature, Ad, first
        length, z, y = line_search(problem, slope, place, path, polishing | inside)
        s = jnp.where(polishing, y - z, (y - z) / rho)
        new = _point(problem, point.x + length * d, y, y - s)
        if state.interior is None or method is None:
            return new, None
        interior = method.step(state.interior, system)
        v = interior.y - interior.s
        next_to = _point(problem, interior.x, problem.cone.project(v), v)
        interior = choose(inside, interior, state.interior)
        return choose(inside, next_to, new), interior

    def descended(state: _State, new: _Point) -> _State:
        """After a step of a minimisation, which may be its last one."""
        outer, rho, sigma = state.outer, state.rho, state.sigma
        gradient = largest(new.Px + new.Aty + q + sigma * (new.x - outer.x))
        primal = largest(new.Ax + (new.y - new.v) - b)
        floor = 10 * eps * (1 + largest(new.y) + rho * (1 + largest(new.x)))
        small = jnp.maximum(jnp.minimum(state.tol, primal), floor)
        done = (gradient <= small) | (state.inner >= _MOST_INNER)
        hard = state.inner >= _MANY
        slow = (primal > _SLOW * state.primal) & ~hard
        next_sigma = jnp.where(
            hard,
            jnp.minimum(sigma / _CLOSER, _WIDEST),
            jnp.maximum(sigma * _CLOSER, _SMALLEST),
        )
        status = jnp.where(new.error <= exact, Status.SOLVED, _RUNNING)
        status = jnp.where(done, _certificate(problem, outer, new, status), status)
        status = jnp.where(jnp.all(jnp.isfinite(new.x)), status, Status.NUMERICAL_TROUBLE)
        ended = state._replace(
            outer=new,
            rho=jnp.where(slow, jnp.minimum(rho * _FASTER, _LARGEST), rho),
            sigma=jnp.where(definite, sigma, next_sigma),
            tol=jnp.maximum(0.3 * state.tol, floor),
            primal=primal,
            polishing=new.error <= state.threshold,
            inner=jnp.zeros_like(state.inner),
        )
        going = state._replace(inner=state.inner + 1)
        state = choose(done, ended, going)
        return state._replace(point=new, status=status.astype(jnp.int32))

    def followed(state: _State, new: _Point) -> _State:
        """After a step of the interior-point method, which may be its last one."""
        if state.interior is None:
            return state
        status = jnp.where(new.error <= exact, Status.SOLVED, _RUNNING)
        status = _certificate(problem, state.before, new, status)
        mu = state.interior.mu
        polishing = mu <= state.trigger
        left = jnp.where(jnp.all(jnp.isfinite(new.x)), state.inside - 1, 0)
        at_new = state._replace(point=new, outer=new, trigger=_CLOSER_STILL * mu)
        at_start = state._replace(**minimising)
        state = choose(polishing, at_new, choose(left == 0, at_start, state))
        return state._replace(
            polishing=polishing | ((left == 0) & minimising["polishing"]),
            inside=left,
            before=new,
            status=status.astype(jnp.int32),
        )

    def polished(state: _State, new: _Point) -> _State:
        """After a step in `x` and `v`."""
        outer = state.outer
        improved, good = new.error < outer.error, new.error < 0.5 * outer.error
        # At the level of rounding errors no step improves any more.
        stalled = ~good & (jnp.fmin(new.error, state.best.error) <= accurate)
        status = jnp.where((new.error <= exact) | stalled, Status.SOLVED, _RUNNING)
        outer = choose(improved, new, outer)
        threshold = jnp.where(good, state.threshold, 0.1 * outer.error)
        return state._replace(
            point=outer,
            outer=outer,
            threshold=threshold,
            polishing=good,
            status=status.astype(jnp.int32),
        )

    inside_first = start is None and structure.P_pattern.nnz == 0

    def body(state: _State) -> _State:
        if method is not None:
            enter = state.steps == (0 if inside_first else _PATIENCE)
            inside = jnp.where(enter, _MOST_INSIDE, state.inside)
            before = choose(enter, state.point, state.before)
            state = state._replace(inside=inside, before=before)
        new, interior = step(state)
        moved = state._replace(interior=interior)
        after = choose(is_inside(state), followed(moved, new), descended(moved, new))
        after = choose(state.polishing, polished(moved, new), after)
        best = choose(new.error < state.best.error, new, state.best)
        after = after._replace(best=best, steps=state.steps + 1)
        return choose(unfinished(state), after, state)

    if start is None:
        zeros = jnp.zeros_like(q), jnp.zeros_like(b)
        begin = _point(problem, *zeros, -b)
        begin = begin._replace(error=jnp.full_like(begin.error, jnp.inf))
    else:
        x, y, s = start.solution
        begin = _point(problem, x, problem.cone.project(y - s), y - s)
    one = jnp.ones_like(begin.error)
    none = jnp.zeros_like(one, dtype=jnp.int32)
    known = jnp.asarray(False) if start is None else start.exact
    status = jnp.where(known | (begin.error <= exact), Status.SOLVED, _RUNNING)
    rho = one * _RHO
    if not _interior.takes(structure):
        # Where constraints are far from being satisfied, a smaller penalty is large
        # enough. (Hermans, Themelis and Patrinos, section 6.2.) For equations and rays it
        # would cost steps: where they are slow, the interior-point method takes over.
        violated = jnp.where(zero, 0, problem.cone.project(begin.Ax - b))
        rho = rho / jnp.maximum(1, violated @ violated / 2)
    minimising = {
        "point": begin,
        "outer": begin,
        "rho": rho,
        "sigma": jnp.where(definite, nearby, one * _SIGMA),
        "tol": one + largest(q) + largest(b),
        "primal": one * jnp.inf,
        "threshold": one * _NEAR,
        "polishing": jnp.asarray(start is not None),
        "inner": none,
    }
    interior = None if method is None else method.begin()
    state = _State(
        **minimising,
        best=begin,
        interior=interior,
        inside=none,
        before=begin,
        trigger=one * (jnp.inf if interior is None else _CLOSE * interior.mu),
        status=status.astype(jnp.int32),
        steps=none,
    )
    state = lax.while_loop(unfinished, body, vary_together(state))
    status, best = state.status, state.best
    status = jnp.where(status == _RUNNING, Status.ITERATION_LIMIT, status)
    good = (status == Status.ITERATION_LIMIT) | (status == Status.NUMERICAL_TROUBLE)
    status = jnp.where(good & (best.error <= accurate), Status.SOLVED, status)
    return (best.x, best.y, best.y - best.v), best.error, status, state.steps


_EQUALITIES = 100.0
_RHO, _SIGMA = 10.0, 1e-2
_SLOW, _FASTER, _LARGEST = 0.25, 3.0, 1e6
_CLOSER, _SMALLEST, _WIDEST = 0.3, 1e-7, 1.0
_MANY, _MOST_INNER = 8, 30
_NEAR = 0.1
_CLOSE, _CLOSER_STILL = 1e-4, 0.1
_PATIENCE, _MOST_INSIDE = 8, 100


def _certificate(
    problem: Problem,
    old: _Point,
    new: _Point,
    status: Integer[Array, ""],
) -> Integer[Array, ""]:
    """`INFEASIBLE` or `UNBOUNDED` if the last change of the multipliers or that of the
    solution proves it, else `status`; see `diffqcp.forward._host.verdict`.
    """
    _, _, q, b = problem.data
    d = new.x - old.x
    size = jnp.maximum(largest(d), 1e-9)
    # Along a ray `A d` is in -K, so that its projection onto K* is zero.
    t, rest = jax.vmap(problem.cone.project)(
        jnp.stack([new.y - old.y, (new.Ax - old.Ax) / size])
    )
    t = t / jnp.maximum(largest(t), 1e-9)
    support, pulled = b @ t, jnp.sum(jnp.abs(problem.A.transpose_mv(t)))
    infeasible = (support < -1e-9) & (pulled <= -support / _HUGE)
    slope = q @ d / size
    rest = (jnp.sum(jnp.abs(new.Px - old.Px)) / size) + jnp.sum(jnp.abs(rest))
    unbounded = (slope < -1e-9) & (rest <= -slope / _HUGE)
    return jnp.where(
        infeasible, Status.INFEASIBLE, jnp.where(unbounded, Status.UNBOUNDED, status)
    )


_HUGE = 1e6
