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
much as before, `rho` larger; where it has taken many steps, `sigma` becomes larger.

These steps move `x` alone, and rounding errors of `A x - b` enter `y` multiplied by
`rho`. So near the solution they are followed by steps in `x` and `v = y - s` at once,

    [[P + e I, A'U L], [L U'A, -(I - lam) - e lam]],      e = sqrt(eps),

which are those of Newton's method but for a small proximal term, as long as they help.
They converge where `K` is singular, too.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.lax as lax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from .. import _traced
from .._accuracy import accurate_error, exact_error, scaled_error
from .._compiled import in_programs
from .._scaling import block_max
from .._sharding import vary_together
from ..cones import ConeJacobian, ProductCone
from ..derivative import Data, Solution
from ..kkt import KKTOperator
from ..sparsity import SparseMatrix, SparsityPattern
from ..structure import AbstractQCPStructure
from ._base import Start, Status


_RUNNING = -1  # no status yet


class Problem(NamedTuple):
    """A problem.

    - `cone`: `K*`, or the cone that takes its place.
    - `free`: how these two differ, if at most in the rows of nonnegative cones: those
        whose multipliers have any sign. None if they differ in others.
    """

    structure: AbstractQCPStructure
    data: Data
    cone: ProductCone
    free: Bool[Array, " m"] | None
    solver: lx.AbstractLinearSolver

    @classmethod
    def make(
        cls,
        structure: AbstractQCPStructure,
        data: Data,
        solver: lx.AbstractLinearSolver,
    ) -> "Problem":
        """With `K*` itself."""
        free = jnp.zeros(structure.m, bool)
        return cls(structure, data, structure.dual_cone, free, solver)

    @property
    def A(self) -> SparseMatrix:
        """The constraint matrix."""
        return self.structure.A_matrix(self.data[1])

    @property
    def P(self) -> SparseMatrix:
        """All of the objective matrix."""
        return self.structure.P_matrix(self.data[0])

    def solve(
        self,
        jacobian: ConeJacobian,
        shift: Float[Array, ""],
        upper: Float[Array, " n"],
        dual: Float[Array, " m"],
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """`w` and `U L t` with `K [w; t] = [upper; L U'dual]`, for the matrix `K` with
        `P + shift I` and the given `D`.
        """
        kkt = KKTOperator(_shifted(self.P, shift), self.A, jacobian)
        state = self.solver.init(kkt, {})
        right = jnp.concatenate([upper, kkt.from_dual(dual)])
        z, _, _ = self.solver.compute(state, right, {})
        return z[: kkt.n], kkt.to_dual(z[kkt.n :])


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
    zero = np.arange(structure.m) < structure.dims["z"]
    weight = jnp.asarray(np.where(zero, _EQUALITIES, 1.0), dtype)
    # The same for the eigenvalues, which are in the order of the cones.
    rows = problem.cone.rows
    own_weight = weight if rows is None else weight[rows.value]

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.status == _RUNNING) & (state.steps < max_steps)

    def step(state: _State) -> _Point:
        """The next point: one factorisation, for a step of either kind."""
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
        # In a batch, items that are finished are factorised too; with NaN, at once.
        small = jnp.where(unfinished(state), small, jnp.nan)
        d, dy = problem.solve(jacobian.map(lambda _: lam), small, -gradient, -primal)
        downhill = jnp.all(jnp.isfinite(d)) & (gradient @ d < 0)
        d = jnp.where(downhill | polishing, d, -gradient)
        Ad = problem.A.mv(d)
        path = jnp.where(polishing, (1 - nearby) * dy + primal + Ad, rho * Ad)
        curvature = d @ problem.P.mv(d) + sigma * (d @ d)
        first = gradient @ d
        slope = first - y @ Ad, curvature, Ad, first
        length, z, y = _line_search(problem, slope, place, path, polishing)
        s = jnp.where(polishing, y - z, (y - z) / rho)
        return _point(problem, point.x + length * d, y, y - s)

    def descended(state: _State, new: _Point) -> _State:
        """After a step of a minimisation, which may be its last one."""
        outer, rho, sigma = state.outer, state.rho, state.sigma
        gradient = _size(new.Px + new.Aty + q + sigma * (new.x - outer.x))
        primal = _size(new.Ax + (new.y - new.v) - b)
        floor = 10 * eps * (1 + _size(new.y) + rho * (1 + _size(new.x)))
        small = jnp.maximum(jnp.minimum(state.tol, primal), floor)
        done = (gradient <= small) | (state.inner >= _MOST_INNER)
        hard = state.inner >= _MANY
        slow = (primal > _SLOW * state.primal) & ~hard
        status = jnp.where(new.error <= exact, Status.SOLVED, _RUNNING)
        status = jnp.where(
            done, _certificate(problem, outer, new, rho * weight, status), status
        )
        status = jnp.where(jnp.all(jnp.isfinite(new.x)), status, Status.NUMERICAL_TROUBLE)
        ended = state._replace(
            outer=new,
            rho=jnp.where(slow, jnp.minimum(rho * _FASTER, _LARGEST), rho),
            sigma=jnp.where(
                hard,
                jnp.minimum(sigma / _CLOSER, _WIDEST),
                jnp.maximum(sigma * _CLOSER, _SMALLEST),
            ),
            tol=jnp.maximum(0.3 * state.tol, floor),
            primal=primal,
            polishing=new.error <= state.threshold,
            inner=jnp.zeros_like(state.inner),
        )
        going = state._replace(inner=state.inner + 1)
        state = _where(done, ended, going)
        return state._replace(point=new, status=status.astype(jnp.int32))

    def polished(state: _State, new: _Point) -> _State:
        """After a step in `x` and `v`."""
        outer = state.outer
        improved, good = new.error < outer.error, new.error < 0.5 * outer.error
        # At the level of rounding errors no step improves any more.
        stalled = ~good & (jnp.fmin(new.error, state.best.error) <= accurate)
        status = jnp.where((new.error <= exact) | stalled, Status.SOLVED, _RUNNING)
        outer = _where(improved, new, outer)
        threshold = jnp.where(good, state.threshold, 0.1 * outer.error)
        return state._replace(
            point=outer,
            outer=outer,
            threshold=threshold,
            polishing=good,
            status=status.astype(jnp.int32),
        )

    def body(state: _State) -> _State:
        new = step(state)
        after = _where(state.polishing, polished(state, new), descended(state, new))
        best = _where(new.error < state.best.error, new, state.best)
        after = after._replace(best=best, steps=state.steps + 1)
        return _where(unfinished(state), after, state)

    if start is None:
        zeros = jnp.zeros_like(q), jnp.zeros_like(b)
        begin = _point(problem, *zeros, -b)
        begin = begin._replace(error=jnp.full_like(begin.error, jnp.inf))
    else:
        x, y, s = start.solution
        begin = _point(problem, x, problem.cone.project(y - s), y - s)
    one = jnp.ones_like(begin.error)
    known = jnp.asarray(False) if start is None else start.exact
    status = jnp.where(known | (begin.error <= exact), Status.SOLVED, _RUNNING)
    state = _State(
        *(begin, begin, begin, one * _RHO, one * _SIGMA),
        *(one + _size(q) + _size(b), one * jnp.inf, one * _NEAR),
        polishing=jnp.asarray(start is not None),
        inner=jnp.zeros_like(one, dtype=jnp.int32),
        status=status.astype(jnp.int32),
        steps=jnp.zeros_like(one, dtype=jnp.int32),
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


def _size(vector: Float[Array, " d"]) -> Float[Array, ""]:
    return jnp.max(jnp.abs(vector), initial=0)


def _where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _line_search(
    problem: Problem,
    terms: tuple[
        Float[Array, ""], Float[Array, ""], Float[Array, " m"], Float[Array, ""]
    ],
    place: Float[Array, " m"],
    path: Float[Array, " m"],
    at_once: Bool[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, " m"], Float[Array, " m"]]:
    """A step at whose end the slope of the penalised objective is close to zero. (The
    objective is convex, so the slope never decreases.)

    **Arguments:**

    - `terms`: `c0`, `c1`, `a`, and the slope at 0; that at `t` is
        `c0 + c1 t + a'Pi(place + t path)`.
    - `at_once`: whether to take a step of length 1 without a search.

    **Returns:** `t`, `place + t path`, and its projection.
    """
    constant, square, across, first = terms

    def unfinished(carry):
        _, (_, _, _, slope), count = carry
        going = ~(jnp.abs(slope) <= 0.1 * jnp.abs(first)) & (count < 30) & ~at_once
        return (count == 0) | going

    def body(carry):
        (low, low_slope, high, high_slope), (length, _, _, slope), count = carry
        left = slope < 0
        low, low_slope = jnp.where(left, length, low), jnp.where(left, slope, low_slope)
        high, high_slope = (
            jnp.where(left, high, length),
            jnp.where(left, high_slope, slope),
        )
        bounded = jnp.isfinite(high)
        rise = jnp.where(bounded, high_slope - low_slope, 1)
        share = jnp.clip(-low_slope / jnp.where(rise > 0, rise, 1), 0.01, 0.99)
        share = jnp.where(count % 3 == 2, 0.5, share)
        between = low + share * (jnp.where(bounded, high, low) - low)
        length = jnp.where(bounded, between, 4 * low)
        length = jnp.where(count == 0, 1, length)
        z = place + length * path
        y = problem.cone.project(z)
        slope = constant + length * square + across @ y
        return (low, low_slope, high, high_slope), (length, z, y, slope), count + 1

    zero = jnp.zeros_like(first)
    bracket = zero, first, jnp.full_like(first, jnp.inf), zero
    carry = bracket, (zero, place, place, first), jnp.zeros_like(first, dtype=jnp.int32)
    _, (length, z, y, _), _ = lax.while_loop(unfinished, body, vary_together(carry))
    return length, z, y


def _certificate(
    problem: Problem,
    old: _Point,
    new: _Point,
    rho: Float[Array, " m"],
    status: Integer[Array, ""],
) -> Integer[Array, ""]:
    """`INFEASIBLE` or `UNBOUNDED` if the last change of the multipliers or that of the
    solution proves it, else `status`; see `diffqcp.forward._host.verdict`.
    """
    _, _, q, b = problem.data
    d = new.x - old.x
    size = jnp.maximum(_size(d), 1e-9)
    # Along a ray `A d` is in -K, so that its projection onto K* is zero.
    t, rest = jax.vmap(problem.cone.project)(
        jnp.stack([(new.y - old.y) / rho, (new.Ax - old.Ax) / size])
    )
    t = t / jnp.maximum(_size(t), 1e-9)
    support, pulled = b @ t, jnp.sum(jnp.abs(problem.A.transpose_mv(t)))
    infeasible = (support < -1e-9) & (pulled <= -support / _HUGE)
    slope = q @ d / size
    rest = (jnp.sum(jnp.abs(new.Px - old.Px)) / size) + jnp.sum(jnp.abs(rest))
    unbounded = (slope < -1e-9) & (rest <= -slope / _HUGE)
    return jnp.where(
        infeasible, Status.INFEASIBLE, jnp.where(unbounded, Status.UNBOUNDED, status)
    )


_HUGE = 1e6


def _shifted(P: SparseMatrix, shift: Float[Array, ""]) -> SparseMatrix:
    """`P + shift I`."""
    pattern, places = _with_diagonal(P.pattern)
    missing = pattern.nnz - P.pattern.nnz
    values = jnp.concatenate([P.values, jnp.zeros(missing, P.values.dtype)])
    return SparseMatrix(values.at[places].add(shift), pattern)


@functools.lru_cache(maxsize=64)
def _with_diagonal(pattern: SparsityPattern) -> tuple[SparsityPattern, np.ndarray]:
    """The pattern with the whole diagonal added, and the places of the diagonal in it."""
    on = np.flatnonzero(pattern.rows == pattern.cols)
    missing = np.setdiff1d(np.arange(pattern.shape[0]), pattern.rows[on])
    places = np.concatenate([on, pattern.nnz + np.arange(missing.size)])
    rows = np.concatenate([pattern.rows, missing])
    cols = np.concatenate([pattern.cols, missing])
    return SparsityPattern(rows, cols, pattern.shape), places.astype(np.int32)


class _Shift(NamedTuple):
    """`x`, and the gradient `A't` of half the square of the distance."""

    x: Float[Array, " n"]
    Ax: Float[Array, " m"]
    t: Float[Array, " m"]
    gradient: Float[Array, " n"]
    status: Integer[Array, ""]
    steps: Integer[Array, ""]


def least_shift(
    structure: AbstractQCPStructure,
    A: Float[Array, " nnzA"],
    b: Float[Array, " m"],
    inside: np.ndarray,
    solver: lx.AbstractLinearSolver,
    max_steps: int,
) -> tuple[Float[Array, " m"], Bool[Array, ""], Integer[Array, ""]]:
    """The smallest `t` for which `A x + s = b + t` with `s` in `K` has a solution: the
    minimum of `|Pi(A x - b)|^2 / 2`, by Newton steps with a line search, as above with
    `y_k = 0` and `rho = 1`. Blocks of `t` that are rounding errors are zero.

    **Arguments:**

    - `inside`: a point inside of `K`, zero in the rows of zero cones.

    **Returns:** `t`, whether it is known to be that, and the number of steps.
    """
    if in_programs(structure, solver, b.dtype):
        call = _traced.Call(structure, solver, steps=max_steps)
        return _traced.least_shift(call, A, b, inside)
    eps = float(jnp.finfo(b.dtype).eps)
    cols = structure.A_matrix(A).col_sizes(jnp.ones_like(b))
    cols = 1 / jnp.where(cols > 0, cols, 1)
    unit = _size(b)
    unit = jnp.where(unit > 0, unit, 1)
    b = b / unit
    entries = A * cols[structure.A_pattern.cols]
    nothing = jnp.zeros(structure.P_pattern.nnz, b.dtype), jnp.zeros_like(cols)
    data = nothing[0], entries, nothing[1], b
    problem = Problem.make(structure, data, solver)
    small = eps**0.45
    sigma, inward = jnp.full_like(unit, small), small * jnp.asarray(inside, b.dtype)

    def unfinished(state: _Shift) -> Bool[Array, ""]:
        return (state.status == _RUNNING) & (state.steps < max_steps)

    def body(state: _Shift) -> _Shift:
        place = state.Ax - b
        t = problem.cone.project(place)
        gradient = problem.A.transpose_mv(t)
        # Constraints that the last step has satisfied are at zero up to rounding errors.
        # Those that the next one would violate again at once are to count as active, and
        # so all of them do: otherwise many steps are taken to and fro.
        jacobian = problem.cone.jacobian(place + inward)
        halved = jacobian.map(lambda lam: lam / (1 + lam))
        # As in `minimise`, items that are finished are factorised at once.
        own_sigma = jnp.where(unfinished(state), sigma, jnp.nan)
        d, _ = problem.solve(halved, own_sigma, -gradient, jnp.zeros_like(b))
        first = gradient @ d
        d = jnp.where(jnp.isfinite(first) & (first < 0), d, -gradient)
        first = gradient @ d
        Ad = problem.A.mv(d)
        terms = first - t @ Ad, sigma * (d @ d), Ad, first
        length, _, t = _line_search(problem, terms, place, Ad, jnp.asarray(False))
        x = state.x + length * d
        Ax, gradient = problem.A.mv(x), problem.A.transpose_mv(t)
        floor = 10 * eps * (1 + _size(x))
        done = (_size(gradient) <= floor) | (_size(t) <= floor)
        # At the level of rounding errors no step improves any more.
        stalled = _size(gradient) > 0.5 * _size(state.gradient)
        done |= stalled & (_size(state.gradient) <= _STALLED * floor)
        still = _size(length * d) <= eps * _size(x)
        status = jnp.where(done | still, Status.SOLVED, _RUNNING).astype(jnp.int32)
        new = _Shift(x, Ax, t, gradient, status, state.steps + 1)
        return _where(unfinished(state), new, state)

    zero = jnp.zeros_like(cols)
    none = jnp.full_like(unit, _RUNNING, dtype=jnp.int32)
    far = jnp.full_like(cols, jnp.inf)
    state = _Shift(zero, jnp.zeros_like(b), b, far, none, jnp.zeros_like(none))
    state = lax.while_loop(unfinished, body, vary_together(state))
    t, size = state.t, 1 + _size(state.x)
    noise = jnp.sum(jnp.abs(state.gradient)) * size
    tiny = _size(t) <= _NOISE * eps * size
    proven = (t @ t >= _PROVEN * noise) & (state.status == Status.SOLVED)
    t = jnp.where(block_max(structure, jnp.abs(t)) > _NOISE * eps * size, t, 0)
    return unit * jnp.where(tiny, 0, t), tiny | proven, state.steps


_NOISE, _PROVEN = 1e4, 1e3
_STALLED = 100
