from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.experimental.sparse import BCOO, BCSR
from jaxtyping import Array, ArrayLike, Float, Integer, Real, ScalarLike

from ._accuracy import finite_bounds
from ._callbacks import host_callback
from ._checks import as_numbers, as_vector, check_number
from ._closest import ClosestRecipe, find_closest
from ._compiled import in_programs
from ._condition import compute_if
from ._differentiate import as_smoothing, Smoothing
from ._elastic import elastic as elastic_of
from ._implicit import Extras, find, Recipe
from .cones.psd import PSDOrder
from .dense import QCPStructureDense
from .derivative import Data, Solution
from .forward import AbstractForwardSolver, Clarabel, Proximal, SOLUTIONS, Status
from .forward._host import unfamiliar
from .linear_solve import FrozenSolver, select_solver
from .structure import AbstractQCPStructure, QCPStructureCPU, QCPStructureGPU


class Residuals(eqx.Module):
    """How well a solution satisfies the optimality conditions.

    All of these numbers are zero at an exact solution:

    - `primal`: the largest entry of `|A x + s - b - shift|`.
    - `dual`: the largest entry of `|P x + A'y + q|`.
    - `gap`: the duality gap, `|x'P x + q'x + (b + shift)'y|`.
    """

    primal: Float[Array, ""]
    dual: Float[Array, ""]
    gap: Float[Array, ""]


class QCPSolution(eqx.Module):
    """The solution of a QCP.

    If it comes from `jax.vmap`, each part has an axis for the batch in front.

    - `x`, `y`, `s`: the solution, its dual variable and its slack, of shapes `(n,)`,
        `(m,)` and `(m,)`. NaN if no solution was found.
    - `status`: how the solve has ended, a [`diffqcp.Status`][] as an integer.
    - `iterations`: how many iterations the forward solver has made.
    - `objective`: the optimal value, `1/2 x'P x + q'x`.
    - `residuals`: how exact the solution is, a [`diffqcp.Residuals`][].
    - `shift`: by how much the right-hand side was changed, of shape `(m,)`:
        `A x + s = b + shift`. Zero, unless the problem was infeasible and was solved with
        `closest_feasible` or `elastic`.

    `x`, `y`, `s`, `objective` and `shift` can be differentiated with respect to the data.
    """

    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]
    status: Integer[Array, ""]
    iterations: Integer[Array, ""]
    objective: Float[Array, ""]
    residuals: Residuals
    shift: Float[Array, " m"]


