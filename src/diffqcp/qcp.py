from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.experimental.sparse import BCOO, BCSR
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from ._checks import as_vector
from .derivative import (
    adjoint_system,
    checked,
    Data,
    pull_back,
    push_forward,
    Solution,
    SolutionDerivative,
)
from .kkt import KKTOperator
from .linear_solve import FrozenSolver, select_solver
from .structure import AbstractQCPStructure, QCPStructureCPU, QCPStructureGPU


class AbstractQCP(eqx.Module):
    """A convex conic quadratic program together with its solution.

        minimise 1/2 x'Px + q'x    subject to    Ax + s = b,  s in K,

    with the dual variable `y` in `K*`: `Px + A'y + q = 0`, `s'y = 0`.
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

    def _values(self) -> "_Values":
        return _Values(
            self.P_values, self.A_values, self.q, self.b, self.x, self.y, self.s
        )

    def derivative(
        self,
        solve_method: str = "auto",
        *,
        solver: lx.AbstractLinearSolver | None = None,
        polish: bool = True,
        throw: bool = True,
    ) -> SolutionDerivative:
        """The derivative of the solution with respect to the data, factorised once.

        **Arguments:**

        - `solve_method`: how to solve the linear system: `"auto"`, `"jax-lu"` (dense)
            or `"jax-lsmr"` (matrix-free).
        - `solver`: any lineax solver for symmetric indefinite systems, to use instead of
            a named one. It must take singular ones if there may be any.
        - `polish`: whether to correct `x` and `y` by one Newton step first, which takes
            one more solve with the same factorisation. It removes the error of a QP's
            solution that has the right active set. `D` is taken at the solution given.
        - `throw`: whether a failed solve raises. If False, its result is NaN.

        **Returns:**

        A [`diffqcp.SolutionDerivative`][]. Where the solution map is not differentiable
        (constraints that are redundant, a solution that is not unique) it is built on
        the least-squares solution of least norm of the linear system.

        **Raises:** `ValueError` for an unknown `solve_method`, `TypeError` if `solver`
        is not a lineax solver.
        """
        return _derivative(
            select_solver(solve_method, solver),
            self._values(),
            structure=self.problem_structure,
            polish=polish,
            throw=throw,
        )

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
        throw: bool = True,
    ) -> Solution:
        """How the solution changes with the data: a Jacobian-vector product.

        **Arguments:**

        - `dP`, `dA`: perturbations of `P` and `A`, in the same format and with the same
            pattern.
        - `dq`, `db`: perturbations of `q` and `b`, shapes `(n,)` and `(m,)`.
        - `solve_method`, `solver`, `polish`, `throw`: as for `derivative`.

        **Returns:**

        `(dx, dy, ds)` of shapes `(n,)`, `(m,)`, `(m,)`.

        **Raises:** `TypeError` or `ValueError`, naming the argument, if a perturbation
        does not fit the structure; otherwise as `derivative`; and, if `throw`, a
        `RuntimeError` if the solve fails or a perturbation is not finite.
        """
        structure, dtype = self.problem_structure, self.x.dtype
        data = (
            structure.values("dP", dP, structure.P_pattern, dtype),
            structure.values("dA", dA, structure.A_pattern, dtype),
            as_vector("dq", dq, structure.n, dtype),
            as_vector("db", db, structure.m, dtype),
        )
        solution, solved = _jvp(
            select_solver(solve_method, solver),
            self._values(),
            data,
            structure=structure,
            polish=polish,
        )
        return checked(solution, solved, throw)

    def vjp(
        self,
        dx: Real[ArrayLike, " n"],
        dy: Real[ArrayLike, " m"],
        ds: Real[ArrayLike, " m"],
        solve_method: str = "auto",
        *,
        solver: lx.AbstractLinearSolver | None = None,
        polish: bool = True,
        throw: bool = True,
    ) -> tuple[Any, Any, Float[Array, " n"], Float[Array, " m"]]:
        """The gradient of a function of the solution: a vector-Jacobian product.

        **Arguments:**

        - `dx`, `dy`, `ds`: the gradient with respect to the solution, shapes `(n,)`,
            `(m,)`, `(m,)`.
        - `solve_method`, `solver`, `polish`, `throw`: as for `derivative`.

        **Returns:**

        `(dP, dA, dq, db)`, the gradient with respect to the stored entries of the data;
        `dP` and `dA` have the format and the pattern of `P` and `A`.

        **Raises:** `TypeError` or `ValueError`, naming the argument, for a wrong shape;
        otherwise as `derivative`; and, if `throw`, a `RuntimeError` if the solve fails
        or a cotangent is not finite.
        """
        structure, dtype = self.problem_structure, self.x.dtype
        cotangents = (
            as_vector("dx", dx, structure.n, dtype),
            as_vector("dy", dy, structure.m, dtype),
            as_vector("ds", ds, structure.m, dtype),
        )
        data, solved = _vjp(
            select_solver(solve_method, solver),
            self._values(),
            cotangents,
            structure=structure,
            polish=polish,
        )
        dP, dA, dq, db = checked(data, solved, throw)
        P, A = structure.P_pattern, structure.A_pattern
        return structure.wrap(dP, P), structure.wrap(dA, A), dq, db


class HostQCP(AbstractQCP):
    """A solved QCP in the formats of CPU solvers: BCOO, the upper triangle of `P`.

    Gradients are with respect to the stored entries, so one off the diagonal of `P`
    stands for both of its symmetric positions.
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
        - `x`, `y`, `s`: the solution, its dual and its slack: `(n,)`, `(m,)`, `(m,)`.
        - `problem_structure`: the [`diffqcp.QCPStructureCPU`][] of `P`, `A` and the
            cones.

        All of them get the widest floating-point dtype among them.

        **Raises:** `TypeError` or `ValueError`, naming the argument, for another
        format, a shape or pattern that is not the structure's, and values that are
        known and not finite.
        """
        arrays = _check(QCPStructureCPU, problem_structure, P, A, q, b, x, y, s)
        self.P_values, self.A_values, self.q, self.b, self.x, self.y, self.s = arrays
        self.problem_structure = problem_structure


class DeviceQCP(AbstractQCP):
    """A solved QCP in the formats of GPU solvers: BCSR, all of `P`.

    Gradients are with respect to the stored entries; that of `P` is symmetric.
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

        The others, dtypes and errors are as for [`diffqcp.HostQCP`][].
        """
        arrays = _check(QCPStructureGPU, problem_structure, P, A, q, b, x, y, s)
        self.P_values, self.A_values, self.q, self.b, self.x, self.y, self.s = arrays
        self.problem_structure = problem_structure


class _Values(NamedTuple):
    """All that a QCP has besides its structure."""

    P: Float[Array, " nnzP"]
    A: Float[Array, " nnzA"]
    q: Float[Array, " n"]
    b: Float[Array, " m"]
    x: Float[Array, " n"]
    y: Float[Array, " m"]
    s: Float[Array, " m"]


def _factorise(
    structure: AbstractQCPStructure, values: _Values, solver: lx.AbstractLinearSolver
) -> tuple[KKTOperator, Any]:
    """`K`, and the solver's state for it."""
    # Comparisons hide a NaN, as in an item of a batch whose solve has failed: then all
    # of its derivative is to be NaN.
    finite = jnp.stack([jnp.all(jnp.isfinite(part)) for part in values])
    poison = jnp.where(jnp.all(finite), 0, jnp.nan).astype(values.x.dtype)
    jacobian = structure.dual_cone.jacobian(values.y - values.s)
    kkt = KKTOperator(
        structure.P_matrix(values.P),
        structure.A_matrix(values.A),
        jacobian.map(lambda eigenvalues: eigenvalues + poison),
    )
    # The rules of lineax take the state for a constant.
    return kkt, solver.init(jax.lax.stop_gradient(kkt), {})


