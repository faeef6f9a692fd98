"""What a QCP computes: functions of its arrays, compiled once for a structure."""

import functools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from . import _compiled, _traced
from ._accuracy import accurate_error, exact_error, finite_bounds, relative_error
from ._arrays import as_jax, as_jax_like
from ._checks import as_numbers
from ._compiled import in_programs
from ._problem import eigenvectors
from ._scaling import block_max
from ._structure_base import AbstractStructure
from .cones import ConeJacobian, ProductCone
from .derivative import (
    adjoint_system,
    Data,
    pull_back,
    push_forward,
    Solution,
    SolutionDerivative,
)
from .kkt import KKTOperator
from .linear_solve import FrozenSolver
from .linear_solve._quasidefinite import QuasidefiniteState
from .linear_solve._sparse import SparseFactors
from .sparsity import SparseMatrix
from .structure import AbstractQCPStructure


class Values(NamedTuple):
    """All that a QCP has besides its structure, which makes matrices of `P` and `A`."""

    P: Any
    A: Any
    q: Float[Array, " n"]
    b: Float[Array, " m"]
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]


Smoothing: TypeAlias = Float[Array, ""] | None


def as_smoothing(value: Any) -> Smoothing:
    """`smoothing` as an array; None for zero, which is the exact derivative.

    **Raises:** `ValueError` if it is known and negative or not finite.
    """
    if not isinstance(value, Tracer):
        number = value
        if not isinstance(value, (int, float)):
            number = as_numbers("smoothing", value, "a number >= 0")
        if np.ndim(number) or not 0 <= float(number) < np.inf:
            raise ValueError(f"smoothing: expected a number >= 0, got {value!r}")
        if float(value) == 0:
            return None
        return as_jax(np.array(float(value)))
    return jnp.asarray(value, float)


class Linearised(NamedTuple):
    """A QCP around a point.

    - `kkt`, `state`: `K`, and the solver's state for it.
    - `solution`: `(x, y, s)`, with `y` the projection of `y - s`.
    - `newton`: what a semismooth Newton step solves for; see `linearise`.

    If `D` is smoothed, `y` is not the projection and `newton` belongs to no Newton step;
    neither is used then.
    """

    kkt: KKTOperator
    state: Any
    solution: Solution
    newton: tuple[Float[Array, " n"], Float[Array, " m"]]


def linearise(
    structure: AbstractStructure,
    values: Values,
    solver: lx.AbstractLinearSolver,
    smoothing: Smoothing = None,
    options: dict[str, Any] | None = None,
    cone: ProductCone | None = None,
) -> Linearised:
    """`K`, factorised, and the right-hand side of a semismooth Newton step on

        P x + A'Pi(v) + q = 0,    A x + Pi(v) - v = b        at v = y - s.

    Its system is that of `diffqcp.kkt`, with the residuals for `r1` and `-r2`. For a QP
    whose active set is right, the step ends at the exact solution.

    **Arguments:**

    - `options`: those of the solver's `init`.
    - `cone`: what takes the place of `K*`, if anything does.
    """
    cone = structure.dual_cone if cone is None else cone
    x, v = values.x, values.y - values.s
    P, A = structure.P_matrix(values.P), structure.A_matrix(values.A)
    if smoothing is None:
        jacobian = cone.jacobian(v)
    else:
        jacobian = cone.smoothed_jacobian(v, smoothing.astype(v.dtype))
    y = jacobian.mv(v)  # projections are homogeneous
    dual_residual = P.mv(x) + A.transpose_mv(y) + values.q
    primal_residual = A.mv(x) + y - v - values.b
    # Comparisons hide a NaN, as in an item of a batch whose solve has failed: then all
    # of its derivative is to be NaN. The residuals hide none, but where `P` and `A` have
    # a column without entries.
    poison = 0 * sum(jnp.vdot(part, part) for part in (dual_residual, primal_residual, x))
    kkt = KKTOperator(P, A, jacobian.map(lambda eigenvalues: eigenvalues + poison))
    # The rules of lineax take the state for a constant.
    state = solver.init(jax.lax.stop_gradient(kkt), options or {})
    return Linearised(kkt, state, (x, y, y - v), (-dual_residual, -primal_residual))