class QCPSolver(eqx.Module):
    """A differentiable solver of QCPs with one structure.

        minimise 1/2 x'Px + q'x    subject to    Ax + s = b,  s in K.

    Call it with the data, `solver(P, A, q, b)`. All of JAX's derivatives go through the
    call, `jvp`, `vjp`, `grad`, `linearize`, `jacfwd`, `jacrev` and `hessian`, and so do
    `jit` and `vmap`. The problem is solved once for a call, by the *forward solver*,
    whatever is differentiated. Where the solution has no derivative, because it is not
    unique or constraints are redundant, a least-squares solution takes its place, as in
    [`diffqcp.AbstractQCP.derivative`][].

    **Arguments:**

    - `structure`: a [`diffqcp.QCPStructureCPU`][] for BCOO matrices with the upper
        triangle of `P`, a [`diffqcp.QCPStructureGPU`][] for BCSR matrices with all of
        `P`, or a [`diffqcp.QCPStructureDense`][] for arrays with all of `P`.
    - `forward`: the forward solver. By default [`diffqcp.Proximal`][] on CPUs, by the
        compiled extension, with at most 200 exponential cones, and for cones of your own;
        [`diffqcp.Clarabel`][] elsewhere. What it does not solve, Clarabel solves.
    - `solve_method`, `solver`: how the linear system of the derivative is solved, as for
        [`diffqcp.AbstractQCP.derivative`][].
    - `polish`: whether to correct what the forward solver returns by Newton steps on the
        optimality conditions, since an error of the solution is an error of the
        derivative, too. One to three steps are usual. An integer is the largest number of
        steps; True stands for 10.
    - `smoothing`: as for [`diffqcp.AbstractQCP.derivative`][]. The solution itself is not
        smoothed. In second derivatives the smoothed derivative of the projection counts
        as a constant.
    - `throw`: whether a problem that is not solved raises a `RuntimeError` with the
        status and the place in the batch. If False, its solution and its derivatives are
        NaN; only if the status is `INACCURATE` they are those of the best point found.
    - `closest_feasible`: whether to solve, in the place of an infeasible problem, the
        closest feasible one: with `b + shift` instead of `b`, and the smallest `shift`
        for which that has a solution. The status is then `CLOSEST_FEASIBLE`. Feasible
        problems are solved as always. The forward solver must be [`diffqcp.Proximal`][],
        which is the default then; `polish` has no effect and `smoothing` must be zero.
        See [Infeasible problems](../infeasible.md).
    - `elastic`: a price `gamma > 0` at which constraints may be violated, so that every
        problem is feasible. The right-hand side of an equation may be shifted either way,
        that of a nonnegative row upwards, and that of another cone along a point inside
        of it: `(1, 0, ..)` for a second-order cone, the unit matrix for a PSD one. Each
        shift costs `gamma` times its length. If the multipliers of a feasible problem are
        below the price, its solution stays what it is. See
        [Infeasible problems](../infeasible.md).

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """

    structure: AbstractQCPStructure = eqx.field(static=True)
    forward: AbstractForwardSolver = eqx.field(static=True)
    frozen_solver: FrozenSolver
    smoothing: Smoothing
    polish: int = eqx.field(static=True)
    throw: bool = eqx.field(static=True)
    closest_feasible: bool = eqx.field(static=True)
    elastic: Float[Array, ""] | None

    def __init__(
        self,
        structure: AbstractQCPStructure,
        *,
        forward: AbstractForwardSolver | None = None,
        solve_method: str = "auto",
        solver: lx.AbstractLinearSolver | None = None,
        polish: bool | int = True,
        smoothing: ScalarLike = 0.0,
        throw: bool = True,
        closest_feasible: bool = False,
        elastic: ScalarLike | None = None,
    ):
        if not isinstance(structure, AbstractQCPStructure):
            raise TypeError(f"structure: expected a structure, got {type(structure)}")
        if not structure.onto_dual:
            raise ValueError("structure: expected one of the cone K, got onto_dual=False")
        if not isinstance(closest_feasible, bool):
            raise TypeError(
                f"closest_feasible: expected True or False, got {closest_feasible!r}"
            )
        if forward is None:
            forward = Proximal() if closest_feasible else _default(structure)
        if not isinstance(forward, AbstractForwardSolver):
            raise TypeError(
                "forward: expected a forward solver such as diffqcp.Clarabel(), or "
                f"diffqcp.Function(f) for a function, got {forward!r}"
            )
        if closest_feasible and not isinstance(forward, Proximal):
            raise ValueError(
                "forward: expected diffqcp.Proximal() for closest_feasible=True, got "
                f"{forward!r}"
            )
        if not isinstance(polish, bool):
            check_number("polish", polish, above=-1, integer=True)
        if not isinstance(throw, bool):
            raise TypeError(f"throw: expected True or False, got {throw!r}")
        self.structure, self.forward = structure, forward
        self.frozen_solver = select_solver(solve_method, solver)
        self.polish = 10 if polish is True else int(polish)
        self.smoothing = as_smoothing(smoothing)
        if closest_feasible and self.smoothing is not None:
            raise ValueError("smoothing: expected 0 for closest_feasible=True")
        if closest_feasible and elastic is not None:
            raise ValueError("elastic: expected None for closest_feasible=True")
        self.throw, self.closest_feasible = throw, closest_feasible
        self.elastic = None if elastic is None else _as_penalty(elastic)

    def __call__(
        self,
        P: Any,
        A: Any,
        q: Real[ArrayLike, " n"],
        b: Real[ArrayLike, " m"],
        *,
        start: QCPSolution | Solution | None = None,
    ) -> QCPSolution:
        """Solves the problem with these data.

        **Arguments:**

        - `P`, `A`: matrices in the structure's format. If `P` is a dense array that is
            not symmetric, its symmetric part `(P + P') / 2` is taken.
        - `q`, `b`: shapes `(n,)` and `(m,)`.
        - `start`: a solution to start from, or `(x, y, s)`. Only some forward solvers
            make use of it: [`diffqcp.Newton`][], [`diffqcp.Proximal`][] and SCS.

        **Returns:** a [`diffqcp.QCPSolution`][], in the widest floating-point dtype of
        the data.

        **Raises:** `TypeError` or `ValueError`, naming the argument, if a format, a shape
        or a pattern is not that of the structure; `RuntimeError` if the problem is not
        solved and `throw` is True.
        """
        data = self._data(P, A, q, b)
        recipe: Recipe | ClosestRecipe
        if self.closest_feasible:
            assert isinstance(self.forward, Proximal)
            recipe = ClosestRecipe(self.structure, self.forward)
        else:
            structure = self.structure
            solved = (
                structure if self.elastic is None else elastic_of(structure).structure
            )
            recipe = Recipe(solved, self.forward, self.polish)
        first = None if start is None else self._start(start, data[2].dtype)
        extras = Extras(self.frozen_solver, self.smoothing, first)
        solution = _solve(self.structure, recipe, data, extras, self.elastic)
        return _raise_unless_solved(solution) if self.throw else solution

    def _data(self, P: Any, A: Any, q: ArrayLike, b: ArrayLike) -> Data:
        structure = self.structure
        if isinstance(structure, QCPStructureDense):
            P, A = _as_array("P", P), _as_array("A", A)
            if P.shape == (structure.n, structure.n) and not _is_sparse(P):
                P = (P + P.T) / 2
        arrays = (
            structure.values("P", P, structure.P_pattern),
            structure.values("A", A, structure.A_pattern),
            as_vector("q", q, structure.n),
            as_vector("b", b, structure.m),
        )
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(float, *arrays)
        P_values, A_values, q_values, b_values = (part.astype(dtype) for part in arrays)
        return P_values, A_values, q_values, b_values

    def _start(self, start: Any, dtype: Any) -> Solution:
        if isinstance(start, QCPSolution):
            start = (start.x, start.y, start.s)
        if not isinstance(start, (tuple, list)):
            raise TypeError(
                f"start: expected a solution, or (x, y, s), got a {type(start).__name__}"
            )
        if len(start) != 3:
            raise ValueError(f"start: expected (x, y, s), got {len(start)} parts")
        n, m = self.structure.n, self.structure.m
        x, y, s = (
            jax.lax.stop_gradient(as_vector(f"start {name}", part, size, dtype))
            for name, part, size in zip("xys", start, (n, m, m), strict=True)
        )
        return x, y, jnp.where(s == jnp.inf, 1, s)  # where there is no constraint