def _newton_system(
    kkt: KKTOperator, values: _Values
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The right-hand side of a semismooth Newton step on the optimality conditions

        P x + A'Pi(v) + q = 0,    A x + Pi(v) - v = b        at v = y - s.

    Its system is that of `diffqcp.kkt`, with the residuals for `r1` and `-r2`. For a QP
    whose active set is right, the step ends at the exact solution.
    """
    v, y = values.y - values.s, _projected(kkt, values)
    dual_residual = kkt.P.mv(values.x) + kkt.A.transpose_mv(y) + values.q
    primal_residual = kkt.A.mv(values.x) + y - v - values.b
    return -dual_residual, -primal_residual


def _projected(kkt: KKTOperator, values: _Values) -> Float[Array, " m"]:
    # Pi(v) = D v, since projections are homogeneous.
    return kkt.jacobian.mv(values.y - values.s)


def _polished(
    kkt: KKTOperator,
    values: _Values,
    dx: Float[Array, " n"],
    dy: Float[Array, " m"],
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """`x` and `y` after the Newton step.

    One that changes them by more than a hundredth corrects no error of a solver: it
    comes from a `K` that is nearly singular, and is not taken.
    """
    x, y = values.x + dx, _projected(kkt, values) + dy
    taken = _close(x, values.x) & _close(y, values.y)
    return jnp.where(taken, x, values.x), jnp.where(taken, y, values.y)


def _close(new: Float[Array, " d"], old: Float[Array, " d"]) -> Bool[Array, ""]:
    return jnp.linalg.norm(new - old) <= 0.01 * jnp.linalg.norm(old)


@partial(jax.jit, static_argnames=("structure", "polish", "throw"))
def _derivative(
    solver: FrozenSolver,
    values: _Values,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
    throw: bool,
) -> SolutionDerivative:
    kkt, state = _factorise(structure, values, solver.thaw())
    x, y = values.x, values.y
    if polish:
        dx, dy, _ = kkt.solve(*_newton_system(kkt, values), solver.thaw(), state)
        x, y = _polished(kkt, values, dx, dy)
    return SolutionDerivative(kkt, x, y, solver, state, structure, throw)


@partial(jax.jit, static_argnames=("structure", "polish"))
def _jvp(
    solver: FrozenSolver,
    values: _Values,
    data: Data,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
) -> tuple[Solution, Bool[Array, ""]]:
    derivative = _derivative(
        solver, values, structure=structure, polish=polish, throw=False
    )
    return push_forward(derivative, data)


@partial(jax.jit, static_argnames=("structure", "polish"))
def _vjp(
    solver: FrozenSolver,
    values: _Values,
    cotangents: Solution,
    *,
    structure: AbstractQCPStructure,
    polish: bool,
) -> tuple[Data, Bool[Array, ""]]:
    kkt, state = _factorise(structure, values, solver.thaw())
    x, y = values.x, values.y

    def solve(upper, dual):
        return kkt.solve(upper, dual, solver.thaw(), state)

    system = adjoint_system(kkt, cotangents)
    if polish:
        # Neither right-hand side needs the solution of the other: solve for both at once.
        both = jax.tree.map(
            lambda *parts: jnp.stack(parts), system, _newton_system(kkt, values)
        )
        (w, dx), (u, dy), (solved, _) = jax.vmap(solve)(*both)
        x, y = _polished(kkt, values, dx, dy)
    else:
        w, u, solved = solve(*system)
    return pull_back(structure, x, y, cotangents, w, u), solved


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
        bad = np.flatnonzero(~np.isfinite(np.asarray(array)))
        if bad.size:
            raise ValueError(
                f"{name}: expected finite values, got {array[bad[0]]} at entry {bad[0]}"
                f" ({bad.size} in all)"
            )
    return [
        array if array.dtype == dtype else array.astype(dtype)
        for array in arrays.values()
    ]
