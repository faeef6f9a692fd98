"""The canonical form of a layer as a QCP."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._accuracy import finite_bounds
from ..._compiled import in_programs
from ..._native_batch import Batch, gradients as native_gradients
from ..._search import is_native, search_batch
from ..._static import StaticArray
from ...derivative import Solution
from ...forward import AbstractBatchSolver
from ...qcp import HostQCP
from ...solver import QCPSolver
from ...structure import QCPStructureCPU
from ..cvxpy._conversions import cone_dims, pattern_matrix


class LayerForm(eqx.Module):
    """How the values that cvxpylayers computes are those of a QCP.

    cvxpylayers evaluates vectors: the stored values of all of `P`; `q` and the constant
    of the objective; the stored values of `-A` and of `b`. Here they become the data of a
    [`diffqcp.HostQCP`][], and gradients go back.
    """

    structure: QCPStructureCPU = eqx.field(static=True)
    _P_upper: StaticArray = eqx.field(static=True)
    _b_rows: StaticArray = eqx.field(static=True)
    _P_source: StaticArray = eqx.field(static=True)
    _b_source: StaticArray = eqx.field(static=True)

    def __init__(self, context: Any):
        """**Arguments:**

        - `context`: cvxpylayers' `LayersContext`, canonicalised for SCS.
        """
        n = context.q.shape[0] - 1
        P_places, _ = _entries(context.reduced_P.problem_data_index, (n, n))
        places, (m, _) = _entries(context.reduced_A.problem_data_index, (0, n + 1))
        upper = np.flatnonzero(P_places[0] <= P_places[1])
        of_A = places[1] < n
        self.structure = QCPStructureCPU(
            pattern_matrix(P_places[:, upper], (n, n)),
            pattern_matrix(places[:, of_A], (m, n)),
            cone_dims(context.cone_dims),
            psd_order="lower",
        )
        b_rows = places[0, ~of_A]
        self._P_upper, self._b_rows = StaticArray(upper), StaticArray(b_rows)
        self._P_source = _source(upper, P_places.shape[1])
        self._b_source = _source(b_rows, m)

    def data(self, P: Any, q: Any, A: Any) -> tuple[Any, Any, Array, Array]:
        """`(P, A, q, b)` of a QCP from cvxpylayers' vectors for one problem."""
        structure = self.structure
        P_values, A_values, q, b = self.values(P, q, A)
        P_matrix = structure.wrap(P_values, structure.P_pattern)
        return P_matrix, structure.wrap(A_values, structure.A_pattern), q, b

    def values(self, P: Any, q: Any, A: Any) -> tuple[Any, Any, Any, Any]:
        """Those of `P` and `A`, `q` and `b`, in arrays of JAX or NumPy, perhaps with an
        axis for a batch in front.
        """
        xp: Any = np if isinstance(q, np.ndarray) else jnp
        nnz = self.structure.A_pattern.nnz
        nothing = xp.zeros_like(q[..., :1])
        P_values = nothing[..., :0] if P is None else P[..., self._P_upper.value]
        b = xp.concatenate([A[..., nnz:], nothing], -1)[..., self._b_source.value]
        return P_values, -A[..., :nnz], q[..., :-1], b

    def cotangents(self, dP: Any, dA: Any, dq: Any, db: Any) -> tuple[Any, Any, Any]:
        """The adjoint of `values`: of all of `P` its upper triangle counts."""
        xp: Any = np if isinstance(dq, np.ndarray) else jnp
        nothing = xp.zeros_like(dq[..., :1])
        P = xp.concatenate([dP, nothing], -1)[..., self._P_source.value]
        A = xp.concatenate([-dA, db[..., self._b_rows.value]], -1)
        return P, xp.concatenate([dq, nothing], -1), A


def _source(places: np.ndarray, size: int) -> StaticArray:
    """For each of so many places which of `places` it is; for others the number of these,
    where a zero is put.
    """
    source = np.full(size, places.size)
    source[places] = np.arange(places.size)
    return StaticArray(source)