def solve(
    P: Any,
    A: Any,
    q: Real[ArrayLike, " n"],
    b: Real[ArrayLike, " m"],
    cone_dims: Mapping[str, Any],
    *,
    psd_order: PSDOrder | None = None,
    start: QCPSolution | Solution | None = None,
    **options: Any,
) -> QCPSolution:
    """Solves a QCP, so that JAX can differentiate the solution.

        minimise 1/2 x'Px + q'x    subject to    Ax + s = b,  s in K.

    This makes a [`diffqcp.QCPSolver`][] and calls it. If you solve many problems of one
    structure, make the solver yourself, once, and call it for each of them. You have to
    do so, outside of `jax.jit`, if `P` and `A` are sparse matrices that are arguments of
    a jitted function: there it is not known which of their entries are stored.

    **Arguments:**

    - `P`, `A`: both BCOO (then `P` is the upper triangle only), both BCSR, or both dense
        arrays (in both cases all of `P`). Of a dense `P` that is not symmetric the
        symmetric part is taken.
    - `q`, `b`: shapes `(n,)` and `(m,)`.
    - `cone_dims`, `psd_order`: the cone `K`; see
        [`diffqcp.cones.ProductCone.from_dict`][].
    - `start`: as for `QCPSolver.__call__`.
    - `options`: those of `QCPSolver`: `forward`, `solve_method`, `solver`, `polish`,
        `smoothing`, `throw`, `closest_feasible`, `elastic`.

    **Returns:** a [`diffqcp.QCPSolution`][].

    **Raises:** the errors of `QCPSolver`, and those of the structure that fits the format
    of the matrices, such as [`diffqcp.QCPStructureCPU`][].
    """
    formats = {BCOO: QCPStructureCPU, BCSR: QCPStructureGPU}
    kind = next(
        (formats[form] for form in formats if isinstance(P, form)), QCPStructureDense
    )
    if kind is QCPStructureDense and not (_is_sparse(P) or _is_sparse(A)):
        P, A = _as_array("P", P), _as_array("A", A)
    structure = kind(P, A, cone_dims, psd_order=psd_order)
    return QCPSolver(structure, **options)(P, A, q, b, start=start)


def _default(structure: AbstractQCPStructure) -> AbstractForwardSolver:
    """A forward solver for problems of this structure."""
    if unfamiliar(structure):
        return Proximal()
    native = in_programs(structure)
    exponential = structure.dims["ep"] + structure.dims["ed"]
    return Proximal() if native and exponential <= _MOST_EXPONENTIAL else Clarabel()


# With 20 of them the proximal method takes a quarter of Clarabel's time, with 100 four
# fifths, and with 200 to 400 as long.
_MOST_EXPONENTIAL = 200


