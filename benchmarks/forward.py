"""Solutions by Clarabel, and the yardstick: what one of its iterations takes."""

import time
from typing import Any, NamedTuple

import clarabel
import numpy as np

from .problems import Problem


class Forward(NamedTuple):
    """A solution and what it took; `seconds` is without the set-up."""

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    status: str
    iterations: int
    tolerance: float
    setup: float
    seconds: float

    def report(self) -> dict[str, Any]:
        """The figures, without the solution."""
        figures = {
            key: value for key, value in self._asdict().items() if key not in "xys"
        }
        return figures | {"iteration": self.seconds / max(1, self.iterations)}


def cones(dims: dict[str, Any]) -> list[Any]:
    """Clarabel's cones for an SCS-style dictionary."""
    found = []
    if dims.get("z"):
        found.append(clarabel.ZeroConeT(dims["z"]))
    if dims.get("l"):
        found.append(clarabel.NonnegativeConeT(dims["l"]))
    found += [clarabel.SecondOrderConeT(dim) for dim in dims.get("q", [])]
    found += [clarabel.PSDTriangleConeT(size) for size in dims.get("s", [])]
    found += [clarabel.ExponentialConeT() for _ in range(dims.get("ep", 0))]
    found += [clarabel.PowerConeT(alpha) for alpha in dims.get("p", [])]
    return found


def solve(problem: Problem, budget: float = 1.0) -> Forward:
    """Solves with the tightest tolerance that Clarabel reaches.

    Its other settings are the default ones, but for one thread and for tests of
    infeasibility that are as tight. Times are medians over
    repeated solves, new set-ups, for about `budget` seconds.
    """
    for tolerance in (1e-10, 1e-9, 1e-8):
        attempt = _solve_once(problem, tolerance)
        if attempt.status == "Solved":
            break
    runs = [attempt]
    started = time.perf_counter()
    while time.perf_counter() - started < budget - runs[-1].seconds and len(runs) < 20:
        runs.append(_solve_once(problem, attempt.tolerance))
    return attempt._replace(
        setup=float(np.median([run.setup for run in runs])),
        seconds=float(np.median([run.seconds for run in runs])),
    )


def _solve_once(problem: Problem, tolerance: float) -> Forward:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    # All problems are feasible, but POWELL20 is not by the default tolerance.
    settings.tol_infeas_abs = settings.tol_infeas_rel = 1e-12
    started = time.perf_counter()
    solver = clarabel.DefaultSolver(
        problem.P, problem.q, problem.A, problem.b, cones(problem.dims), settings
    )
    ready = time.perf_counter()
    solution = solver.solve()
    done = time.perf_counter()
    return Forward(
        np.array(solution.x),
        np.array(solution.z),
        np.array(solution.s),
        str(solution.status),
        int(solution.iterations),
        tolerance,
        ready - started,
        done - ready,
    )
