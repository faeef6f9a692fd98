import abc
import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from ..derivative import Data, Solution
from ..structure import AbstractQCPStructure


class Status(enum.IntEnum):
    """How a solve has ended. The `status` of a solution is one of these, as an integer:
    `Status(int(solution.status)).name`.
    """

    SOLVED = 0
    INFEASIBLE = 1
    """No `x` satisfies the constraints."""
    UNBOUNDED = 2
    """The objective has no lower bound: the dual problem is infeasible."""
    ITERATION_LIMIT = 3
    """The limit of iterations or of time was reached."""
    NUMERICAL_TROUBLE = 4
    """The solver could not go on."""
    NOT_FINITE = 5
    """The data are not finite."""
    INACCURATE = 6
    """A point was found, but not to rounding errors, and so its derivative may be wrong:
    neither polishing it nor solving again with a smaller tolerance has helped."""
    NOT_CONVEX = 7
    """`P` is not positive semidefinite. (It is looked at if it is dense.)"""
    WRONG_SIGN = 8
    """Of a program: multipliers are not in the dual cone."""
    SADDLE_POINT = 9
    """Of a program: the first-order conditions hold, but the objective has a direction of
    negative curvature."""
    WRONG_PATTERN = 10
    """Of a program: there are second derivatives, or derivatives of constraints, outside
    of the pattern that was given."""
    CLOSEST_FEASIBLE = 11
    """With `closest_feasible`: no `x` satisfies the constraints, and this is the solution
    for the closest right-hand side for which one does."""
    WEAKLY_INFEASIBLE = 12
    """With `closest_feasible`: no smallest shift was found. There is none, or the
    constraints are satisfied on the boundary of being infeasible only."""


SOLUTIONS = (Status.SOLVED, Status.CLOSEST_FEASIBLE)
"""The statuses that come with a solution to rounding errors."""


class Found(NamedTuple):
    """What a forward solver returns for one problem.

    - `x`, `y`, `s`: the solution, its dual and its slack: `(n,)`, `(m,)`, `(m,)`.
    - `status`: a [`diffqcp.Status`][]. If it is not `SOLVED`, the vectors are the last
        iterate, if there is one, from which polishing may still find the solution.
    - `iterations`: how many were taken.
    """

    x: Float[Array | np.ndarray, " n"]
    y: Float[Array | np.ndarray, " m"]
    s: Float[Array | np.ndarray, " m"]
    status: Real[Array | np.ndarray, ""]
    iterations: Real[Array | np.ndarray, ""]


class Start(NamedTuple):
    """A point to start from.

    - `solution`: `(x, y, s)`.
    - `exact`: whether that is the solution already, and there is nothing to do.
    """

    solution: Solution
    exact: Bool[Array | np.ndarray, ""]


class AbstractForwardSolver(eqx.Module):
    """Finds the solution of a QCP.

    A forward solver is a static part of a compiled program: its options are hashable
    values, never arrays.
    """

    @abc.abstractmethod
    def solve(
        self, structure: AbstractQCPStructure, data: Data, start: Start | None
    ) -> Found:
        """The solution for one problem, as a JAX computation.

        It runs under `jax.jit` and `jax.vmap`. It is never differentiated.

        **Arguments:**

        - `structure`: sizes, patterns, cones.
        - `data`: the stored values of `P`, those of `A`, `q` and `b`. Only the symmetric
            part of `P` counts.
        - `start`: where to start, or None. A solver may ignore it.

        **Raises:** `ValueError` if it cannot take such problems.
        """


class AbstractBatchSolver(AbstractForwardSolver):
    """A forward solver that can be called outside of JAX's transformations too."""

    @abc.abstractmethod
    def solve_batch(
        self, structure: AbstractQCPStructure, data: Sequence[Any], start: Start | None
    ) -> Found:
        """The solutions for a batch of problems.

        **Arguments:**

        - `structure`, `data`, `start`: as for `solve`, with one more axis first, that of
            the batch.

        **Returns:** for items that are not solved the last iterate, or vectors of NaN.
        """