def _entries(index: Any, shape: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The rows and columns of entries, and the shape, from CVXPY's CSC indices; None
    stands for no entries.
    """
    if index is None:
        return np.zeros((2, 0), int), shape
    rows, starts, shape = index
    return np.stack([rows, np.repeat(np.arange(shape[1]), np.diff(starts))]), shape


class LayerSolution(NamedTuple):
    """The solutions `(x, y, s)` of a batch, how each solve has ended, and the shifts of
    `b`, if there may be any.
    """

    solution: tuple[Any, Any, Any]
    status: Array | np.ndarray
    shift: Array | None = None


def solve_on_host(
    solver: QCPSolver,
    form: LayerForm,
    values: tuple[Array | None, Array, Array],
    start: Solution | None,
) -> LayerSolution:
    """Solves a batch, from cvxpylayers' vectors with the batch first, outside of all
    transformations.

    A forward solver on the host, and the extension, are called as they are. Callbacks
    would not do: the threads that they run in do not know of `jax.enable_x64`.
    """
    forward, chosen = solver.forward, solver.frozen_solver
    on_host = isinstance(forward, AbstractBatchSolver)
    if not (on_host or compiles_nothing(solver)):
        return _solve(solver, form, values, start)
    data = _bounded(form, values)
    found = search_batch(form.structure, forward, data, start, chosen, solver.polish)
    return LayerSolution((found.x, found.y, found.s), found.status)


def compiles_nothing(solver: QCPSolver) -> bool:
    """Whether all of a solve and its derivative are calls of the extension."""
    chosen = solver.frozen_solver.rest.value
    native = is_native(solver.structure, solver.forward, chosen)
    return native and not solver.closest_feasible


def _bounded(form: LayerForm, values: Any) -> Any:
    """The values of the data, where rows without a bound are `0 <= 1`."""
    P, A, q, b = form.values(*values)
    _, A, b = finite_bounds(form.structure, A, b)
    return P, A, q, b


@partial(jax.jit, static_argnames="form")
def _solve(solver: QCPSolver, form: LayerForm, values: Any, start: Any) -> LayerSolution:
    def solve(values, start):
        found = solver(*form.data(*values), start=start)
        shift = found.shift if solver.closest_feasible else None
        return LayerSolution((found.x, found.y, found.s), found.status, shift)

    return jax.vmap(solve)(values, start)


def differentiate_batch(
    solver: QCPSolver,
    form: LayerForm,
    values: tuple[Any, Any, Any],
    found: LayerSolution,
    gradients: tuple[Any, Any],
) -> tuple[Any, Any, Any]:
    """The gradients of cvxpylayers' vectors, from those of `x` and `y`. Where these are
    zero, so are those, with and without a solution.
    """
    chosen = solver.frozen_solver
    native = in_programs(form.structure, chosen.rest.value)
    if found.shift is not None or not native:
        return _differentiate(solver, form, values, found, gradients)
    smoothing = 0.0 if solver.smoothing is None else float(solver.smoothing)
    batch = Batch(form.structure, chosen, len(gradients[0]), smoothing=smoothing)
    dx, dy = gradients
    cotangents = dx, dy, np.zeros_like(dy)
    solution = tuple(np.asarray(part) for part in found.solution)
    parts = native_gradients(batch, _bounded(form, values), solution, cotangents)
    asked = np.any(dx != 0, axis=1) | np.any(dy != 0, axis=1)
    dP, dq, dA = (np.where(asked[:, None], part, 0) for part in form.cotangents(*parts))
    return dP, dq, dA


@partial(jax.jit, static_argnames="form")
def _differentiate(
    solver: QCPSolver,
    form: LayerForm,
    values: tuple[Array | None, Array, Array],
    found: LayerSolution,
    gradients: tuple[Array, Array],
) -> tuple[Array, Array, Array]:
    """That by JAX."""

    def differentiate(values, solution, shift, gradients):
        P, A, q, b = form.data(*values)
        none, A_values, b = finite_bounds(form.structure, A.data, b)
        A = form.structure.wrap(A_values, form.structure.A_pattern)
        x, y, s = solution
        qcp = HostQCP(P, A, q, b, x, y, s, form.structure)
        (dx, dy), chosen = gradients, solver.frozen_solver.thaw()
        nothing = jnp.zeros_like(dy)
        if shift is None:
            found: Any = qcp.vjp(
                *(dx, dy, nothing),
                solver=chosen,
                polish=False,  # the forward pass has done that
                smoothing=0.0 if solver.smoothing is None else solver.smoothing,
                throw=False,
            )
        else:
            operator = qcp.closest_derivative(shift, solver=chosen)
            dP, dA, dq, db = operator.transpose_mv((dx, dy, nothing, nothing))
            patterns = form.structure.P_pattern, form.structure.A_pattern
            dP, dA = (
                form.structure.wrap(*pair)
                for pair in zip((dP, dA), patterns, strict=True)
            )
            found = dP, dA, dq, db
        asked = jnp.any(dx != 0) | jnp.any(dy != 0)
        dP, dA, dq, db = found
        parts = form.cotangents(dP.data, dA.data, dq, db)
        dP, dq, dA = (jnp.where(asked, part, 0) for part in parts)
        return dP, dq, dA

    return jax.vmap(differentiate)(values, found.solution, found.shift, gradients)