def _bounded(structure: AbstractQCPStructure, values: Values) -> Values:
    """Without infinite numbers where there is no constraint."""
    none, A, b = finite_bounds(structure, values.A, values.b)
    y, s = jnp.where(none, 0, values.y), jnp.where(none, 1, values.s)
    return values._replace(A=A, b=b, y=y, s=s)


class Progress(NamedTuple):
    """How a derivative came about, as one small array, and where to take it next.

    - `solution`: the next point, if there is one.
    - `report`: whether the system was solved; the error of the solution, as
        `diffqcp._accuracy` has it, zero if it was not asked for; and whether a derivative
        at the next point would be a better one.
    """

    solution: Solution
    report: Float[Array | np.ndarray, "3"]

    @property
    def solved(self) -> Bool[Array, ""] | bool:
        """The first part of the report, looked at on the host where it is known."""
        if isinstance(self.report, Tracer):
            return self.report[0] > 0
        return bool(np.asarray(self.report)[0])


def _polish(
    structure: AbstractQCPStructure,
    values: Values,
    linearised: Linearised,
    dx: Float[Array, " n"],
    dy: Float[Array, " m"],
    solved: Bool[Array, ""],
) -> tuple[Solution, Progress]:
    """The best solution whose `D` is that of `linearised`, after the Newton step `dx`,
    `dy`; and whether to linearise again.

    The step takes one more solve with the factors of the derivative. Where it improves
    the solution, but not to one with the same `D`, the derivative is to be taken at the
    new point. So a QP with the right active set is factorised once, and any problem is
    if its solution is exact.
    """
    data: Data = values[:4]
    P, A, q, b = data
    A_matrix = structure.A_matrix(A)
    x, y, s = linearised.solution
    _, dual = linearised.newton
    v = y + dy - s - (dual - A_matrix.mv(dx))
    new = structure.dual_cone.project(v)
    moved = x + dx, new, new - v

    def error_of(solution: Solution) -> Float[Array, ""]:
        x, y, s = solution
        Px, pulled = structure.P_mv(P, x), A_matrix.transpose_mv(y)
        Ax = A_matrix.mv(x)
        residuals = Px + pulled + q, Ax + s - b
        return relative_error((Px, pulled, q, Ax, b), solution, residuals)

    before, after = error_of(linearised.solution), error_of(moved)
    improved = after < before
    # In zero and nonnegative cones `D` depends on signs only. In others a `v` that moves
    # by more than a tenth is one of rounding errors, at a kink, where the new `D` would
    # be no better than the old one.
    straight = structure.dims["z"] + structure.dims["l"]
    kept = jnp.asarray(straight == structure.m) & jnp.all((new > moved[2]) == (y > s))
    wild = jnp.abs(v - (y - s)) > 0.1 * block_max(structure, jnp.abs(y - s))
    wild = jnp.any(wild[straight:])
    enough = before <= exact_error(x.dtype)
    again = improved & ~kept & ~wild & ~enough
    taken = improved & ~again & ~enough
    solution = jax.tree.map(
        lambda new, old: jnp.where(taken, new, old), moved, linearised.solution
    )
    error = jnp.where(taken, after, before)
    report = jnp.stack([part.astype(x.dtype) for part in (solved, error, again)])
    return solution, Progress(moved, report)


def _unpolished(values: Values, solved: Bool[Array, ""]) -> tuple[Solution, Progress]:
    given: Solution = values[4:]
    zero = jnp.zeros_like(values.x, shape=())
    return given, Progress(given, jnp.stack([solved.astype(zero.dtype), zero, zero]))


_Result = TypeVar("_Result")


