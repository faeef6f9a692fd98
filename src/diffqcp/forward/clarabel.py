from typing import Any, ClassVar

import clarabel as _clarabel
import numpy as np

from ..cones.psd import PSDOrder
from ._base import Found, Status
from ._host import (
    AbstractHostSolver,
    check_limits,
    failed,
    HostBatch,
    HostProblem,
    verdict,
)


clarabel: Any = _clarabel  # it has no type information


class Clarabel(AbstractHostSolver):
    """Clarabel, an interior-point method for all cones: the default.

    (Goulart and Chen, "Clarabel: an interior-point solver for conic programs with
    quadratic objectives", 2024.) The solver object with its symbolic factorisation is
    made once for a structure and a thread, and updated in place for new values.

    **Arguments:**

    - `tol`: the tolerance of residuals and duality gap, absolute and relative. By default
        Clarabel's own, from which polishing reaches rounding errors. Without polishing
        errors of the solution are errors of the derivative: take 1e-10 or less, which
        costs an iteration or two.
    - `accept`: if rounding errors end the solve before `tol` is reached, a solution with
        this tolerance counts as solved.
    - `max_iter`: the most iterations.
    - `threads`: how many problems of a batch are solved at a time. By default as many as
        there are cores.
    - `settings`: further settings of Clarabel, as pairs of a name and a value.
    - `reuse`: whether the solver object is updated for the next problem. If not, it is
        made anew, and the last digits of a solution depend on its own problem alone.

    **Raises:** `TypeError` or `ValueError`, naming the argument, for options without
    sense, and for a setting that Clarabel does not have.
    """

    tol: float = 1e-8
    accept: float = 1e-7
    max_iter: int = 200
    threads: int | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    reuse: bool = True

    psd_order: ClassVar[PSDOrder] = "upper"
    own_duals: ClassVar[bool] = False

    def __check_init__(self):
        check_limits(self.tol, self.accept, self.max_iter, self.threads)
        known = clarabel.DefaultSettings()
        unknown = [name for name, _ in self.settings if not hasattr(known, name)]
        if unknown:
            raise ValueError(f"settings: Clarabel has none of the name {unknown[0]!r}")

    def run(
        self,
        dims: dict[str, Any],
        problems: HostBatch,
        workspace: dict[str, Any],
    ) -> Found:
        """Updates the solver object and solves, one after the other."""
        return problems.each(lambda problem: _run(self, dims, problem, workspace))


def _run(
    options: Clarabel,
    dims: dict[str, Any],
    problem: HostProblem,
    workspace: dict[str, Any],
) -> Found:
    """One problem. If it fails with the solver object of others, it is tried again with
    an object of its own, whose scaling is not that of other values.
    """
    q, b = problem.q, problem.b
    if options.reuse and "solver" in workspace:
        workspace["solver"].update(P=problem.P_data, q=q, A=problem.A_data, b=b)
        found = _found(workspace["solver"].solve(), problem)
        if found.status in _FINAL:
            return found
    workspace["solver"] = clarabel.DefaultSolver(
        problem.P, q, problem.A, b, _cones(dims), _settings(options)
    )
    return _found(workspace["solver"].solve(), problem)


_STATUSES = {
    "Solved": Status.SOLVED,
    "AlmostSolved": Status.SOLVED,
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
    "MaxIterations": Status.ITERATION_LIMIT,
    "MaxTime": Status.ITERATION_LIMIT,
}
_FINAL = (Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED)


def _settings(options: Clarabel) -> Any:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    # Both change the pattern with the values, and then nothing can be updated.
    settings.presolve_enable = settings.chordal_decomposition_enable = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = options.tol
    settings.reduced_tol_gap_abs = settings.reduced_tol_gap_rel = options.accept
    settings.reduced_tol_feas = options.accept
    settings.max_iter = options.max_iter
    for name, value in options.settings:
        setattr(settings, name, value)
    return settings


def _found(solution: Any, problem: HostProblem) -> Found:
    status = _STATUSES.get(str(solution.status), Status.NUMERICAL_TROUBLE)
    x, y, s = (np.asarray(part) for part in (solution.x, solution.z, solution.s))
    status = verdict(problem, status, x, y, s)
    if status in (Status.INFEASIBLE, Status.UNBOUNDED):
        return failed(problem.q.size, problem.b.size, status, solution.iterations)
    return Found(x, y, s, np.asarray(int(status)), np.asarray(solution.iterations))


def _cones(dims: dict[str, Any]) -> list[Any]:
    cones = [clarabel.ZeroConeT(dims["z"])] if dims["z"] else []
    if dims["l"]:
        cones.append(clarabel.NonnegativeConeT(dims["l"]))
    cones += [clarabel.SecondOrderConeT(size) for size in dims["q"]]
    cones += [clarabel.PSDTriangleConeT(size) for size in dims["s"]]
    cones += [clarabel.ExponentialConeT() for _ in range(dims["ep"])]
    cones += [clarabel.PowerConeT(alpha) for alpha in dims["p"]]
    return cones
