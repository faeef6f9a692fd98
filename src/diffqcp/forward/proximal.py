from .._checks import check_number
from ..derivative import Data
from ..linear_solve.auto import AutoSolver
from ..structure import AbstractQCPStructure
from ._base import AbstractForwardSolver, Found, Start
from ._proximal import minimise, Problem


class Proximal(AbstractForwardSolver):
    """The proximal method of multipliers, all of it inside XLA, for all cones."""

    max_steps: int = 300

    def __check_init__(self):
        check_number("max_steps", self.max_steps, above=0, integer=True)

    def solve(
        self, structure: AbstractQCPStructure, data: Data, start: Start | None
    ) -> Found:
        """From `start`, or from zero."""
        problem = Problem(
            structure, data, structure.dual_cone, AutoSolver(well_posed=True)
        )
        (x, y, s), _, status, steps = minimise(problem, start, self.max_steps)
        return Found(x, y, s, status, steps)
