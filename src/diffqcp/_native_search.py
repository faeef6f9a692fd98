"""The forward pass by the compiled extension: `diffqcp._search` decides when."""

import jax.lax as lax

from . import _traced
from .derivative import Data, Solution
from .forward import Clarabel, Found, Start


def search(
    call: _traced.Call, data: Data, start: Solution | None, other: Clarabel | None
) -> Found:
    """One call for all of the proximal method's part, and a loop, which usually takes no
    step, for what it has not solved.

    **Arguments:**

    - `other`: the solver for that, or None.
    """
    best = _traced.find(call, data, start)
    if other is not None:

        def again(first: _traced.Candidate) -> _traced.Candidate:
            # The barrier makes the data depend on the state of the loop; otherwise the
            # compiler would move the scaling out of the loop, and always do it.
            own, first = lax.optimization_barrier((data, first))
            scaled, _ = _traced.equilibrate(call, own)
            x, y, s, report = first
            settled = Start((x, y, s), report[0] == 0)
            found = other.solve(call.structure, scaled, settled)
            return _traced.improve(call, data, first, found)

        best = lax.while_loop(lambda best: best.report[0] > 0, again, best)
    x, y, s, report = best
    return Found(x, y, s, report[1], report[2])
