from .._checks import check_number
from ..derivative import Data
from ..linear_solve.auto import AutoSolver
from ..structure import AbstractQCPStructure
from ._base import AbstractForwardSolver, Found, Start
from ._proximal import minimise
from ._systems import Problem


class Proximal(AbstractForwardSolver):
    """The proximal method of multipliers, without a callback, for all cones: on CPUs by
    the compiled extension, if it is installed, else inside XLA.

    Its steps factorise systems that are never singular, so linear programs, dependent
    constraints and solutions that are not unique are no special cases, and it needs no
    start. From a nearby solution it takes few steps. Linear programs, and QPs that take
    more than eight steps, are solved by an interior-point method with the same systems.
    A step costs as much as a derivative; cold, five to twenty are usual. Badly scaled
    problems, and large ones with exponential cones, can take many more. Infeasible and
    unbounded problems end in that status, by certificates. Near the solution the steps
    are those of Newton's method, up to rounding errors. (Hermans, Themelis and Patrinos,
    "QPALM", 2022, and Bambade et al., "ProxQP", 2022, for QPs; Mehrotra, "On the
    implementation of a primal-dual interior point method", 1992. The
    [derivation](../derivation.md#infeasible-problems) has the formulas.)

    **Arguments:**

    - `max_steps`: the most steps.

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """

    max_steps: int = 300

    def __check_init__(self):
        check_number("max_steps", self.max_steps, above=0, integer=True)

    def solve(
        self, structure: AbstractQCPStructure, data: Data, start: Start | None
    ) -> Found:
        """From `start`, or from zero."""
        problem = Problem.make(structure, data, AutoSolver(well_posed=True))
        (x, y, s), _, status, steps = minimise(problem, start, self.max_steps)
        return Found(x, y, s, status, steps)
