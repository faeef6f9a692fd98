"""Sequential quadratic programming with conic constraints, stabilised.

A step `d` with its multipliers `eta` solves the QCP

    minimise    1/2 d'B d + g'd + y'r + rho/2 |r|^2
    subject to  A d + c + s = r,  s in K,

where `eta = y + rho r`. It has a solution whatever `A` and `c` are; where the linearised
constraints can be satisfied, `r` goes to zero as `y` converges. (Wright, "Superlinear
convergence of a stabilized SQP method to a degenerate solution", Comput. Optim. Appl. 11,
1998.) `B` is the Hessian of the Lagrangian with its negative eigenvalues reversed and a
shift that adapts. Steps are shortened until the exact penalty function

    f(x) + nu |Pi_K*(c(x))|,

which has the distance of `-c` to `K`, has become smaller; near the solution, than the
largest of its last values (Grippo, Lampariello and Lucidi, "A nonmonotone line search
technique for Newton's method", SIAM J. Numer. Anal. 23, 1986): so that steps along curved
constraints are not refused.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Bool, Float, Integer

from .._accuracy import relative_error
from .._checks import check_number
from .._convexity import is_convex
from .._lapack import eigh
from ..derivative import Data
from ..forward import AbstractForwardSolver, Clarabel, Start, Status
from ..sparsity import flat_places
from ..structure import AbstractQCPStructure, QCPStructureCPU
from ._model import Model, stored


class SQP(eqx.Module):
    """Sequential quadratic programming for programs with any cones: the default of
    [`diffqcp.Program.solve`][].

    All of it is a JAX computation but the forward solver's callback, so it runs under
    `jax.jit`, and under `jax.vmap` for a batch at once. Second derivatives are exact, and
    a dense Hessian is made positive definite by its eigenvalues, a sparse one by a part
    of the shift of its diagonal that would make it diagonally dominant: none, 1/64, 1/16,
    1/4 or all of it, the smallest one that a factorisation says is enough.

    **Arguments:**

    - `forward`: the solver of the quadratic programs; [`diffqcp.Clarabel`][] by default,
        with a tolerance of 1e-10.
    - `max_steps`: the most steps.
    - `tol`: the relative residual of the first-order conditions that ends them. Newton's
        method goes on from there.

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """

    forward: AbstractForwardSolver = Clarabel(tol=1e-10, accept=1e-6)
    max_steps: int = 100
    tol: float = 1e-6

    def __check_init__(self):
        if not isinstance(self.forward, AbstractForwardSolver):
            raise TypeError(f"forward: expected a forward solver, got {self.forward!r}")
        check_number("max_steps", self.max_steps, above=0, integer=True)
        check_number("tol", self.tol, above=0, below=1)


class _State(NamedTuple):
    """- `nu`, `shift`: of the penalty function and of `B`.
    - `length`: of the last step, relative to `x`.
    - `past`: the last values of the penalty function.
    - `error`, `going`: of the first-order conditions; whether to go on.
    """

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    nu: Float[Array, ""]
    shift: Float[Array, ""]
    length: Float[Array, ""]
    past: Float[Array, " memory"]
    error: Float[Array, ""]
    going: Bool[Array, ""]
    steps: Integer[Array, ""]


_MEMORY = 5
_SHORTEST = 1e-8


def sqp(
    method: SQP,
    model: Model,
    theta: Any,
    x: Float[Array, " n"],
    y: Float[Array, " m"],
) -> tuple[
    Float[Array, " n"], Float[Array, " m"], Integer[Array, ""], Integer[Array, ""]
]:
    """The last point with its multipliers, the number of steps, and what is to be said if
    it is no solution: `INFEASIBLE` where the distance of the constraints to the cone is
    stationary, but not zero, and otherwise `ITERATION_LIMIT` or `NUMERICAL_TROUBLE`.

    **Arguments:**

    - `x`, `y`: where to start.
    """
    structure = stored(method, model)
    project = structure.dual_cone.project
    inner = _StepStructure.of(structure)

    def penalty(x: Array, nu: Array) -> Array:
        value = model.f(x, theta) + nu * jnp.linalg.norm(project(model.c(x, theta)))
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    def body(state: _State) -> _State:
        x, y, nu, shift, _, past, _, going, steps = state
        data = model.local(x, y, theta).data
        P, A, q, b = data
        A_matrix = structure.A_matrix(A)
        Px, Ax = structure.P_mv(P, x), A_matrix.mv(x)
        gradient, c = q + Px, Ax - b
        pulled = A_matrix.transpose_mv(y)
        v = y + c
        projected = project(v)
        residuals = Px + pulled + q, c + projected - v
        error = relative_error((Px, pulled, q, Ax, b), (x, y, -c), residuals)
        # Steps that are lost in the forward solver's errors lead nowhere.
        done = ~(error > method.tol) | ((error < 1e-3) & (state.length < 1e-8))

        weight = _PENALTY * (1 + jnp.max(jnp.abs(y), initial=0))
        weight = weight / jnp.clip(error, 1e-6, 1)
        slope = jnp.max(jnp.abs(gradient)) / (1 + jnp.max(jnp.abs(x)))
        size = jnp.maximum(jnp.max(jnp.abs(P), initial=0), slope)
        B = _convex(structure, P, shift * jnp.where(size > 0, size, 1))
        program = inner.data(B, A, gradient, c, y, weight)
        start = Start((jnp.concatenate([x, c]), y, c), done | ~going)
        found = method.forward.solve(inner.structure, program, start)
        d, eta = jnp.asarray(found.x)[: structure.n], jnp.asarray(found.y)
        solved = (found.status == int(Status.SOLVED)) & jnp.all(jnp.isfinite(d))

        nu = jnp.maximum(nu, 1.5 * jnp.linalg.norm(eta))
        # A larger weight makes all of the penalty function larger.
        past = jnp.where(nu > state.nu, jnp.full_like(past, -jnp.inf), past)
        now = penalty(x, nu)
        past = jnp.roll(past, 1).at[0].set(now)
        gain = gradient @ d - nu * jnp.linalg.norm(project(c))
        gain = gain + nu * jnp.linalg.norm(project(c + A_matrix.mv(d)))

        # Far from the solution steps that do not reduce it may lead around in circles.
        ceiling = jnp.where(error < _CLOSE, jnp.max(past), now)

        def too_long(length: Array) -> Array:
            allowed = ceiling + 1e-4 * length * jnp.minimum(gain, 0)
            allowed = allowed + 1e-12 * jnp.abs(now)
            return (penalty(x + length * d, nu) > allowed) & (length > _SHORTEST)

        length = lax.while_loop(
            lambda length: too_long(length) & ~done & going & solved,
            lambda length: length / 2,
            jnp.ones_like(nu),
        )
        moved = (length > _SHORTEST) & solved
        shift = jnp.where(
            length == 1, shift / 10, jnp.where(length < 0.2, 10 * shift, shift)
        )
        shift = jnp.clip(jnp.where(moved, shift, 100 * shift), 1e-8, 1e8)
        stuck = ~moved & (state.shift >= 1e8)
        x_new = jnp.where(moved, x + length * d, x)
        y_new = jnp.where(moved, y + length * (eta - y), y)
        travelled = jnp.max(jnp.abs(x_new - x)) / (1 + jnp.max(jnp.abs(x)))
        travelled = jnp.where(moved, travelled, jnp.inf)
        new = _State(x_new, y_new, nu, shift, travelled, past, error, ~stuck, steps + 1)
        still = done | ~going
        kept = state._replace(error=error, going=jnp.zeros_like(going))
        return jax.tree.map(lambda a, b: jnp.where(still, a, b), kept, new)

    zero = jnp.zeros((), x.dtype)
    state = _State(
        *(x, project(y), zero, zero + 1e-2, zero + jnp.inf),
        jnp.full(_MEMORY, -jnp.inf, x.dtype),
        *(zero + jnp.inf, jnp.asarray(True), jnp.zeros((), jnp.int32)),
    )
    last = lax.while_loop(
        lambda state: state.going & (state.steps < method.max_steps), body, state
    )
    c, pull = jax.vjp(lambda x: model.c(x, theta), last.x)
    outside = project(c)
    distance, slope = jnp.linalg.norm(outside), jnp.linalg.norm(pull(outside)[0])
    far = distance > 1e-5 * (1 + jnp.linalg.norm(c))
    verdict = jnp.where(
        last.steps < method.max_steps,
        int(Status.NUMERICAL_TROUBLE),
        int(Status.ITERATION_LIMIT),
    )
    flat = slope < 1e-2 * distance
    verdict = jnp.where(far & flat, int(Status.INFEASIBLE), verdict)
    return last.x, last.y, last.steps, verdict.astype(jnp.int32)


_PENALTY = 10.0
_CLOSE = 0.01


def _convex(
    structure: AbstractQCPStructure, P: Float[Array, " nnzP"], shift: Array
) -> Float[Array, " nnz"]:
    """A positive definite matrix close to `P`: what is at its stored entries, and what is
    to be added to the diagonal.
    """
    n, pattern = structure.n, structure.P_pattern
    if pattern.full:
        values, vectors = eigh(P.reshape(n, n))
        size = jnp.abs(values) + shift
        matrix = jnp.matmul(vectors * size[None, :], vectors.T, precision="highest")
        return jnp.concatenate([matrix.ravel(), jnp.zeros(n, P.dtype)])
    matrix = structure.P_matrix(P)
    rows, cols = matrix.pattern.rows, matrix.pattern.cols
    on, off = rows == cols, rows != cols
    diagonal = jnp.zeros(n, P.dtype).at[rows[on]].add(matrix.values[on])
    others = jnp.zeros(n, P.dtype).at[rows[off]].add(jnp.abs(matrix.values[off]))
    dominant = jnp.maximum(others - diagonal, 0)
    if jax.default_backend() != "cpu":  # there is no factorisation that tells
        return jnp.concatenate([P, dominant + shift])
    size = jnp.max(jnp.abs(P), initial=0)
    size = jnp.where(size > 0, size, 1)
    # Most of it is too much nearly always, and steps would be short.
    part = lax.while_loop(
        lambda part: (part < 1) & ~is_convex(structure, P / size, part * dominant / size),
        lambda part: jnp.where(part > 0, 4 * part, 1 / 64),
        jnp.zeros_like(size),
    )
    return jnp.concatenate([P, part * dominant + shift])


class _StepStructure(NamedTuple):
    """The QCP of a step, in `(d, r)`.

    - `upper`, `target`: which of the values of `_convex` are in the upper triangle, and
        to which entry of the step's `P` each of them, and of those of `r`, belongs.
    - `entries`: how many that has.
    """

    structure: QCPStructureCPU
    upper: np.ndarray
    target: np.ndarray
    entries: int

    @classmethod
    def of(cls, structure: AbstractQCPStructure) -> "_StepStructure":
        n, m, pattern = structure.n, structure.m, structure.P_pattern
        diagonal = np.arange(n + m)
        rows = np.concatenate([pattern.rows, diagonal[:n]])
        cols = np.concatenate([pattern.cols, diagonal[:n]])
        upper = np.flatnonzero(rows <= cols)
        rows = np.concatenate([rows[upper], diagonal[n:]])
        cols = np.concatenate([cols[upper], diagonal[n:]])
        places, target = np.unique(flat_places(cols, rows, n + m), return_inverse=True)
        cols, rows = np.divmod(places, n + m)
        A = structure.A_pattern
        A_rows = np.concatenate([A.rows, np.arange(m)])
        A_cols = np.concatenate([A.cols, n + np.arange(m)])
        with jax.ensure_compile_time_eval():  # patterns are known, also under jit
            step = QCPStructureCPU(
                _ones(rows, cols, (n + m, n + m)),
                _ones(A_rows, A_cols, (m, n + m)),
                structure.dims,
                psd_order=structure.psd_order,
            )
        return cls(step, upper, target, places.size)

    def data(
        self, B: Array, A: Array, gradient: Array, c: Array, y: Array, rho: Array
    ) -> Data:
        """Its data; see the head of this file."""
        values = jnp.concatenate([B[self.upper], jnp.full_like(y, rho)])
        P = jnp.zeros(self.entries, B.dtype).at[self.target].add(values)
        A = jnp.concatenate([A, -jnp.ones_like(y)])
        return P, A, jnp.concatenate([gradient, y]), -c


def _ones(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> BCOO:
    indices: Any = np.stack([rows, cols], axis=1).astype(np.int32)
    values: Any = np.ones(rows.size)
    return BCOO((values, indices), shape=shape)
