"""The forward pass by the compiled extension: `diffqcp._search` decides when."""

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from . import _traced
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
    solver on the host; and a loop, which usually takes no step, for what is not solved.

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

        def unfinished(state: tuple[_traced.Candidate, Bool[Array, ""]]) -> Array:
            best, asked = state
            return ~asked & (best.report[0] > 0)

        def again(state: tuple[_traced.Candidate, Bool[Array, ""]]) -> tuple:
            # The barrier makes the data depend on the state of the loop; otherwise the
            # compiler would move the scaling out of the loop, and always do it.
            own, best = lax.optimization_barrier((data, state[0]))
            return ask(other, own, best), jnp.asarray(True)

        best, _ = lax.while_loop(unfinished, again, (best, jnp.asarray(False)))
    x, y, s, report = best
    return Found(x, y, s, report[1], report[2])