def repeat(
    compute: Callable[[Values], tuple[_Result, Progress]], values: Values
) -> tuple[_Result, Progress]:
    """A derivative at the solution that Newton steps end at, as long as they improve it:
    `compute` linearises at a point, and says whether there is a better one.

    With known values that is a loop in Python, so that one step is all that is compiled.
    """

    def again(progress: Progress) -> tuple[_Result, Progress]:
        return compute(Values(*values[:4], *progress.solution))

    found = compute(values)
    if not isinstance(found[1].report, Tracer):
        for _ in range(_MOST_REPEATS):
            if not np.asarray(found[1].report)[2]:
                break
            found = again(found[1])
        return found
    steps = jnp.zeros_like(found[1].report[2])
    return jax.lax.while_loop(
        lambda state: (state[0][1].report[2] > 0) & (state[1] < _MOST_REPEATS),
        lambda state: (again(state[0][1]), state[1] + 1),
        (found, steps),
    )[0]


_MOST_REPEATS = 10


def progress_of(report: _compiled.Report, values: Values) -> Progress:
    """What the compiled extension reports. It has taken all of the steps."""
    numbers = np.array([report.solved, report.error, 0], values.x.dtype)
    return Progress(values[4:], numbers)


def is_inaccurate(progress: Progress) -> bool:
    """Whether a derivative is known, and the solution that it is taken at is none."""
    if isinstance(progress.report, Tracer):
        return False
    report = np.asarray(progress.report)
    return bool(report[1] > _largest_error(report.dtype))


_largest_error = functools.cache(accurate_error)


def compiled_derivative(
    task: _compiled.Task, throw: bool
) -> tuple[SolutionDerivative, Progress]:
    """`compute_derivative` by the compiled extension, with all Newton steps that help."""
    structure, (P_values, *_) = task.structure, task.values
    point, report = _compiled.linearise(task)
    P_full = as_jax(np.asarray(P_values)[structure.P_source])
    P, A = SparseMatrix(P_full, structure.P_full), structure.A_matrix(point.A)
    bare = eigenvectors(structure.dual_cone, point.frames)
    basis = jax.tree.map(lambda leaf: as_jax_like([leaf], point.x)[0], bare)
    kkt = KKTOperator(P, A, ConeJacobian(point.lam, basis))
    factors = SparseFactors(kkt, (point.K, point.words))
    state = QuasidefiniteState(factors, point.shift, point.singular)
    operator = SolutionDerivative(
        kkt, point.x, point.y, task.solver, state, structure, throw
    )
    return operator, progress_of(report, Values(*task.values))


def warn_if_inaccurate(progress: Progress) -> None:
    """A warning with the residual."""
    if is_inaccurate(progress):
        warnings.warn(
            "diffqcp: the solution does not satisfy the optimality conditions, and its "
            f"derivative may be wrong: a residual is {float(progress.report[1]):.0e} of "
            "its terms, after the Newton steps that helped. Solve to a smaller tolerance",
            stacklevel=3,
        )


@partial(jax.jit, static_argnames=("structure", "polish", "throw"))
def compute_derivative(
    solver: FrozenSolver,
    values: Values,
    smoothing: Smoothing,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
    throw: bool,
) -> tuple[SolutionDerivative, Progress]:
    """`AbstractQCP.derivative`."""
    values = _bounded(structure, values)
    linearised = linearise(structure, values, solver.thaw(), smoothing)
    kkt, state = linearised.kkt, linearised.state
    if polish and smoothing is None:  # Newton steps are with the exact `D`
        dx, dy, solved = kkt.solve(*linearised.newton, solver.thaw(), state)
        (x, y, _), progress = _polish(structure, values, linearised, dx, dy, solved)
    else:
        (x, y, _), progress = _unpolished(values, jnp.asarray(True))
    return SolutionDerivative(kkt, x, y, solver, state, structure, throw), progress


@partial(jax.jit, static_argnames=("structure", "polish"))
def compute_jvp(
    solver: FrozenSolver,
    values: Values,
    data: Data,
    smoothing: Smoothing,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
) -> tuple[Solution, Progress]:
    """`AbstractQCP.jvp`."""
    operator, progress = compute_derivative(
        solver, values, smoothing, structure=structure, polish=polish, throw=False
    )
    solution, solved = push_forward(operator, data)
    report = progress.report.at[0].set(solved.astype(progress.report.dtype))
    return solution, progress._replace(report=report)


