"""The truth at a solution of a QP that is unique, with multipliers that are not.

With `N` a basis of the directions in which the active constraints do not change,

    dx = -N (N'PN)^-1 N' dq,

whatever the multipliers are. At the vertex of a linear program that is zero.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg as sl

from .forward import Forward
from .problems import Problem


# Beyond, dense decompositions take longer than they are worth.
_LARGEST = 1500


class Face(NamedTuple):
    """The gradient with respect to `q` of `cotangent'x`; None where it is not known."""

    cotangent: np.ndarray
    q: np.ndarray | None

    def error(self, q: np.ndarray) -> float | None:
        """That of another one, relative to the cotangent: the gradient may be zero."""
        if self.q is None:
            return None
        return float(np.linalg.norm(q - self.q) / np.linalg.norm(self.cotangent))


def face(problem: Problem, forward: Forward) -> Face | None:
    """The truth at a solver's solution, if the problem is a QP."""
    if not problem.is_qp:
        return None
    cotangent = np.random.default_rng(1).normal(size=problem.n)
    if problem.n > _LARGEST:
        return Face(cotangent, None)
    return Face(cotangent, _gradient(problem, forward, cotangent))


def _gradient(
    problem: Problem, forward: Forward, cotangent: np.ndarray
) -> np.ndarray | None:
    y, s = forward.y, forward.s
    active = np.arange(problem.m) < problem.dims.get("z", 0)
    # A constraint of which neither number is clearly zero has no side.
    if np.any(~active & (np.minimum(y, s) > 1e-4 * np.maximum(y, s))):
        return None
    basis = sl.null_space(problem.A.toarray()[active | (y > s)], rcond=1e-9)
    reduced = basis.T @ problem.full_P @ basis
    if reduced.size and np.linalg.eigvalsh(reduced)[0] < 1e-9:
        return None  # not unique
    return -basis @ np.linalg.solve(reduced, basis.T @ cotangent)
