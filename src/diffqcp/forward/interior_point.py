from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from .._checks import check_number
from .._condition import compute_if
from .._lapack import cho_solve, cholesky
from .._range_space import is_dense, RangeSpace
from ..cones.dims import beyond
from ..derivative import Data
from ..structure import AbstractQCPStructure
from ._base import AbstractForwardSolver, Found, Start, Status
from ._complementarity import complementary, Eliminated, longest_step


class InteriorPoint(AbstractForwardSolver):
    """A dense primal-dual interior-point method for small QPs, all of it inside XLA.

    Under `jax.vmap` a batch is solved at once, on any platform, without a callback. It
    takes zero and nonnegative cones only. It is for strictly convex problems: it gives up
    on some LPs and some QPs with solutions that are not unique, which
    [`diffqcp.Clarabel`][] solves.

    Where `P` is positive definite, `x` and the multipliers of equalities are eliminated,
    once, with `O((n + m)^2 n)` operations; an iteration then takes a Cholesky
    factorisation of the order of the number of inequalities. This is followed by the
    exact solution for the constraints that are active. Tiny problems, those with many
    more rows than variables, and where the elimination fails, take Mehrotra's
    predictor-corrector method with the reduced system

        [[P + G'diag(z/s) G, E'], [E, 0]]

    for equality rows `E` and inequality rows `G` (Nocedal and Wright, "Numerical
    optimization", section 16.6), in `O((n + m) n^2)` operations an iteration. It is
    factorised with a small shift, and each solution is refined. Iterates that diverge are
    tested for certificates of infeasibility.

    **Arguments:**

    - `tol`: the relative tolerance of residuals and duality gap. By default the machine
        epsilon to the power 2/3: 4e-11 in float64.
        Where rounding errors end the progress earlier, as in degenerate problems, the
        machine epsilon to the power 0.45 is enough: 9e-8.
    - `max_iter`: the most iterations. Ten are usual.

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """

    tol: float | None = None
    max_iter: int = 50

    def __check_init__(self):
        if self.tol is not None:
            check_number("tol", self.tol, above=0, below=1)
        check_number("max_iter", self.max_iter, above=0, integer=True)

    def solve(
        self, structure: AbstractQCPStructure, data: Data, start: Start | None
    ) -> Found:
        """Ignores `start`: interior-point methods gain little by one."""
        del start
        dims = structure.dims
        others = beyond(dims, ("z", "l"))
        if others:
            raise ValueError(
                "InteriorPoint: expected zero and nonnegative cones only, got cones "
                f"{others}; diffqcp.Proximal takes all cones"
            )
        P_values, A_values, q, b = data
        P = structure.P_matrix(P_values).as_matrix()
        A = structure.A_matrix(A_values).as_matrix()
        problem = _Problem.make(P, q, A, b, dims["z"])
        eps = float(jnp.finfo(q.dtype).eps)
        tol = eps ** (2 / 3) if self.tol is None else self.tol
        accept = max(tol, eps**0.45)

        def unfinished(state: _State) -> Bool[Array, ""]:
            return state.status == _RUNNING

        def body(problem: _Problem, old: _State) -> _State:
            new = _iterate(problem, old)
            new = _judge(problem, new._replace(steps=old.steps + 1), tol)
            # Close to the solution rounding errors take over, and the iterates get worse.
            best = (old.error <= accept) & ~(new.error < old.error)
            new = jax.tree.map(lambda a, b: jnp.where(best, a, b), old, new)
            over = (new.status == _RUNNING) & (new.steps >= self.max_iter)
            status = jnp.where(over, Status.ITERATION_LIMIT, new.status)
            status = jnp.where(best, Status.SOLVED, status)
            return new._replace(status=status.astype(jnp.int32))

        def run(problem: _Problem) -> _State:
            return lax.while_loop(unfinished, partial(body, problem), _first(problem))

        if eliminates(structure):
            space = RangeSpace.of(P, A)
            found = _by_elimination(problem, space, self.max_iter, tol, accept)

            def again(problem: _Problem, steps: Integer[Array, ""]) -> _State:
                new = run(problem)
                return new._replace(steps=steps + new.steps)

            operands = problem, found.steps
            state = compute_if(unfinished(found), again, operands, found)
        else:
            state = run(problem)
        x, y, z, s, status, count, _ = state
        finite = jnp.all(jnp.isfinite(jnp.concatenate(data)))
        status = jnp.where(finite, status, jnp.int32(Status.NOT_FINITE))
        zero = jnp.zeros_like(y)
        return Found(
            x, jnp.concatenate([y, z]), jnp.concatenate([zero, s]), status, count
        )


_RUNNING = -1


