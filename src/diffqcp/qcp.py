from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.experimental.sparse import BCOO, BCSR
from jaxtyping import Array, ArrayLike, Float, Real, ScalarLike

from ._checks import as_host_vector, as_vector
from ._closest_derivative import (
    closest_derivative,
    ClosestDerivative,
    ClosestRegularity,
    examine_closest,
)
from ._compiled import is_compiled, jvp as compiled_jvp, Task, vjp as compiled_vjp
from ._differentiate import (
    as_smoothing,
    compiled_derivative,
    compute_derivative,
    jvp as differentiate_jvp,
    Progress,
    progress_of,
    repeat,
    Smoothing,
    Values,
    vjp as differentiate_vjp,
    warn_if_inaccurate,
    Way,
)
from ._methods import quick
from ._regularity import examine, Regularity
from .derivative import checked, Solution, SolutionDerivative
from .linear_solve import select_solver
from .structure import AbstractQCPStructure, QCPStructureCPU, QCPStructureGPU


class AbstractQCP(eqx.Module):
    """A convex conic quadratic program together with its solution.

        minimise 1/2 x'Px + q'x    subject to    Ax + s = b,  s in K,

    The solution is `x`, the slack `s`, and the dual variable `y`, which lies in the dual
    cone `K*` and satisfies `Px + A'y + q = 0` and `s'y = 0`.
    """

    P_values: eqx.AbstractVar[Float[Array, " nnzP"]]
    A_values: eqx.AbstractVar[Float[Array, " nnzA"]]
    q: eqx.AbstractVar[Float[Array, " n"]]
    b: eqx.AbstractVar[Float[Array, " m"]]
    x: eqx.AbstractVar[Float[Array, " n"]]
    y: eqx.AbstractVar[Float[Array, " m"]]
    s: eqx.AbstractVar[Float[Array, " m"]]
    problem_structure: eqx.AbstractVar[AbstractQCPStructure]

    @property
    def P(self) -> Any:
        """The objective matrix, as it was given."""
        structure = self.problem_structure
        return structure.wrap(self.P_values, structure.P_pattern)

    @property
    def A(self) -> Any:
        """The constraint matrix, as it was given."""
        structure = self.problem_structure
        return structure.wrap(self.A_values, structure.A_pattern)

    @property
    def _values(self) -> Values:
        return _values_of(vars(self))

    @quick
    def derivative(
        self,
        solve_method: str = "auto",
        *,
        solver: lx.AbstractLinearSolver | None = None,
        polish: bool = True,
        smoothing: ScalarLike = 0.0,
        throw: bool = True,
    ) -> SolutionDerivative:
        """The derivative of the solution with respect to the data, as a linear operator.

        Its linear system is factorised here, once, and then serves any number of
        products.

        **Arguments:**

        - `solve_method`: how to solve the linear system: `"auto"`, `"ldl"` (sparse, on
            CPUs), `"jax-lu"` (dense), `"jax-lsmr"` (matrix-free) or `"nvmath-direct"`
            (sparse, on NVIDIA GPUs).
        - `solver`: any lineax solver for symmetric indefinite systems, to use instead of
            a named one. Where constraints are redundant or the solution is not unique the
            system is singular, and the solver must be able to deal with that.
        - `polish`: whether to correct the solution by Newton steps first, as long as they
            help. The first step costs one more solve with the same factorisation. For a
            QP it is enough, if the solution shows which constraints are active. With
            other cones there may be further steps. On CPUs the compiled extension takes
            them with the first factorisation, too, if the points are close to each
            other; otherwise each takes one of its own. If False, the solution is taken
            as it is given.
        - `smoothing`: with a number `mu > 0` the derivative is that of a point on the
            central path instead. Constraints then have an effect before they are active,
            so that gradients are not zero at the vertices of LPs; they are not the exact
            ones either. `polish` has no effect. (The derivative `D` of the projection is
            replaced by that of a smoothed projection, whose eigenvalues lie inside of
            (0, 1); see [`diffqcp.cones.AbstractCone.smoothed_jacobian`][].)
        - `throw`: whether a linear solve that fails raises a `RuntimeError`. If False,
            the result is NaN.

        **Returns:**

        A [`diffqcp.SolutionDerivative`][]. Where the solution has no derivative, because
        constraints are redundant or the solution is not unique, the linear system is
        singular, and its least-squares solution of least norm is used.

        **Raises:** `ValueError` for an unknown `solve_method`, `TypeError` if `solver`
        is not a lineax solver; for [`diffqcp.CuDSS`][] the errors of its `check`. A
        warning says if the given point is not a solution and Newton steps do not lead to
        one (except under `jit` and other transformations of JAX).
        """
        operator, progress = self._derivative(
            solve_method, solver, polish, smoothing, throw
        )
        warn_if_inaccurate(progress)
        return operator

    def _derivative(
        self,
        solve_method: str,
        solver: lx.AbstractLinearSolver | None,
        polish: bool,
        smoothing: ScalarLike,
        throw: bool,
    ) -> tuple[SolutionDerivative, Progress]:
        structure, values = self.problem_structure, self._values
        mu = as_smoothing(smoothing)
        chosen = select_solver(solve_method, solver, values)
        if is_compiled(structure, chosen, *values, mu):
            task = Task(structure, chosen, values, polish, _number(mu))
            return compiled_derivative(task, throw)
        compute = partial(
            compute_derivative,
            chosen,
            smoothing=mu,
            structure=structure,
            polish=polish,
            throw=throw,
        )
        return repeat(compute, values)

    def regularity(self) -> Regularity:
        """Reports how far the derivative can be trusted: how close constraints are to
        becoming active or inactive, the rank and the condition number of the linear
        system, and how exact the solution is.

        For looking at one problem, outside of `jit`, with `n + m` of at most 3000.

        **Returns:** a [`diffqcp.Regularity`][]; its `verdict` says it in words.

        **Raises:** `ValueError` for larger problems, and under a transformation.
        """
        if any(isinstance(part, Tracer) for part in self._values):
            raise ValueError("regularity: expected known values; call it outside jit")
        return examine(self.problem_structure, self._values)

    def closest_derivative(
        self,
        shift: Real[ArrayLike, " m"],
        solve_method: str = "auto",
        *,
        solver: lx.AbstractLinearSolver | None = None,
    ) -> ClosestDerivative:
        """The derivative of the closest feasible problem's solution, factorised once.

        For an infeasible problem whose `x`, `y` and `s` are the solution with `b + shift`
        in the place of `b`, and the smallest `shift` for which there is a solution.
        Solvers with `closest_feasible=True` return such a solution, with its `shift`.

        **Arguments:**

        - `shift`: shape `(m,)`; zero if the problem is feasible.
        - `solve_method`, `solver`: as for `derivative`.

        **Returns:** a [`diffqcp.ClosestDerivative`][]. See `closest_regularity` for where
        there is no derivative.

        **Raises:** `TypeError` or `ValueError`, naming the argument.
        """
        values = self._values
        shift = as_vector("shift", shift, self.problem_structure.m, self.x.dtype)
        chosen = select_solver(solve_method, solver, (values, shift))
        return closest_derivative(self.problem_structure, values, shift, chosen)

    def closest_regularity(self, shift: Real[ArrayLike, " m"]) -> ClosestRegularity:
        """Reports how far the derivative of the closest feasible problem can be trusted,
        and whether there is one with respect to `A`.

        For looking at one problem, outside of `jit`, with `n + m` of at most 3000.

        **Arguments:**

        - `shift`: as for `closest_derivative`.

        **Returns:** a [`diffqcp.ClosestRegularity`][]; its `verdict` says it in words.

        **Raises:** `ValueError` for larger problems, and under a transformation.
        """
        values = self._values
        if any(isinstance(part, Tracer) for part in (*values, shift)):
            raise ValueError("closest_regularity: expected known values, outside of jit")
        shift = as_vector("shift", shift, self.problem_structure.m, self.x.dtype)
        return examine_closest(self.problem_structure, values, shift)

    @quick
    def jvp(
        self,
        dP: BCOO | BCSR,
        dA: BCOO | BCSR,
        dq: Real[ArrayLike, " n"],
        db: Real[ArrayLike, " m"],
        solve_method: str = "auto",
        *,
        solver: lx.AbstractLinearSolver | None = None,
        polish: bool = True,
        smoothing: ScalarLike = 0.0,
        throw: bool = True,
    ) -> Solution:
        """How the solution changes if the data change: a Jacobian-vector product.

        **Arguments:**

        - `dP`, `dA`: the changes of `P` and `A`, in the same format and with the same
            stored entries.
        - `dq`, `db`: the changes of `q` and `b`, shapes `(n,)` and `(m,)`.
        - `solve_method`, `solver`, `polish`, `smoothing`, `throw`: as for
            `derivative`.

        **Returns:**

        `(dx, dy, ds)`, the changes of the solution, to first order, of shapes `(n,)`,
        `(m,)`, `(m,)`.

        **Raises:** `TypeError` or `ValueError`, naming the argument, if a perturbation
        does not fit the structure; the errors of `derivative`; and, if `throw` is True, a
        `RuntimeError` if the linear solve fails or a perturbation is not finite.
        """
        structure, values, dtype = self.problem_structure, self._values, self.x.dtype
        mu = as_smoothing(smoothing)
        matrices = (
            structure.values("dP", dP, structure.P_pattern, dtype),
            structure.values("dA", dA, structure.A_pattern, dtype),
        )
        vectors = ("dq", dq, structure.n), ("db", db, structure.m)
        chosen = select_solver(solve_method, solver, (values, matrices, dq, db))
        if is_compiled(structure, chosen, *values, *matrices, dq, db, mu):
            data = (*matrices, *(as_host_vector(*vector) for vector in vectors))
            task = Task(structure, chosen, values, polish, _number(mu))
            solution, report = compiled_jvp(task, data)
            progress = progress_of(report, values)
        else:
            dq, db = (as_vector(*vector, dtype) for vector in vectors)
            data = (*matrices, dq, db)
            way = Way(structure, chosen, polish)
            solution, progress = differentiate_jvp(way, values, data, mu)
        warn_if_inaccurate(progress)
        dx, dy, ds = checked(solution, progress.solved, throw)
        return dx, dy, ds

    @quick
    def vjp(
        self,
        dx: Real[ArrayLike, " n"],
        dy: Real[ArrayLike, " m"],
        ds: Real[ArrayLike, " m"],
        solve_method: str = "auto",
        *,
        solver: lx.AbstractLinearSolver | None = None,
        polish: bool = True,
        smoothing: ScalarLike = 0.0,
        throw: bool = True,
    ) -> tuple[Any, Any, Float[Array, " n"], Float[Array, " m"]]:
        """The gradient, with respect to the data, of a function of the solution: a
        vector-Jacobian product.

        **Arguments:**

        - `dx`, `dy`, `ds`: the gradient of that function with respect to `x`, `y` and
            `s`, shapes `(n,)`, `(m,)`, `(m,)`.
        - `solve_method`, `solver`, `polish`, `smoothing`, `throw`: as for
            `derivative`.

        **Returns:**

        `(dP, dA, dq, db)`, the gradient with respect to the stored entries of the data;
        `dP` and `dA` have the format and the pattern of `P` and `A`.

        **Raises:** `TypeError` or `ValueError`, naming the argument, for a wrong shape;
        the errors of `derivative`; and, if `throw` is True, a `RuntimeError` if the
        linear solve fails or `dx`, `dy` or `ds` is not finite.
        """
        parts = vars(self)  # each attribute of a module takes as long as all of these
        structure, values = parts["problem_structure"], _values_of(parts)
        mu = as_smoothing(smoothing)
        n, m = structure.n, structure.m
        vectors = ("dx", dx, n), ("dy", dy, m), ("ds", ds, m)
        chosen = select_solver(solve_method, solver, (values, dx, dy, ds))
        if is_compiled(structure, chosen, *values, dx, dy, ds, mu):
            cotangents = tuple(as_host_vector(*vector) for vector in vectors)
            task = Task(structure, chosen, values, polish, _number(mu))
            data, report = compiled_vjp(task, cotangents)
            progress = progress_of(report, values)
        else:
            dtype = values.x.dtype
            dx, dy, ds = (as_vector(*vector, dtype) for vector in vectors)
            way = Way(structure, chosen, polish)
            data, progress = differentiate_vjp(way, values, (dx, dy, ds), mu)
        warn_if_inaccurate(progress)
        dP, dA, dq, db = checked(data, progress.solved, throw)
        P, A = structure.P_pattern, structure.A_pattern
        return structure.wrap(dP, P), structure.wrap(dA, A), dq, db


