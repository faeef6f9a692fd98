"""SCS as a forward solver. Needs the extra `solvers`."""

from typing import Any, ClassVar

import numpy as np
import scs

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


class SCS(AbstractHostSolver):
    """SCS, a first-order method for all cones, for large problems.

    (O'Donoghue, "Operator splitting for a homogeneous embedding of the linear
    complementarity problem", SIAM J. Optimization 31, 2021.) It starts from `start`, if
    that is given, and factorises once for problems whose matrices do not change. Its
    solutions are as accurate as its tolerance, and derivatives with them: leave `polish`
    on.

    **Arguments:**

    - `tol`: the tolerance, absolute and relative.
    - `max_iter`: the most iterations.
    - `threads`: how many problems of a batch are solved at a time. By default as many as
        there are cores.
    - `settings`: further settings of SCS, as pairs of a name and a value.

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """

    tol: float = 1e-4
    max_iter: int = 100_000
    threads: int | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    psd_order: ClassVar[PSDOrder] = "lower"
    own_duals: ClassVar[bool] = True

    def __check_init__(self):
        check_limits(self.tol, self.tol, self.max_iter, self.threads)

    def run(
        self,
        dims: dict[str, Any],
        problems: HostBatch,
        workspace: dict[str, Any],
    ) -> Found:
        """Keeps the solver object while the matrices stay the same."""
        return problems.each(lambda problem: _run(self, dims, problem, workspace))


def _run(
    options: SCS, dims: dict[str, Any], problem: HostProblem, workspace: dict[str, Any]
) -> Found:
    q, b = problem.q, problem.b
    matrices = np.concatenate([problem.P_data, problem.A_data])
    if workspace and np.array_equal(workspace["matrices"], matrices):
        workspace["solver"].update(b=b, c=q)
    else:
        data = {"P": problem.P, "A": problem.A, "b": b, "c": q}
        settings = {"eps_abs": options.tol, "eps_rel": options.tol, "verbose": False}
        settings |= {"max_iters": options.max_iter, **dict(options.settings)}
        cone = {key: value for key, value in dims.items() if np.size(value)}
        workspace["solver"] = scs.SCS(data, cone, **settings)
        workspace["matrices"] = matrices
    if problem.start is None:
        found = workspace["solver"].solve(warm_start=False)
    else:
        x, y, s = problem.start
        found = workspace["solver"].solve(warm_start=True, x=x, y=y, s=s)
    code, steps = found["info"]["status_val"], found["info"]["iter"]
    x, y, s = (np.asarray(found[name]) for name in "xys")
    status = _STATUSES.get(code, Status.NUMERICAL_TROUBLE)
    status = verdict(problem, status, x, y, s)
    if status in (Status.INFEASIBLE, Status.UNBOUNDED):
        return failed(q.size, b.size, status, steps)
    return Found(x, y, s, np.asarray(int(status)), np.asarray(steps))


# "Inaccurate" ones have reached the limit of iterations.
_STATUSES = {
    1: Status.SOLVED,
    2: Status.ITERATION_LIMIT,
    -1: Status.UNBOUNDED,
    -2: Status.INFEASIBLE,
    -6: Status.ITERATION_LIMIT,
    -7: Status.ITERATION_LIMIT,
}
