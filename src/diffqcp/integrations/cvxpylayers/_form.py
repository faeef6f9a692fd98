"""The canonical form of a layer as a QCP."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._accuracy import finite_bounds
from ..._search import search_batch
from ..._static import StaticArray
from ...derivative import Data, Solution
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
    _P_size: int = eqx.field(static=True)

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
        self._P_upper, self._P_size = StaticArray(upper), P_places.shape[1]
        self._b_rows = StaticArray(places[0, ~of_A])

    def data(self, P: Array | None, q: Array, A: Array) -> tuple[Any, Any, Array, Array]:
        """`(P, A, q, b)` of a QCP from cvxpylayers' vectors for one problem."""
        structure = self.structure
        nnz = structure.A_pattern.nnz
        P_values = jnp.zeros(0, q.dtype) if P is None else P[self._P_upper.value]
        b = jnp.zeros(structure.m, q.dtype).at[self._b_rows.value].set(A[nnz:])
        P_matrix = structure.wrap(P_values, structure.P_pattern)
        return P_matrix, structure.wrap(-A[:nnz], structure.A_pattern), q[:-1], b

    def cotangents(
        self, dP: Any, dA: Any, dq: Float[Array, " n"], db: Float[Array, " m"]
    ) -> tuple[Array, Array, Array]:
        """The adjoint of `data`: of all of `P` its upper triangle counts."""
        P = jnp.zeros(self._P_size, dq.dtype).at[self._P_upper.value].set(dP.data)
        constant = jnp.zeros(1, dq.dtype)
        A = jnp.concatenate([-dA.data, db[self._b_rows.value]])
        return P, jnp.concatenate([dq, constant]), A


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

    solution: Solution
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

    A forward solver on the host is called as it is. Callbacks would not do: the threads
    that they run in do not know of `jax.enable_x64`.
    """
    if not isinstance(solver.forward, AbstractBatchSolver):
        return _solve(solver, form, values, start)
    data = _data_batch(form, values)
    found = search_batch(
        *(form.structure, solver.forward, data, start),
        *(solver.frozen_solver, solver.polish),
    )
    x, y, s = (jnp.asarray(part) for part in found[:3])
    return LayerSolution((x, y, s), found.status)


@partial(jax.jit, static_argnames="form")
def _solve(solver: QCPSolver, form: LayerForm, values: Any, start: Any) -> LayerSolution:
    def solve(values, start):
        found = solver(*form.data(*values), start=start)
        shift = found.shift if solver.closest_feasible else None
        return LayerSolution((found.x, found.y, found.s), found.status, shift)

    return jax.vmap(solve)(values, start)


@partial(jax.jit, static_argnames="form")
def _data_batch(form: LayerForm, values: tuple[Array | None, Array, Array]) -> Data:
    def data(values):
        P, A, q, b = form.data(*values)
        _, A_values, b = finite_bounds(form.structure, A.data, b)
        return P.data, A_values, q, b

    return jax.vmap(data)(values)


@partial(jax.jit, static_argnames="form")
def differentiate_batch(
    solver: QCPSolver,
    form: LayerForm,
    values: tuple[Array | None, Array, Array],
    found: LayerSolution,
    gradients: tuple[Array, Array],
) -> tuple[Array, Array, Array]:
    """The gradients of cvxpylayers' vectors, from those of `x` and `y`. Where these are
    zero, so are those, with and without a solution.
    """

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
        dP, dq, dA = (jnp.where(asked, part, 0) for part in form.cotangents(*found))
        return dP, dq, dA

    return jax.vmap(differentiate)(values, found.solution, found.shift, gradients)