def _values_of(parts: dict[str, Any]) -> Values:
    return Values(
        *(parts["P_values"], parts["A_values"], parts["q"], parts["b"]),
        *(parts["x"], parts["y"], parts["s"]),
    )


def _number(smoothing: Smoothing) -> float:
    return 0.0 if smoothing is None else float(smoothing)


class HostQCP(AbstractQCP):
    """A solved QCP in the formats of CPU solvers: BCOO, the upper triangle of `P`.

    An entry of `P` off the diagonal is stored once and stands for both of its symmetric
    positions. The gradient with respect to it counts the change of both.
    """

    P_values: Float[Array, " nnzP"]
    A_values: Float[Array, " nnzA"]
    q: Float[Array, " n"]
    b: Float[Array, " m"]
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]
    problem_structure: QCPStructureCPU = eqx.field(static=True)

    def __init__(
        self,
        P: Float[BCOO, "n n"],
        A: Float[BCOO, "m n"],
        q: Real[ArrayLike, " n"],
        b: Real[ArrayLike, " m"],
        x: Real[ArrayLike, " n"],
        y: Real[ArrayLike, " m"],
        s: Real[ArrayLike, " m"],
        problem_structure: QCPStructureCPU,
    ):
        """**Arguments:**

        - `P`: BCOO, shape `(n, n)`: the upper triangle of the objective matrix.
        - `A`: BCOO, shape `(m, n)`.
        - `q`, `b`: shapes `(n,)` and `(m,)`.
        - `x`, `y`, `s`: the solution, its dual variable and its slack, of shapes `(n,)`,
            `(m,)` and `(m,)`. In a nonnegative row `b` and `s` may be infinite, which
            says that there is no constraint.
        - `problem_structure`: the [`diffqcp.QCPStructureCPU`][] of `P`, `A` and the
            cones.

        All arrays are converted to the widest floating-point dtype among them.

        **Raises:** `TypeError` or `ValueError`, naming the argument, if the format, a
        shape or a pattern is not that of the structure, or if values are not finite (as
        far as they are known: not under `jit`).
        """
        arrays = _check(QCPStructureCPU, problem_structure, P, A, q, b, x, y, s)
        self.P_values, self.A_values, self.q, self.b, self.x, self.y, self.s = arrays
        self.problem_structure = problem_structure


