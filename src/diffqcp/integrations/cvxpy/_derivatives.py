"""`backward` and `derivative` of a solved CVXPY problem."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import cvxpy as cp
import jax
import lineax as lx
import numpy as np
import scipy.sparse as sp

from ..._arrays import as_jax
from ..._differentiate import is_inaccurate, warn_if_inaccurate
from ..._search import RESCUE
from ...qcp import HostQCP
from ._adjoint import dense, pull_through
from ._duals import dual_variables, Duals
from ._parametric import ParametricForm
from ._qcp import conic_form, ConicForm
from ._ranges import Ranges


def backward(
    problem: cp.Problem,
    solve_method: str = "auto",
    *,
    solver: lx.AbstractLinearSolver | None = None,
    polish: bool = True,
) -> None:
    """The gradient of a function of the solution with respect to the parameters.

    Before the call, set the `gradient` of each variable to the gradient of the function
    with respect to that variable. (None stands for ones.) The call sets the `gradient` of
    each parameter. This is what `problem.backward()` of CVXPY does, but the problem may
    have been solved by Clarabel or SCS, without `requires_grad`, and keeps its quadratic
    objective. All is computed in float64, whatever JAX's default.

    The function may depend on dual variables, too: set the `gradient` of an element of
    `constraint.dual_variables`. As soon as one of these is set, None stands for zeros,
    for all variables.

    Parameters with attributes are treated as in CVXPY:

    - complex: the gradient is the derivative with respect to the real part plus `1j`
        times that with respect to the imaginary part;
    - symmetric: two symmetric places hold the same number, and that is the derivative
        if both of them change. For a Hermitian parameter the one below the diagonal is
        the conjugate;
    - diagonal: the gradient is a sparse matrix;
    - sparse: the gradient is zero outside of the pattern.

    **Arguments:**

    - `problem`: a `cvxpy.Problem` after `problem.solve(solver=cp.CLARABEL)` or
        `cp.SCS`: a convex one (DCP) or a geometric program (DGP, solved with `gp=True`),
        whose parameters follow CVXPY's rules for them (DPP).
    - `solve_method`, `solver`, `polish`: as for
        [`diffqcp.AbstractQCP.derivative`][].

    **Raises:** the errors of [`diffqcp.integrations.cvxpy.host_qcp`][], and `ValueError`
    if the problem is not DPP or a gradient does not have the shape of its variable.
    """
    if not problem.parameters():
        return
    linearised = Linearised(problem, conic_form(problem), solve_method, solver, polish)
    duals = dual_variables(problem)
    default = 1.0 if all(leaf.gradient is None for leaf in duals) else 0.0
    leaves: list[Any] = problem.variables()
    gradients = {
        leaf.id: _fitting("gradient", leaf, leaf.gradient, default) for leaf in leaves
    }
    # Without a gradient, a dual variable need not be one that CVXPY recovers.
    gradients |= {
        leaf.id: _fitting("gradient", leaf, leaf.gradient, 0.0)
        for leaf in duals
        if leaf.gradient is not None
    }
    pulled = linearised.pull_back(gradients)
    parameters: list[Any] = problem.parameters()
    for parameter in parameters:
        gradient = pulled[parameter.id]
        if parameter.attributes["diag"]:
            gradient = sp.diags_array(np.diag(gradient))
        parameter.gradient = gradient


def derivative(
    problem: cp.Problem,
    solve_method: str = "auto",
    *,
    solver: lx.AbstractLinearSolver | None = None,
    polish: bool = True,
) -> None:
    """How the solution changes with the parameters.

    Before the call, set the `delta` of each parameter to its change. (None stands for
    zero.) The call sets the `delta` of each variable to the change of its optimal value,
    to first order, and also those of the dual variables, which are the elements of
    `constraint.dual_variables`. (For a constraint whose dual variable CVXPY does not
    compute it is None.) This is what `problem.derivative()` of CVXPY does, but the
    problem may have been solved by Clarabel or SCS, without `requires_grad`, and keeps
    its quadratic objective.

    The arguments and errors are those of [`diffqcp.integrations.cvxpy.backward`][].
    """
    if problem.parameters():
        form = conic_form(problem)
        linearised = Linearised(problem, form, solve_method, solver, polish)
        deltas = {
            parameter.id: _fitting("delta", parameter, parameter.delta, 0.0)
            for parameter in problem.parameters()
        }
        pushed = linearised.push_forward(deltas)
    else:
        pushed = {}
    variables: list[Any] = problem.variables()
    for variable in variables:
        variable.delta = pushed.get(variable.id, np.zeros(variable.shape))
    for variable in dual_variables(problem):
        unknown = None if pushed else np.zeros(variable.shape)
        variable.delta = pushed.get(variable.id, unknown)


def _fitting(name: str, leaf: Any, value: Any, default: float) -> np.ndarray:
    value = dense(default if value is None else value)
    # A dual variable is not declared complex where it is.
    if np.iscomplexobj(value) and not (leaf.is_complex() or np.iscomplexobj(leaf.value)):
        raise ValueError(
            f"{name} of {leaf.name()}: expected real numbers, got dtype {value.dtype}"
        )
    if value.shape not in ((), leaf.shape):
        raise ValueError(
            f"{name} of {leaf.name()}: expected shape {leaf.shape}, got {value.shape}"
        )
    return np.broadcast_to(value, leaf.shape)


class Linearised:
    """A solved problem's variables and dual variables as functions of its parameters, to
    first order.

    Parameters and variables are known by their identifiers, as in CVXPY.
    """

    def __init__(
        self,
        problem: cp.Problem,
        form: ConicForm,
        solve_method: str,
        solver: lx.AbstractLinearSolver | None,
        polish: bool,
    ):
        self._problem: Any = problem
        self._program: Any = problem._cache.param_prog
        if self._program is None:
            raise ValueError(
                "problem: it is not DPP, so its data are not affine in the parameters; "
                "see problem.is_dpp()"
            )
        chain: Any = problem._cache.solving_chain
        self._reductions = chain.reductions
        self._dual_variables = dual_variables(problem)
        self.duals = Duals(problem, form.inverse_data, form.x.size, form.y.size)
        self._parameters: list[Any] = problem.parameters()
        with jax.enable_x64(True):
            self._parametric = _parametric(self._program, form)
            qcp = _qcp(self._parametric, form)
            options = solve_method, solver, polish, 0.0, True
            self._operator, progress = qcp._derivative(*options)
            if is_inaccurate(progress):
                # Newton steps from the solver's solution have not helped: solve again.
                qcp = _solved_again(qcp)
                self._operator, progress = qcp._derivative(*options)
            warn_if_inaccurate(progress)

    def pull_back(self, gradients: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The gradients of the parameters, from those of variables and dual variables:
        the adjoint of `push_forward`, but for what `folded` says of symmetric parameters.
        """
        variables, m = self._program.variables, self._parametric.structure.m
        inner = pull_through(self._variables_forward, variables, gradients)
        dx = self._program.split_adjoint(inner)
        own = {leaf.id for leaf in self._dual_variables} & gradients.keys()
        dy = self.duals.adjoint({key: gradients[key] for key in own}) if own else None
        with jax.enable_x64(True):
            zero = np.zeros(m)
            data = self._operator.T.mv((dx, zero if dy is None else dy, zero))
            reduced = self._parametric.gradients(data)
        pulled = pull_through(self._parameters_forward, self._parameters, reduced)
        return {leaf.id: folded(leaf, pulled[leaf.id]) for leaf in self._parameters}

    def push_forward(self, deltas: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The changes of variables and dual variables, from those of the parameters."""
        direction = self.data_direction(deltas)
        with jax.enable_x64(True):
            dx, dy, _ = self._operator.mv(tuple(direction))
            pushed = self._program.split_solution(np.asarray(dx))
        return self._variables_forward(pushed) | self.duals.forward(np.asarray(dy))

    @property
    def parameters(self) -> set[int]:
        """The identifiers of those that the solution depends on."""
        return {parameter.id for parameter in self._parameters}

    def data_direction(self, deltas: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """How the stored entries of `(P, A, q, b)` change with the parameters."""
        return self._parametric.change(self._parameters_forward(deltas))

    def dual_values(self) -> dict[int, np.ndarray]:
        """Those of the solution at which the derivative is taken."""
        return self.duals.forward(np.asarray(self._operator.y))

    @cached_property
    def ranges(self) -> Ranges | None:
        """How far the data may move; None if that is not known, which takes linear
        constraints and data that are affine in the parameters (so no geometric program).
        """
        asked = self._problem._cache.key
        found = Ranges(self._parametric, self._operator)
        return found if found.is_polyhedral and not (asked and asked[1]) else None

    def _parameters_forward(self, deltas: Any) -> Any:
        """From CVXPY's parameters to those of the conic form."""
        for reduction in self._reductions:
            deltas = reduction.param_forward(deltas)
        return deltas

    def _variables_forward(self, deltas: Any) -> Any:
        """From the variables of the conic form to CVXPY's."""
        for reduction in reversed(self._reductions):
            deltas = reduction.var_forward(deltas)
        return deltas


def folded(leaf: Any, gradient: np.ndarray) -> np.ndarray:
    """The gradient of a parameter as CVXPY has it, from one that counts each entry by
    itself: at both of two symmetric places what changing both of them brings, conjugate
    below the diagonal, and zero where the parameter is always zero.
    """
    if any(leaf.attributes[kind] for kind in ("symmetric", "PSD", "NSD", "hermitian")):
        both = gradient + gradient.conj().T
        return np.where(np.eye(len(both), dtype=bool), gradient, both)
    if leaf.attributes["diag"]:
        return np.diag(np.diag(gradient))
    if leaf.attributes["sparsity"]:
        kept = np.zeros_like(gradient)
        kept[leaf.sparse_idx] = gradient[leaf.sparse_idx]
        return kept
    return gradient


def _solved_again(qcp: HostQCP) -> HostQCP:
    """With a solution to the smallest tolerance, if there is one."""
    structure = qcp.problem_structure
    data = (qcp.P_values, qcp.A_values, qcp.q, qcp.b)
    found = RESCUE.solve_batch(structure, [np.asarray(part)[None] for part in data], None)
    x, y, s = (np.asarray(part)[0] for part in found[:3])
    if not all(np.isfinite(part).all() for part in (x, y, s)):
        return qcp
    return HostQCP(qcp.P, qcp.A, qcp.q, qcp.b, x, y, s, structure)


def _qcp(parametric: ParametricForm, form: ConicForm) -> HostQCP:
    structure = parametric.structure
    P, A, q, b = parametric.data()
    P_matrix = structure.wrap(as_jax(np.array(P)), structure.P_pattern)
    A_matrix = structure.wrap(as_jax(np.array(A)), structure.A_pattern)
    return HostQCP(P_matrix, A_matrix, q, b, form.x, form.y, form.s, structure)


# Patterns are analysed once for a problem. A form knows nothing of its program, since it
# would keep it alive.
_FORMS: WeakKeyDictionary[Any, ParametricForm] = WeakKeyDictionary()


def _parametric(program: Any, form: ConicForm) -> ParametricForm:
    if program not in _FORMS:
        _FORMS[program] = ParametricForm(program, form.cone_dims, form.psd_order)
    return _FORMS[program]
