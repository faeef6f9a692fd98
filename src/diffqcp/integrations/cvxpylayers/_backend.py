"""The solver object for cvxpylayers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import lineax as lx
import numpy as np
from cvxpylayers.interfaces.base import SolverInterface
from jaxtyping import ScalarLike

from ..._compiled import in_programs
from ...forward import AbstractForwardSolver, Newton, Proximal, SOLUTIONS, Status
from ...solver import QCPSolver
from ...structure import AbstractQCPStructure
from ._batches import BatchSizes, filled, remember
from ._form import (
    compiles_nothing,
    differentiate_batch,
    LayerForm,
    LayerSolution,
    solve_on_host,
)


def _outside_dynamo(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that `torch.compile` does not look into: what it calls is JAX."""

    @functools.wraps(method)
    def call(*arguments: Any) -> Any:
        # Whoever calls this has it.
        import torch  # pyright: ignore[reportMissingImports]

        return torch.compiler.disable(method)(*arguments)

    return call


class DiffQCP(SolverInterface):
    """diffqcp as the solver of a layer of cvxpylayers.

        CvxpyLayer(problem, parameters, variables, solver=DiffQCP())

    It is for the PyTorch layer of cvxpylayers, and, with JAX, for
    [`diffqcp.integrations.cvxpylayers.CvxpyLayer`][]. Quadratic objectives stay
    quadratic, and parameters may appear anywhere in them. All cones of CVXPY are
    supported. What can be prepared without knowing the parameters is prepared once for a
    layer.

    In PyTorch the solve and the gradient of a whole batch are computed at once, in
    float64, whatever JAX's default; the solution has the dtype of the parameters. By
    default, on CPUs, the compiled extension does that, and nothing is compiled. Else each
    size of a batch needs a compilation of its own; so that there are few, a batch may be
    filled up to a size that has come before.

    **Arguments:**

    - `forward`: the forward solver; by default [`diffqcp.Proximal`][] where the compiled
        extension computes, and [`diffqcp.Newton`][] elsewhere. Both call
        [`diffqcp.Clarabel`][] for problems that they do not solve. Its options can be
        given for a call as `solver_args`; where these are not options of `Proximal`,
        they are those of `Newton`, or of the solver that it calls, whose further
        `settings` are other names, as in
        `solver_args={"max_iter": 50, "verbose": True}`.
    - `solve_method`, `solver`, `polish`, `smoothing`: as for [`diffqcp.QCPSolver`][].
    - `throw`: whether a problem without a solution raises a `RuntimeError` with the
        status and the place in the batch. If False, its solution is NaN, and so is its
        gradient, unless the loss does not depend on this solution. The rest of the batch
        is not affected.
    - `warm_start`: whether a solve in PyTorch starts from the last solution of the same
        layer and the same size of the batch, if the forward solver can do that. It is on
        by default, since in training a problem is much like the one before. The solution
        is the same up to rounding errors, unless a problem has several solutions or
        `polish` is off.
    - `closest_feasible`: as for [`diffqcp.QCPSolver`][]: in the place of an infeasible
        problem the closest feasible one is solved, by [`diffqcp.Proximal`][].

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """

    # CVXPY's form for SCS has PSD matrices in the order in which cvxpylayers unpacks
    # their duals, and power cones of three dimensions only.
    canon_solver = "SCS"
    supports_quad_obj = True

    def __init__(
        self,
        forward: AbstractForwardSolver | None = None,
        *,
        solve_method: str = "auto",
        solver: lx.AbstractLinearSolver | None = None,
        polish: bool | int = True,
        smoothing: ScalarLike = 0.0,
        throw: bool = True,
        warm_start: bool = True,
        closest_feasible: bool = False,
    ):
        if forward is None and closest_feasible:
            forward = Proximal()
        self._forward = forward
        if not isinstance(forward, AbstractForwardSolver | None):
            raise TypeError(f"forward: expected a forward solver, got {forward!r}")
        self._options = {"solve_method": solve_method, "solver": solver, "polish": polish}
        self._options["smoothing"] = smoothing
        self._options["closest_feasible"] = closest_feasible
        self.throw, self._warm_start = throw, warm_start
        self._dtype: np.dtype | None = None
        # By cvxpylayers' cone dimensions, of which each layer has its own, so that layers
        # may share this object.
        self._layers: WeakKeyDictionary[Any, _Layer] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        # Weak keys can be neither pickled nor copied. The cone dimensions here and those
        # in the layers' contexts stay the same objects, if layers go along.
        forms = [(dims, layer.form) for dims, layer in self._layers.items()]
        return self.__dict__ | {"_layers": forms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        layers = [(dims, _Layer(form)) for dims, form in state["_layers"]]
        self._layers = WeakKeyDictionary(layers)

    def setup(self, ctx: Any) -> None:
        """Called by a layer when it is made: analyses the patterns."""
        with jax.enable_x64(True):
            self._layers[ctx.cone_dims] = _Layer(LayerForm(ctx))

    def qcp_solver(
        self, dims: Any, solver_args: Mapping[str, Any], throw: bool | None = None
    ) -> QCPSolver:
        """The solver of the problems of a layer.

        **Arguments:**

        - `dims`: the layer's cone dimensions.
        - `solver_args`: options of the forward solver.
        - `throw`: instead of this object's.

        **Raises:** `ValueError` for an option that the forward solver does not have.
        """
        throw = self.throw if throw is None else throw
        key = (throw, *sorted(solver_args.items()))
        layer = self._layers[dims]
        if key not in layer.solvers:
            structure = layer.form.structure
            forward = self._forward or _default(structure, solver_args)
            forward = _with_options(forward, solver_args)
            with jax.ensure_compile_time_eval():  # it outlives the transformation
                solver = QCPSolver(
                    structure, forward=forward, throw=throw, **self._options
                )
            remember(layer.solvers, key, solver)
        return layer.solvers[key]

    def form(self, dims: Any) -> LayerForm:
        """The canonical form of a layer with these cone dimensions."""
        return self._layers[dims].form

    def solve_numpy_batch(
        self,
        P: Any,
        q: Any,
        A: Any,
        dims: Any,
        solver_args: dict[str, Any],
        needs_grad: bool,
    ) -> tuple[Any, Any, Any]:
        """Solves a batch; the interface of cvxpylayers."""
        layer, solver = self._layers[dims], self.qcp_solver(dims, solver_args)
        count, start = len(q), layer.last.get(len(q))
        size = count if compiles_nothing(solver) else layer.sizes.fit(count)
        if start is not None:
            start = tuple(filled(part, size) for part in start)
        with jax.enable_x64(True):
            values = tuple(filled(_float64(part), size) for part in (P, q, A))
            found = solve_on_host(solver, layer.form, values, start)
        if self.throw:
            check(found.status[:count])
        solution = found.solution
        if count < size:
            solution = tuple(np.asarray(part)[:count] for part in solution)
        if self._warm_start:
            remember(layer.last, count, solution)
        x, y, _ = (np.asarray(part) for part in solution)
        saved = _Saved(layer.form, solver, values, found) if needs_grad else None
        return x, y, saved

    def derivative_numpy_batch(
        self, dprimal: Any, ddual: Any, saved_state: Any
    ) -> tuple[Any, Any, Any]:
        """Gradients of a batch; the interface of cvxpylayers."""
        if isinstance(saved_state, list):
            (saved_state,) = saved_state
        form, solver, values, found, _ = saved_state
        count, size = len(dprimal), len(values[1])
        with jax.enable_x64(True):
            gradients = _extended(dprimal, size), _extended(ddual, size)
            dP, dq, dA = differentiate_batch(solver, form, values, found, gradients)
        dP = None if values[0] is None else np.asarray(dP)[:count]
        return dP, np.asarray(dq)[:count], np.asarray(dA)[:count]

    def set_params(self, params: list[np.ndarray]) -> None:
        """Called by the layer for PyTorch with the values of the parameters before each
        solve; the interface of cvxpylayers, whose own products are in float64.

        **Raises:** `TypeError` for complex values.
        """
        self._dtype = np.result_type(*params)
        if np.issubdtype(self._dtype, np.complexfloating):
            raise TypeError(f"params: expected real numbers, got dtype {self._dtype}")

    @_outside_dynamo
    def solve_torch_batch(
        self,
        P: Any,
        q: Any,
        A: Any,
        dims: Any,
        solver_args: dict[str, Any],
        needs_grad: bool,
    ) -> tuple[Any, Any, Any]:
        """Solves a batch; the interface of cvxpylayers."""
        P_array, q_array, A_array = (_from_torch(part) for part in (P, q, A))
        x, y, saved = self.solve_numpy_batch(
            P_array, q_array, A_array, dims, solver_args, needs_grad
        )
        if saved is not None:
            saved = saved._replace(dtype=q.dtype)
        dtype = self._dtype
        if dtype is not None and np.issubdtype(dtype, np.floating):
            x, y = x.astype(dtype), y.astype(dtype)
        return _to_torch(x, q), _to_torch(y, q), saved

    @_outside_dynamo
    def derivative_torch_batch(
        self, dprimal: Any, ddual: Any, saved_state: Any
    ) -> tuple[Any, Any, Any]:
        """Gradients of a batch; the interface of cvxpylayers."""
        found = self.derivative_numpy_batch(
            _from_torch(dprimal), _from_torch(ddual), saved_state
        )
        if isinstance(saved_state, list):
            (saved_state,) = saved_state
        dtype = saved_state.dtype
        dP, dq, dA = (
            None if part is None else dprimal.new_tensor(part, dtype=dtype)
            for part in found
        )
        return dP, dq, dA


def _default(
    structure: AbstractQCPStructure, solver_args: Mapping[str, Any]
) -> AbstractForwardSolver:
    """The forward solver for a layer with these options of a call."""
    fields = {field.name for field in dataclasses.fields(Proximal)}
    native = in_programs(structure)
    return Proximal() if native and solver_args.keys() <= fields else Newton()


def _with_options(
    forward: AbstractForwardSolver, solver_args: Mapping[str, Any]
) -> AbstractForwardSolver:
    fields = {field.name for field in dataclasses.fields(forward)}
    options = {name: solver_args[name] for name in fields & solver_args.keys()}
    others = {name: solver_args[name] for name in solver_args.keys() - fields}
    if others and isinstance(forward, Newton):
        otherwise = options.get("otherwise", forward.otherwise)
        options["otherwise"] = _with_options(otherwise, others)
    elif others and "settings" in fields:
        earlier = options.get("settings", getattr(forward, "settings", ()))
        options["settings"] = (*earlier, *sorted(others.items()))
    elif others:
        raise ValueError(
            f"solver_args: {forward} has options {sorted(fields)}, got {sorted(others)}"
        )
    return dataclasses.replace(forward, **options)


@dataclasses.dataclass
class _Layer:
    """What is kept of a layer: its form, the last solvers by their options, the last
    solutions by the sizes of their batches, and the sizes of compiled programs.
    """

    form: LayerForm
    solvers: dict[Any, QCPSolver] = dataclasses.field(default_factory=dict)
    last: dict[int, Any] = dataclasses.field(default_factory=dict)
    sizes: BatchSizes = dataclasses.field(default_factory=BatchSizes)


class _Saved(NamedTuple):
    """For the backward pass; `values` and `found` are of the batch as it was filled up,
    and `dtype` is that of PyTorch's vectors.
    """

    form: LayerForm
    solver: QCPSolver
    values: tuple[Any, Any, Any]
    found: LayerSolution
    dtype: Any = None


def _float64(array: Any) -> Any:
    return None if array is None else np.asarray(array, np.float64)


def _extended(array: Any, size: int) -> np.ndarray:
    """In float64, with zeros for what a batch was filled up with."""
    array = _float64(array)
    if len(array) == size:
        return array
    return np.pad(array, ((0, size - len(array)), (0, 0)))


def _to_torch(array: np.ndarray, like: Any) -> Any:
    """A tensor of the array's dtype."""
    # Whoever calls this has it.
    import torch  # pyright: ignore[reportMissingImports]

    return torch.tensor(array, device=like.device)


def _from_torch(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach().cpu().numpy()


def check(status: Any) -> None:
    """Raises a `RuntimeError` unless all of a batch is solved."""
    status = np.ravel(status)
    failed = np.flatnonzero(~np.isin(status, SOLUTIONS))
    if failed.size:
        word = Status(int(status[failed[0]])).name.lower().replace("_", " ")
        raise RuntimeError(
            f"diffqcp: item {failed[0]} of the batch has no solution, its status is "
            f"{word!r} ({failed.size} of {status.size} items have none). With "
            "DiffQCP(throw=False) they are NaN instead"
        )