class _Problem(NamedTuple):
    """`minimise 1/2 x'Px + q'x` subject to `E x = e`, `G x + s = h`, `s >= 0`."""

    P: Float[Array, "n n"]
    q: Float[Array, " n"]
    E: Float[Array, "p n"]
    e: Float[Array, " p"]
    G: Float[Array, "k n"]
    h: Float[Array, " k"]
    shift: Float[Array, ""]

    @classmethod
    def make(cls, P, q, A, b, zero_rows: int) -> "_Problem":
        P = (P + P.T) / 2
        E, G = A[:zero_rows], A[zero_rows:]
        eps = float(jnp.finfo(q.dtype).eps)
        size = jnp.max(jnp.abs(P), initial=0) + jnp.max(jnp.abs(A), initial=0) ** 2
        shift = eps**0.75 * jnp.where(size > 0, size, 1)
        return cls(P, q, E, b[:zero_rows], G, b[zero_rows:], shift.astype(q.dtype))


class _State(NamedTuple):
    x: Float[Array, " n"]
    y: Float[Array, " p"]
    z: Float[Array, " k"]
    s: Float[Array, " k"]
    status: Integer[Array, ""]
    steps: Integer[Array, ""]
    error: Float[Array, ""]


def eliminates(structure: AbstractQCPStructure) -> bool:
    """Whether `InteriorPoint` eliminates `x` first. It does not for tiny problems, of
    which a batch is faster without LAPACK.
    """
    return max(structure.n, structure.m) > _MOST_SWEEPS and is_dense(structure)


def _by_elimination(
    problem: _Problem, space: RangeSpace, max_iter: int, tol: float, accept: float
) -> _State:
    """A solution, refined once, or a state whose status is that it is not finished."""
    P, q, E, e, G, h, _ = problem
    p = e.size
    eliminated = Eliminated.of(space, p)
    inner, outer, left = eliminated.reduce(-q, jnp.concatenate([e, h]))
    found = complementary(eliminated.S, -left, tol, max_iter)
    z, on = found.z, found.z > found.s
    x, y = eliminated.restore(inner, outer, z)

    def state(x: Array, y: Array, z: Array) -> _State:
        s = jnp.where(on, found.s, jnp.maximum(h - _mv(G, x), 0))
        running = jnp.full_like(x, _RUNNING, jnp.int32, shape=())
        error = jnp.full_like(x, jnp.inf, shape=())
        return _State(x, y, jnp.maximum(z, 0), s, running, found.steps, error)

    dual, equality, inequality = _residuals(problem, state(x, y, z))
    right = -jnp.concatenate([equality, inequality])
    inner, outer, left = eliminated.reduce(-dual, right)
    dz = found.solve(left)
    dx, dy = eliminated.restore(inner, outer, dz)
    last = _judge(problem, state(x + dx, y + dy, z + dz), tol)
    status = jnp.where(last.error <= accept, Status.SOLVED, _RUNNING)
    return last._replace(status=status.astype(jnp.int32))


def _mv(matrix: Float[Array, "r c"], vector: Float[Array, " c"]) -> Float[Array, " r"]:
    return jnp.matmul(matrix, vector, precision="highest")