def _as_penalty(gamma: Any) -> Array:
    if not isinstance(gamma, Tracer):
        number = gamma
        if not isinstance(gamma, (int, float)):
            number = as_numbers("elastic", gamma, "a number > 0")
        if np.ndim(number) or not 0 < float(number) < np.inf:
            raise ValueError(f"elastic: expected a number > 0, got {gamma!r}")
    return jnp.asarray(gamma, float)


def _as_array(name: str, matrix: Any) -> Any:
    if _is_sparse(matrix):
        return matrix
    return as_numbers(name, matrix, "an array of real numbers, or a BCOO or BCSR matrix")


def _is_sparse(matrix: Any) -> bool:
    return isinstance(matrix, (BCOO, BCSR))


@partial(jax.jit, static_argnums=(0, 1))
def _solve(
    structure: AbstractQCPStructure,
    recipe: Recipe | ClosestRecipe,
    data: Data,
    extras: Extras,
    gamma: Float[Array, ""] | None,
) -> QCPSolution:
    """`recipe` is of the structure, or of its elastic problems with `gamma`."""
    P, A, q, b = data
    none, A, b = finite_bounds(structure, A, b)
    data = P, A, q, b
    if isinstance(recipe, ClosestRecipe):
        x, y, s, shift, *counts = find_closest(recipe, data, extras)
    elif gamma is None:
        x, y, s, *counts = find(recipe, data, extras)
        shift = jnp.zeros_like(b)
    else:
        form = elastic_of(structure)
        if extras.start is not None:
            extras = extras._replace(start=form.start(extras.start, gamma))
        x, y, s, *counts = find(recipe, form.data(data, gamma), extras)
        x, y, s, shift = form.solution(x, y, s)
    status, iterations = (part.astype(jnp.int32) for part in counts)
    A_matrix = structure.A_matrix(A)
    Px = structure.P_mv(P, x)

    def size(vector: Array) -> Array:
        return jnp.max(jnp.abs(jax.lax.stop_gradient(vector)), initial=0)

    gap = x @ Px + q @ x + (b + shift) @ y
    residuals = Residuals(
        size(A_matrix.mv(x) + s - b - shift),
        size(Px + A_matrix.transpose_mv(y) + q),
        jnp.abs(jax.lax.stop_gradient(gap)),
    )
    # A cotangent of zero is to stay zero where there is no solution: no factor is NaN.
    nowhere = jnp.isnan(x).any()
    there = jnp.where(nowhere, 0, x)
    value = there @ structure.P_mv(P, there) / 2 + q @ there
    objective = jnp.where(nowhere, jnp.sum(x), value)
    s = jnp.where(none, jnp.inf, s)
    return QCPSolution(x, y, s, status, iterations, objective, residuals, shift)


def _raise_unless_solved(solution: QCPSolution) -> QCPSolution:
    parts = solution.x, solution.y, solution.s, solution.objective, solution.shift
    x, y, s, objective, shift = raise_unless_solved(solution.status, parts)
    counts = solution.status, solution.iterations
    return QCPSolution(x, y, s, *counts, objective, solution.residuals, shift)


_Arrays = TypeVar("_Arrays")


def raise_unless_solved(status: Integer[Array, ""], arrays: _Arrays) -> _Arrays:
    """The arrays of a solution with this status, a [`diffqcp.Status`][].

    **Raises:** `RuntimeError` if it is neither `SOLVED` nor `CLOSEST_FEASIBLE`; in a
    traced call when that runs.
    """
    if not isinstance(status, Tracer):
        _check(status)
        return arrays
    # In a traced call a callback raises, for a whole batch at once. The solution is made
    # to depend on its result, or it would be left out.
    shape = jax.ShapeDtypeStruct((), np.bool_)
    report = partial(host_callback, _check, shape, vmap_method="expand_dims")
    failed = ~jnp.isin(status, jnp.array(SOLUTIONS, status.dtype))
    fine = compute_if(failed, report, (status,), ~failed)
    return jax.tree.map(lambda part: jnp.where(fine, part, jnp.nan), arrays)


def _check(status: Array | np.ndarray) -> np.ndarray:
    """True for each, or an error."""
    codes = np.asarray(status)
    failed = np.argwhere(~np.isin(codes, SOLUTIONS))
    if len(failed) == 0:
        return np.ones(codes.shape, bool)
    place = tuple(failed[0].tolist())
    word = Status(int(codes[place])).name.lower().replace("_", " ")
    where = (
        f" of item {place[0] if len(place) == 1 else place} of the batch" if place else ""
    )
    more = f" ({len(failed)} items in all)" if len(failed) > 1 else ""
    raise RuntimeError(
        f"diffqcp: the status{where} is {word!r}{more}. With throw=False the solution is "
        "NaN, or if it is inaccurate, as good as could be found"
    )
