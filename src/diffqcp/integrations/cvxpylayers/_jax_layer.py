"""A layer for JAX, on cvxpylayers' canonicalisation."""

from collections.abc import Mapping, Sequence
from typing import Any

import cvxpylayers.utils.parse_args as pa
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from ..._static import StaticArray
from ...derivative import Solution
from ...solver import QCPSolver
from ...sparsity import SparseMatrix, SparsityPattern
from ._backend import check, DiffQCP
from ._batches import BatchSizes, filled, remember
from ._form import LayerForm, LayerSolution


class CvxpyLayer:
    """A CVXPY problem as a differentiable function of its parameters, for JAX.

    It is constructed and called as `cvxpylayers.jax.CvxpyLayer`, whose release 1.2 takes
    no solver objects and cannot be jitted. Here `jax.jit`, `jax.vmap`, `jax.grad`,
    `jax.jacobian`, `jax.jvp` and `jax.hessian` go through the layer. The dtype is that of
    the parameters; with 16-bit ones the layer computes in float32.

    Each size of a batch needs a compilation of its own. So that there are few, a batch
    may be filled up to a size that has come before (outside of transformations).
    """

    def __init__(
        self,
        problem: Any,
        parameters: Sequence[Any],
        variables: Sequence[Any],
        solver: DiffQCP | None = None,
        gp: bool = False,
        verbose: bool = False,
        canon_backend: str | None = None,
        solver_args: Mapping[str, Any] | None = None,
    ):
        """**Arguments:**

        - `problem`: a CVXPY problem whose parameters follow CVXPY's rules for them (DPP).
        - `parameters`: all of its parameters, in the order in which the call takes their
            values.
        - `variables`: what the call returns: variables of the problem, and dual variables
            of its constraints.
        - `solver`: a [`diffqcp.integrations.cvxpylayers.DiffQCP`][].
        - `gp`: whether the problem is a geometric program.
        - `verbose`: whether the forward solver prints.
        - `canon_backend`: CVXPY's backend for the canonicalisation.
        - `solver_args`: options of the forward solver for all calls.

        **Raises:** `TypeError` for another solver, `ValueError` if the problem is not DPP
        or has integer variables, or the parameters or variables are not its own.
        """
        if problem.is_mixed_integer():
            raise ValueError("problem: it has integer variables, so no derivative")
        self._backend = DiffQCP() if solver is None else solver
        if not isinstance(self._backend, DiffQCP):
            raise TypeError(f"solver: expected a DiffQCP, got {solver!r}")
        self._solver_args = dict(solver_args or {}) | (
            {"verbose": True} if verbose else {}
        )
        self.ctx = pa.parse_args(
            problem,
            list(variables),
            list(parameters),
            None,
            gp=gp,
            canon_backend=canon_backend,
            custom_solver=self._backend,
        )
        self._backend.setup(self.ctx)
        self._maps = _LayerMaps(self.ctx, self._backend.form(self.ctx.cone_dims))
        self._last: dict[Any, Solution] = {}
        self._sizes = BatchSizes()

    def __call__(
        self,
        *params: ArrayLike,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool = False,
    ) -> tuple[Array, ...]:
        """Solves the problem.

        **Arguments:**

        - `params`: a value for each parameter, of the parameter's shape, or with an axis
            for a batch in front. Values with and without that axis can be mixed.
        - `solver_args`: options of the forward solver for this call.
        - `warm_start`: whether to start from the solution of the last call that had
            `warm_start` and this size of the batch. It has no effect under
            transformations of JAX, nor with forward solvers that cannot start from a
            solution.

        **Returns:**

        The optimal values of the variables, with a batch axis if any parameter has one.

        **Raises:** `ValueError` for a wrong number or shape of values, `TypeError` for
        complex ones, `RuntimeError` if there is no solution.
        """
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(float, *params)
            wide = jnp.promote_types(dtype, jnp.float32)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"params: expected real numbers, got dtype {dtype}")
        arrays = [jnp.asarray(value, wide) for value in params]
        batch = self.ctx.validate_params(arrays)
        if not batch and any(
            array.ndim > len(parameter.shape)
            for array, parameter in zip(arrays, self.ctx.parameters, strict=True)
        ):  # a batch of nothing
            shapes = [(0, *variable.shape) for variable in self.ctx.var_recover]
            return tuple(jnp.zeros(shape, dtype) for shape in shapes)
        axes = tuple(0 if size else None for size in self.ctx.batch_sizes or ())
        options = self._solver_args | dict(solver_args or {})
        # Outside of transformations the status is looked at here, for a plain error.
        plain = not any(isinstance(array, Tracer) for array in arrays)
        throw = False if plain else None
        solver = self._backend.qcp_solver(self.ctx.cone_dims, options, throw)
        start = self._last.get(batch) if warm_start else None
        count = size = batch[0] if batch else 0
        if plain and batch:
            size = self._sizes.fit(count)
            arrays = [
                array if axis is None else jnp.asarray(filled(array, size))
                for array, axis in zip(arrays, axes, strict=True)
            ]
            start = jax.tree.map(lambda part: jnp.asarray(filled(part, size)), start)
        values, found = _solve(self._maps, solver, axes, arrays, start)
        if count < size:
            values, found = jax.tree.map(lambda part: part[:count], (values, found))
        if plain and self._backend.throw:
            check(found.status)
        if plain and warm_start:
            remember(self._last, batch, found.solution)
        return tuple(value.astype(dtype) for value in values)