class DeviceQCP(AbstractQCP):
    """A solved QCP in the formats of GPU solvers: BCSR, all of `P`.

    An entry of `P` off the diagonal is stored twice, and each of the two has half of the
    gradient, which is symmetric.
    """

    P_values: Float[Array, " nnzP"]
    A_values: Float[Array, " nnzA"]
    q: Float[Array, " n"]
    b: Float[Array, " m"]
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]
    problem_structure: QCPStructureGPU = eqx.field(static=True)

    def __init__(
        self,
        P: Float[BCSR, "n n"],
        A: Float[BCSR, "m n"],
        q: Real[ArrayLike, " n"],
        b: Real[ArrayLike, " m"],
        x: Real[ArrayLike, " n"],
        y: Real[ArrayLike, " m"],
        s: Real[ArrayLike, " m"],
        problem_structure: QCPStructureGPU,
    ):
        """**Arguments:**

        - `P`: BCSR, shape `(n, n)`: all of the objective matrix, symmetric.
        - `A`: BCSR, shape `(m, n)`.
        - `problem_structure`: the [`diffqcp.QCPStructureGPU`][] of `P`, `A` and the
            cones.

        The other arguments, the dtypes and the errors are those of
        [`diffqcp.HostQCP`][].
        """
        arrays = _check(QCPStructureGPU, problem_structure, P, A, q, b, x, y, s)
        self.P_values, self.A_values, self.q, self.b, self.x, self.y, self.s = arrays
        self.problem_structure = problem_structure


