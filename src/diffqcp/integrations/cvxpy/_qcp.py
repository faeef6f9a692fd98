"""From a solved CVXPY problem to a QCP."""

import warnings
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from ...cones.psd import PSDOrder
from ...qcp import DeviceQCP, HostQCP
from ...structure import QCPStructureCPU, QCPStructureGPU
from ._conversions import as_bcoo, as_bcsr, cone_dims


def host_qcp(problem: cp.Problem) -> HostQCP:
    """A [`diffqcp.HostQCP`][] from a problem that CVXPY has solved.

    Takes the conic form that CVXPY gave to the solver, quadratic objective included,
    and the solution that the solver found. Nothing is solved again.

    **Arguments:**

    - `problem`: a `cvxpy.Problem` after `problem.solve(solver=cp.CLARABEL)` or
        `cp.SCS`.

    **Returns:**

    The QCP in CVXPY's conic form. Its `x` holds your variables and those that CVXPY
    has added, and `vjp` and `jvp` refer to the numbers in that form, not to CVXPY's
    parameters. The dtype is JAX's default: float32, unless `jax_enable_x64` is set.

    **Raises:** `TypeError` if `problem` is not a CVXPY problem. `ValueError` if it is
    not solved, has no solution, was solved by another solver or with `qcp=True`, is
    mixed-integer, uses a cone that diffqcp does not know, or if its parameters have
    changed since the solve. Warns if the solver calls its solution inaccurate.
    """
    form = conic_form(problem)
    P, A = as_bcoo(sp.triu(form.P)), as_bcoo(form.A)
    structure = QCPStructureCPU(P, A, form.cone_dims, psd_order=form.psd_order)
    return HostQCP(P, A, form.q, form.b, form.x, form.y, form.s, structure)


def device_qcp(problem: cp.Problem) -> DeviceQCP:
    """A [`diffqcp.DeviceQCP`][] from a problem that CVXPY has solved.

    Everything else, errors included, is as in
    [`diffqcp.integrations.cvxpy.host_qcp`][].
    """
    form = conic_form(problem)
    P, A = as_bcsr(form.P), as_bcsr(form.A)
    structure = QCPStructureGPU(P, A, form.cone_dims, psd_order=form.psd_order)
    return DeviceQCP(P, A, form.q, form.b, form.x, form.y, form.s, structure)


class ConicForm(NamedTuple):
    """What CVXPY gave to the solver, and the solution that it found."""

    P: Any
    A: Any
    q: np.ndarray
    b: np.ndarray
    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    cone_dims: dict[str, Any]
    psd_order: PSDOrder
    inverse_data: Any  # from which CVXPY makes its solution of the solver's


_PSD_ORDERS: dict[str, PSDOrder] = {"CLARABEL": "upper", "SCS": "lower"}


def conic_form(problem: cp.Problem) -> ConicForm:
    """The conic form of a solved problem; see `host_qcp`."""
    solver = _check_solved(problem)
    # Before the data are asked for: a change of settings would drop the solver's cache.
    x, y, s = _solution(problem, solver)
    data, inverse_data = _solver_data(problem, solver)
    q, b, A = np.asarray(data["c"]), np.asarray(data["b"]), sp.csc_array(data["A"])
    P = sp.csc_array(data.get("P", sp.csc_array((q.size, q.size))))
    _check_fit(P, A, q, b, x, y, s, 1e-3 if problem.status == cp.OPTIMAL else 0.1)
    cones = cone_dims(data["dims"])
    order = _PSD_ORDERS[solver]
    return ConicForm(P, A, q, b, x, y, s, cones, order, inverse_data)


def _check_solved(problem: cp.Problem) -> str:
    if not isinstance(problem, cp.Problem):
        raise TypeError(f"problem: expected a cvxpy.Problem, got {type(problem)}")
    if problem.is_mixed_integer():
        raise ValueError("problem: it has integer variables, so no derivative")
    if problem.status is None:
        raise ValueError("problem: not solved yet; call problem.solve() first")
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise ValueError(f"problem: has no solution, its status is {problem.status!r}")
    if problem.solver_stats is None:
        raise ValueError(
            "problem: expected a convex or a geometric one, got a quasiconvex one solved "
            "with qcp=True, by bisection: it has no conic form of its own"
        )
    solver = problem.solver_stats.solver_name
    if solver not in _PSD_ORDERS:
        raise ValueError(
            f"problem: expected a solution by one of {sorted(_PSD_ORDERS)}, got one by "
            f"{solver}; solve with problem.solve(solver=cp.CLARABEL)"
        )
    if problem.status == cp.OPTIMAL_INACCURATE:
        warnings.warn(
            f"problem: {solver} calls its solution inaccurate, and so is the derivative",
            stacklevel=4,
        )
    return solver


def _solution(
    problem: cp.Problem, solver: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if solver == "SCS":
        found: Any = problem.solver_stats.extra_stats
        return found["x"], found["y"], found["s"]
    # CVXPY keeps the Clarabel object, but not what it returned.
    found = problem._solver_cache[solver].get_solution()
    return np.array(found.x), np.array(found.z), np.array(found.s)


def _solver_data(problem: cp.Problem, solver: str) -> tuple[dict[str, Any], Any]:
    # CVXPY's cache of the canonical form serves only the settings of the solve itself.
    key = problem._cache.key
    asked, gp, ignore_dpp, use_quad_obj = key if key else (solver, False, False, None)
    options = {} if use_quad_obj is None else {"use_quad_obj": use_quad_obj}
    data, _, inverse_data = problem.get_problem_data(
        asked, gp=gp, ignore_dpp=ignore_dpp, solver_opts=options
    )
    return data, inverse_data


def _check_fit(P, A, q, b, x, y, s, tol) -> None:
    """The residuals of a solution that a solver accepts are well below `tol`."""
    shapes_fit = A.shape == (s.size, x.size) and P.shape[0] == x.size
    if shapes_fit:
        Ax, Aty, Px = A @ x, A.T @ y, P @ x
        primal = _norm(Ax + s - b) / (1 + max(map(_norm, (Ax, s, b))))
        dual = _norm(Px + Aty + q) / (1 + max(map(_norm, (Px, Aty, q))))
        if max(primal, dual) < tol:
            return
    raise ValueError(
        "problem: its data do not fit the solution; were parameters changed, or was "
        "it canonicalised otherwise, after the solve?"
    )


def _norm(vector: np.ndarray) -> float:
    return float(np.max(np.abs(vector), initial=0))
