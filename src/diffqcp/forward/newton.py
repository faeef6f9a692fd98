from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .._accuracy import accurate_error
from .._checks import check_number
from .._newton import central_point, newton
from ..derivative import Data, Solution
from ..linear_solve.auto import AutoSolver
from ..structure import AbstractQCPStructure
from ._base import AbstractBatchSolver, Found, Start, Status
from .clarabel import Clarabel


class Newton(AbstractBatchSolver):
    """Semismooth Newton's method, and another solver where that does not get there.

    (Ali, Wong and Kolter, "A semismooth Newton method for fast, generic convex
    programming", ICML 2017.) From `start`, or from the point at which interior-point
    methods start, it mostly needs two to eight steps; from the solution for nearby data,
    one to three. A step costs as much as a derivative, and is taken for a whole batch at
    once, in XLA.

    Nothing makes it converge: it often does not for problems without a start whose `K`
    is singular there, such as linear programs. But a point whose residual is at the level
    of rounding errors is a solution, however it was found, and no other is taken. For the
    rest of a batch, and where there is no solution, `otherwise` is called.

    **Arguments:**

    - `otherwise`: the other solver; [`diffqcp.Clarabel`][] by default.
    - `max_steps`: the most steps.
    - `patience`: how many of them may fail to reduce the residual.

    **Raises:** `TypeError` or `ValueError`, naming the argument, if `otherwise` is no
    solver that runs on the host, and for limits without sense.
    """

    otherwise: AbstractBatchSolver = Clarabel()
    max_steps: int = 15
    patience: int = 3

    def __check_init__(self):
        if not isinstance(self.otherwise, AbstractBatchSolver):
            raise TypeError(
                "otherwise: expected a forward solver that runs on the host, such as "
                f"diffqcp.Clarabel(), got {self.otherwise!r}"
            )
        check_number("max_steps", self.max_steps, above=0, integer=True)
        check_number("patience", self.patience, above=-1, integer=True)

    def solve(
        self, structure: AbstractQCPStructure, data: Data, start: Start | None
    ) -> Found:
        """Newton's method, then the other solver."""
        if start is None:
            point = central_point(structure, data, self._linear_solver)
        else:
            point = start.solution
        solution, exact, steps = self._steps(structure, data, point)
        if start is not None:
            exact |= start.exact
        found = self.otherwise.solve(structure, data, Start(solution, exact))
        x, y, s = (
            jnp.where(exact, *parts) for parts in zip(solution, found[:3], strict=True)
        )
        status = jnp.where(exact, int(Status.SOLVED), found.status)
        return Found(x, y, s, status, jnp.where(exact, steps, found.iterations))

    def solve_batch(
        self, structure: AbstractQCPStructure, data: Sequence[Any], start: Start | None
    ) -> Found:
        """See `AbstractBatchSolver`."""
        if start is None:
            point = _central_points(self, structure, tuple(data))
        else:
            point = start.solution
        # Compiled apart, so that later calls with a start are not compiled anew.
        solution, exact, steps = _steps_batch(self, structure, tuple(data), point)
        exact, steps = np.asarray(exact), np.asarray(steps)
        if np.all(exact):
            status = np.full(exact.shape, int(Status.SOLVED), np.int32)
            x, y, s = solution
            return Found(x, y, s, status, steps)
        found = self.otherwise.solve_batch(structure, data, Start(solution, exact))
        return found._replace(iterations=np.where(exact, steps, found.iterations))

    @property
    def _linear_solver(self) -> lx.AbstractLinearSolver:
        # What is spent on a singular `K` is lost: the step is no good.
        return AutoSolver(well_posed=True)

    def _steps(self, structure: AbstractQCPStructure, data: Data, point: Solution) -> Any:
        limits = {"max_steps": self.max_steps, "patience": self.patience}
        solution, error, steps = newton(
            structure, data, point, self._linear_solver, **limits
        )
        return solution, error <= accurate_error(error.dtype), steps


@partial(jax.jit, static_argnums=(0, 1))
def _central_points(solver: Newton, structure: AbstractQCPStructure, data: Any) -> Any:
    def central(data):
        return central_point(structure, data, solver._linear_solver)

    return jax.vmap(central)(data)


@partial(jax.jit, static_argnums=(0, 1))
def _steps_batch(
    solver: Newton, structure: AbstractQCPStructure, data: Any, points: Any
) -> Any:
    def steps(data, point):
        return solver._steps(structure, data, point)

    return jax.vmap(steps)(data, points)