def _check(
    structure_type: type[AbstractQCPStructure],
    structure: AbstractQCPStructure,
    P: Any,
    A: Any,
    q: ArrayLike,
    b: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    s: ArrayLike,
) -> list[Array]:
    if not isinstance(structure, structure_type):
        raise TypeError(
            f"problem_structure: expected a {structure_type.__name__}, got "
            f"{type(structure)}"
        )
    arrays = {
        "P": structure.values("P", P, structure.P_pattern),
        "A": structure.values("A", A, structure.A_pattern),
        "q": as_vector("q", q, structure.n),
        "b": as_vector("b", b, structure.m),
        "x": as_vector("x", x, structure.n),
        "y": as_vector("y", y, structure.m),
        "s": as_vector("s", s, structure.m),
    }
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(float, *arrays.values())
    for name, array in arrays.items():
        if isinstance(array, Tracer):
            continue
        fine = np.isfinite(np.asarray(array))
        bound = arrays["b"]
        if name in ("b", "s") and not isinstance(bound, Tracer):
            # A nonnegative row may have no bound, and then its slack is infinite.
            rows = slice(structure.dims["z"], structure.dims["z"] + structure.dims["l"])
            none = np.asarray(bound)[rows] == np.inf
            fine[rows] |= none & (np.asarray(array)[rows] == np.inf)
        bad = np.flatnonzero(~fine)
        if bad.size:
            raise ValueError(
                f"{name}: expected finite values, got {array[bad[0]]} at entry {bad[0]}"
                f" ({bad.size} in all)"
            )
    return [
        array if array.dtype == dtype else array.astype(dtype)
        for array in arrays.values()
    ]