@eqx.filter_jit
def _solve(
    maps: "_LayerMaps",
    solver: QCPSolver,
    axes: tuple[int | None, ...],
    params: list[Array],
    start: Solution | None,
) -> tuple[tuple[Array, ...], LayerSolution]:
    def solve(params, start):
        found = solver(*maps.form.data(*maps.vectors(params)), start=start)
        solution = (found.x, found.y, found.s)
        return maps.variables(found.x, found.y), LayerSolution(solution, found.status)

    if all(axis is None for axis in axes):
        return solve(params, start)
    starts = None if start is None else 0
    return jax.vmap(solve, in_axes=(list(axes), starts))(params, start)


class _LayerMaps(eqx.Module):
    """From the values of parameters to those of variables, but for the solve."""

    form: LayerForm
    _P: "_AffineMap"
    _q: "_AffineMap"
    _A: "_AffineMap"
    # For each parameter in CVXPY's order: its place among the arguments, whether its
    # logarithm counts, and which of its entries do.
    _columns: tuple[tuple[int, bool, StaticArray], ...] = eqx.field(static=True)
    # For each variable: whether it is a dual one, which entries of the solution it is
    # made of, and by what they are scaled.
    _recovery: tuple[tuple[bool, StaticArray, StaticArray], ...] = eqx.field(static=True)
    _gp: bool = eqx.field(static=True)

    def __init__(self, context: Any, form: LayerForm):
        self.form = form
        width = context.q.shape[1]
        reduced = (
            context.reduced_P.reduced_mat,
            context.q,
            context.reduced_A.reduced_mat,
        )
        self._P, self._q, self._A = (_AffineMap(matrix, width) for matrix in reduced)
        logs = context.gp_log_mask or (False,) * len(context.parameters)
        order = np.argsort(context.user_order_to_col_order)
        self._columns = tuple(
            (
                int(k),
                logs[k],
                _stored(context.parameters[k].shape, context.param_triu_indices[k]),
            )
            for k in order
        )
        self._recovery = tuple(_recovery(variable) for variable in context.var_recover)
        self._gp = context.gp

    def vectors(self, params: list[Array]) -> tuple[Array, Array, Array]:
        """The vectors of stored values that `LayerForm.data` takes."""
        parts = []
        for place, log, index in self._columns:
            part = params[place].ravel()[index.value]
            parts.append(jnp.log(part) if log else part)
        dtype = params[0].dtype if params else jnp.result_type(float)
        vector = jnp.concatenate([*parts, jnp.ones(1, dtype)])
        return self._P.mv(vector), self._q.mv(vector), self._A.mv(vector)

    def variables(
        self, x: Float[Array, " n"], y: Float[Array, " m"]
    ) -> tuple[Array, ...]:
        """The values of the layer's variables."""
        values = []
        for dual, index, scale in self._recovery:
            value = (y if dual else x)[index.value]
            value = value * jnp.asarray(scale.value, value.dtype)
            values.append(_exp(value) if self._gp and not dual else value)
        return tuple(values)


def _exp(value: Array) -> Array:
    """`exp(value)`, and NaN for NaN with a derivative of one: a cotangent of zero is to
    stay zero.
    """
    none = jnp.isnan(value)
    return jnp.where(none, value, jnp.exp(jnp.where(none, 0, value)))


class _AffineMap(eqx.Module):
    """A constant sparse matrix, of the dtype of what it is applied to."""

    _values: StaticArray = eqx.field(static=True)
    _pattern: SparsityPattern

    def __init__(self, matrix: Any, width: int):
        stored: Any = sp.coo_array((0, width) if matrix is None else matrix)
        self._values = StaticArray(stored.data)
        rows, cols = stored.coords
        self._pattern = SparsityPattern(rows, cols, stored.shape)

    def mv(self, vector: Float[Array, " cols"]) -> Float[Array, " rows"]:
        """`matrix @ vector`."""
        values = jnp.asarray(self._values.value, vector.dtype)
        return SparseMatrix(values, self._pattern).mv(vector)


def _stored(shape: tuple[int, ...], triangle: Any) -> StaticArray:
    """The entries of a flat array that are columns of CVXPY's: those of a triangle, or
    all of them in Fortran's order.
    """
    places = np.arange(int(np.prod(shape))).reshape(shape)
    return StaticArray(places.ravel(order="F") if triangle is None else places[triangle])


def _recovery(variable: Any) -> tuple[bool, StaticArray, StaticArray]:
    dual, shape = variable.source == "dual", variable.shape
    span = variable.dual if dual else variable.primal
    if variable.unpack_fn == "reshape":
        places = np.arange(span.start, span.stop).reshape(shape, order="F")
        return dual, StaticArray(places), StaticArray(np.ones(shape))
    # The rows of a triangle are the columns of the other one: cvxpylayers has variables
    # by rows of the upper triangle, and duals by columns of the lower one.
    rows, cols = np.triu_indices(shape[0])
    places = np.zeros(shape, int)
    places[rows, cols] = places[cols, rows] = np.arange(span.start, span.stop)
    scale = np.where(np.eye(shape[0], dtype=bool) | (not dual), 1, np.sqrt(0.5))
    return dual, StaticArray(places), StaticArray(scale)
