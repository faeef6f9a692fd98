from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..cones.psd import PSDOrder
from ._base import Found, Status
from ._host import AbstractHostSolver, check_threads, failed, HostBatch, HostProblem


class Function(AbstractHostSolver):
    """Any solver, as a plain Python function of NumPy and SciPy arrays.

    **Arguments:**

    - `function`: takes `P` (its upper triangle, `scipy.sparse.csc_array`), `A` (likewise
        CSC), `q` and `b`, all in float64, and the cones as an SCS-style dictionary,
        with PSD matrices by their lower triangles. Returns `(x, y, s)`, or None if it
        finds no solution; so does NaN.
    - `threads`: in how many threads it is called for a batch. One by default.

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """

    function: Callable[..., tuple[Any, Any, Any] | None]
    threads: int | None = 1

    psd_order: ClassVar[PSDOrder] = "lower"
    own_duals: ClassVar[bool] = True

    def __check_init__(self):
        if not callable(self.function):
            raise TypeError(f"function: expected a function, got {self.function!r}")
        check_threads(self.threads)

    def run(
        self,
        dims: dict[str, Any],
        problems: HostBatch,
        workspace: dict[str, Any],
    ) -> Found:
        """Calls the function for each."""
        del workspace
        return problems.each(lambda problem: _run(self.function, dims, problem))


def _run(
    function: Callable[..., Any], dims: dict[str, Any], problem: HostProblem
) -> Found:
    q, b = problem.q, problem.b
    solution: Any = function(problem.P, problem.A, q, b, dims)
    if solution is None:
        return failed(q.size, b.size, Status.NUMERICAL_TROUBLE)
    if not isinstance(solution, (tuple, list)) or len(solution) != 3:
        raise TypeError(
            f"function: expected (x, y, s) or None, got a {type(solution).__name__}"
        )
    x, y, s = (np.asarray(part, np.float64) for part in solution)
    for name, part, size in (("x", x, q.size), ("y", y, b.size), ("s", s, b.size)):
        if part.shape != (size,):
            raise ValueError(
                f"function: expected {name} of shape {(size,)}, got {part.shape}"
            )
    # The slack of a bound that is infinite is infinite too.
    if not np.all(np.isfinite([*x, *y])) or np.any(np.isnan(s)):
        return failed(q.size, b.size, Status.NUMERICAL_TROUBLE)
    return Found(x, y, s, np.asarray(int(Status.SOLVED)), np.asarray(0))