def _inverse(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Of a positive definite matrix."""
    d = matrix.shape[0]
    if d > _MOST_SWEEPS:
        return cho_solve(cholesky(matrix), jnp.eye(d, dtype=matrix.dtype))

    # Gauss-Jordan elimination in place, without pivots. For a batch of small matrices
    # each step is one pass over all, while LAPACK is called for one after the other.
    def sweep(k: Integer[Array, ""], M: Float[Array, "d d"]) -> Float[Array, "d d"]:
        on = jnp.arange(d) == k
        inverse = 1 / M[k, k]
        row = jnp.where(on, inverse, M[k] * inverse)
        col = jnp.where(on, 0, M[:, k])
        return jnp.where(on[:, None], 0, jnp.where(on[None, :], 0, M)) + jnp.where(
            on[:, None], row[None, :], -col[:, None] * row[None, :]
        )

    return lax.fori_loop(0, d, sweep, matrix) if d else matrix


def _gram(G: Float[Array, "k n"], weights: Float[Array, " k"]) -> Float[Array, "n n"]:
    """`G' diag(weights) G`."""
    if G.shape[0] > _MOST_SWEEPS:
        return jnp.matmul(G.T * weights[None, :], G, precision="highest")
    # As in `_inverse`, each step is one pass over a batch.
    total = jnp.zeros((G.shape[1],) * 2, G.dtype)
    for row, weight in zip(G, weights, strict=True):
        total += (weight * row)[:, None] * row[None, :]
    return total


_MOST_SWEEPS = 12


def _factorise(problem: _Problem, weights: Float[Array, " k"]) -> Callable:
    """A function that solves the reduced system. With inverses, since a batch of small
    products is many times faster than one of triangular solves; refinement makes up for
    their errors and for the shift.
    """
    P, E, G = problem.P, problem.E, problem.G
    H = P + _gram(G, weights)
    shift = problem.shift * jnp.eye(H.shape[0], dtype=H.dtype)
    H_inverse = _inverse(H + shift)
    schur = jnp.matmul(E, jnp.matmul(H_inverse, E.T, precision="highest"))
    schur_inverse = _inverse(schur + problem.shift * jnp.eye(E.shape[0], dtype=E.dtype))

    def once(upper, lower):
        dy = _mv(schur_inverse, _mv(E, _mv(H_inverse, upper)) - lower)
        return _mv(H_inverse, upper - _mv(E.T, dy)), dy

    def solve(upper, lower):
        dx, dy = once(upper, lower)
        for _ in range(2):
            more_x, more_y = once(upper - _mv(H, dx) - _mv(E.T, dy), lower - _mv(E, dx))
            dx, dy = dx + more_x, dy + more_y
        return dx, dy

    return solve


def _first(problem: _Problem) -> _State:
    """The least-squares point, its slacks and multipliers made positive. (Vandenberghe,
    "The CVXOPT linear and quadratic cone program solvers", section 5.3.)
    """
    P, q, E, e, G, h, _ = problem
    x, y = _factorise(problem, jnp.ones_like(h))(_mv(G.T, h) - q, e)
    z = _mv(G, x) - h

    def positive(vector):
        lowest = jnp.min(vector, initial=jnp.inf)
        return jnp.where(lowest > 0, vector, vector + (1 - lowest))

    running = jnp.full_like(x, _RUNNING, jnp.int32, shape=())
    steps, error = jnp.zeros_like(running), jnp.full_like(x, jnp.inf, shape=())
    return _State(x, y, positive(z), positive(-z), running, steps, error)


def _residuals(problem: _Problem, state: _State) -> tuple[Array, Array, Array]:
    P, q, E, e, G, h, _ = problem
    x, y, z, s = state[:4]
    dual = _mv(P, x) + q + _mv(E.T, y) + _mv(G.T, z)
    return dual, _mv(E, x) - e, _mv(G, x) + s - h


def _iterate(problem: _Problem, state: _State) -> _State:
    x, y, z, s = state[:4]
    G = problem.G
    dual, equality, inequality = _residuals(problem, state)
    solve = _factorise(problem, z / s)

    def direction(complementarity):
        """The Newton direction with `z ds + s dz = -complementarity`."""
        pull = (z * inequality - complementarity) / s
        dx, dy = solve(-dual - _mv(G.T, pull), -equality)
        ds = -inequality - _mv(G, dx)
        return dx, dy, -(complementarity + z * ds) / s, ds

    rows = max(z.size, 1)
    gap = z @ s / rows
    _, _, dz, ds = direction(z * s)
    step = longest_step((z, s), (dz, ds))
    predicted = (z + step * dz) @ (s + step * ds) / rows
    centring = (predicted / jnp.where(gap > 0, gap, 1)) ** 3
    dx, dy, dz, ds = direction(z * s + dz * ds - centring * gap)
    step = longest_step((z, s), (dz, ds))
    step = jnp.where(step < 1, 0.995 * step, 1)
    return state._replace(
        x=x + step * dx, y=y + step * dy, z=z + step * dz, s=s + step * ds
    )


def _judge(problem: _Problem, state: _State, tol: float) -> _State:
    """The state with its relative error, and its status."""
    P, q, E, e, G, h, _ = problem
    x, y, z, s = state[:4]

    def size(*vectors):
        return jnp.max(
            jnp.stack([jnp.max(jnp.abs(vector), initial=0) for vector in vectors])
        )

    dual, equality, inequality = _residuals(problem, state)
    Px, pulled = _mv(P, x), _mv(E.T, y) + _mv(G.T, z)
    costs = x @ Px, q @ x, e @ y + h @ z
    scale = jnp.max(jnp.abs(jnp.stack(costs)))
    error = jnp.maximum(
        size(dual) / (1 + size(Px, q, pulled)),
        jnp.maximum(
            size(equality, inequality) / (1 + size(x, e, h, s)),
            jnp.abs(sum(costs)) / (1 + scale),
        ),
    )
    # Rays: b'y < 0 = A'y proves infeasibility, q'x < 0 = P x with A x + s = 0
    # unboundedness. (Boyd and Vandenberghe, "Convex optimization", section 5.8.)
    loose = tol**0.75
    _, slope, support = costs
    infeasible = (support < 0) & (size(pulled) <= loose * -support)
    ray = size(Px, _mv(E, x), jnp.maximum(_mv(G, x), 0))
    unbounded = (slope < 0) & (ray <= loose * -slope)
    finite = jnp.isfinite(size(x, y, z, s))
    status = jnp.where(infeasible, Status.INFEASIBLE, _RUNNING)
    status = jnp.where(unbounded, Status.UNBOUNDED, status)
    status = jnp.where(finite, status, Status.NUMERICAL_TROUBLE)
    status = jnp.where(error <= tol, Status.SOLVED, status).astype(jnp.int32)
    return state._replace(status=status, error=error)
