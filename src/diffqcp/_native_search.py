"""The forward pass by the compiled extension: `diffqcp._search` decides when."""

from functools import partial

from . import _traced
from ._condition import compute_if
from ._scaling import Scaling
from .derivative import Data, Solution
from .forward import AbstractHostSolver, Clarabel, Found, Start


def search(
    call: _traced.Call,
    data: Data,
    start: Solution | None,
    forward: AbstractHostSolver | None,
    other: Clarabel | None,
) -> Found:
    """One call for all of the proximal method's part, or what comes before and after a
    solver on the host; and if that has not solved it, another solver.

    **Arguments:**

    - `forward`: a solver on the host in the place of the proximal method.
    - `other`: the solver for what is not solved, or None.
    """

    def ask(
        solver: AbstractHostSolver, data: Data, best: _traced.Candidate
    ) -> _traced.Candidate:
        scaled, units = _traced.equilibrate(call, data)
        x, y, s, report = best
        first = None  # who is asked first without a start gets none
        if start is not None:
            first = Start(Scaling(*units).scale(start), report[0] == 0)
        elif solver is other:
            first = Start((x, y, s), report[0] == 0)
        found = solver.solve(call.structure, scaled, first)
        return _traced.improve(call, data, best, found)

    best = _traced.find(call, data, start)
    if forward is not None:
        best = ask(forward, data, best)
    if other is not None:
        again = partial(ask, other)
        best = compute_if(best.report[0] > 0, again, (data, best), best)
    x, y, s, report = best
    return Found(x, y, s, report[1], report[2])