@partial(jax.jit, static_argnames=("structure", "polish"))
def compute_vjp(
    solver: FrozenSolver,
    values: Values,
    cotangents: Solution,
    smoothing: Smoothing,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
) -> tuple[Data, Progress]:
    """`AbstractQCP.vjp`."""
    values = _bounded(structure, values)
    linearised = linearise(structure, values, solver.thaw(), smoothing)
    kkt = linearised.kkt

    def solve(upper, dual):
        return kkt.solve(upper, dual, solver.thaw(), linearised.state)

    system = adjoint_system(kkt, cotangents)
    if polish and smoothing is None:
        # Neither right-hand side needs the solution of the other: solve for both at once.
        both = jax.tree.map(lambda *parts: jnp.stack(parts), system, linearised.newton)
        (w, dx), (u, dy), (solved, _) = jax.vmap(solve)(*both)
        (x, y, _), progress = _polish(structure, values, linearised, dx, dy, solved)
    else:
        w, u, solved = solve(*system)
        (x, y, _), progress = _unpolished(values, solved)
    return pull_back(structure, x, y, cotangents, w, u), progress


class Way(NamedTuple):
    """What of a derivative is static."""

    structure: AbstractQCPStructure
    solver: FrozenSolver
    polish: bool

    @property
    def call(self) -> _traced.Call:
        """That of the extension."""
        return _traced.Call(self.structure, self.solver.thaw(), self.polish)


def jvp(
    way: Way, values: Values, data: Data, smoothing: Smoothing
) -> tuple[Solution, Progress]:
    """`AbstractQCP.jvp`, under transformations or with any solver."""
    if in_programs(way.structure, way.solver.rest.value, values.x.dtype):
        return _jvp_of_extension(way, values, data, smoothing)
    return _jvp_of_jax(way, values, data, smoothing)


def vjp(
    way: Way, values: Values, cotangents: Solution, smoothing: Smoothing
) -> tuple[Data, Progress]:
    """`AbstractQCP.vjp`, likewise."""
    if in_programs(way.structure, way.solver.rest.value, values.x.dtype):
        return _vjp_of_extension(way, values, cotangents, smoothing)
    return _vjp_of_jax(way, values, cotangents, smoothing)


def _jvp_of_jax(way: Way, values: Values, data: Data, smoothing: Smoothing) -> Any:
    structure, solver, polish = way

    def compute(values: Values) -> Any:
        return compute_jvp(
            solver, values, data, smoothing, structure=structure, polish=polish
        )

    return repeat(compute, values)


def _vjp_of_jax(
    way: Way, values: Values, cotangents: Solution, smoothing: Smoothing
) -> Any:
    structure, solver, polish = way

    def compute(values: Values) -> Any:
        return compute_vjp(
            solver, values, cotangents, smoothing, structure=structure, polish=polish
        )

    return repeat(compute, values)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _jvp_of_extension(way: Way, values: Values, data: Data, smoothing: Smoothing) -> Any:
    exact = smoothing is None
    call = way.call._replace(polish=way.polish and exact)
    solution, report = _traced.jvp(call, values, data, 0.0 if exact else smoothing)
    return solution, _progress(values, report)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _vjp_of_extension(
    way: Way, values: Values, cotangents: Solution, smoothing: Smoothing
) -> Any:
    exact = smoothing is None
    call = way.call._replace(polish=way.polish and exact)
    data, report = _traced.vjp(call, values, cotangents, 0.0 if exact else smoothing)
    return data, _progress(values, report)


def _progress(values: Values, report: Float[Array, "2"]) -> Progress:
    return Progress(values[4:], jnp.append(report, jnp.zeros_like(report, shape=1)))


@_jvp_of_extension.defjvp
def _(way: Way, primals: Any, tangents: Any) -> Any:
    return jax.jvp(partial(_jvp_of_jax, way), primals, tangents)


@_vjp_of_extension.defjvp
def _(way: Way, primals: Any, tangents: Any) -> Any:
    return jax.jvp(partial(_vjp_of_jax, way), primals, tangents)
