"""How far the data may move until other constraints are active.

Let the data be `d + t d'`. While the same rows are active, the solution is that of

    P x + A_a'y_a = -q,   A_a x = b_a,                                                (1)

with `a` for the equalities and the active inequalities, and it is optimal as long as

    y_i >= 0 for active inequalities,   s_i = b_i - A_i'x >= 0 for the others.        (2)

The numbers in (2) are called margins here. If only `q` and `b` move, they are affine in
`t`, and two divisions give the first one that vanishes. If `P` or `A` moves, they are
rational functions; then (1) is solved again at each of a few values of `t`, steps of
Newton's method towards the nearest predicted zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp
from scipy.optimize import brentq

from ...derivative import SolutionDerivative
from ._parametric import ParametricForm


# What rounding leaves of a margin, of a slope or of a residual that is zero; Clarabel's
# solutions, polished, are exact to a few units less than that.
_ZERO = 1e-9
# Equations (1) are solved by a dense factorisation, up to this many.
_MOST_EQUATIONS = 500
_FAR = 1e9


class Ranges:
    """How far `t` may go, at a solution, in directions of the data.

    **Arguments:**

    - `parametric`: the conic form.
    - `operator`: the derivative at the solution.
    """

    def __init__(self, parametric: ParametricForm, operator: SolutionDerivative):
        self._operator = operator
        structure = parametric.structure
        dims = parametric.cone_dims
        self.is_polyhedral = not any(dims[key] for key in dims if key not in ("z", "l"))
        self._matrices = structure.P_pattern, structure.A_pattern
        self._data = [np.asarray(part) for part in parametric.data()]
        P, A = self._as_matrices(*self._data[:2])
        x, y = np.asarray(operator.x), np.asarray(operator.y)
        s = self._data[3] - A @ x
        equalities = np.arange(structure.m) < dims["z"]
        self._binding = equalities | (y > s)
        self._inequalities = ~equalities
        self._scales = [1 + np.abs(part).max(initial=0) for part in (x, y, s)]
        margins = np.where(self._binding, y, s)
        self._margins = np.maximum(margins, 0)[self._inequalities]
        self._P, self._A = P, A

    def along(self, direction: list[np.ndarray]) -> tuple[float, float]:
        """The lowest and the highest `t`.

        **Arguments:**

        - `direction`: `(dP, dA, dq, db)`, of the stored entries.

        **Returns:** `(0, 0)` at a kink. NaN where it is not known: if `P` or `A` moves
        and the equations (1) are many, or have several solutions.
        """
        with jax.enable_x64(True):
            change = [np.asarray(part) for part in self._operator.mv(tuple(direction))]
        if not self._is_solved(direction, change):
            return 0.0, 0.0
        if not (np.any(direction[0]) or np.any(direction[1])):
            slopes = np.where(self._binding, change[1], change[2])[self._inequalities]
            scale = max(np.abs(part).max(initial=0) for part in change[1:])
            slopes[np.abs(slopes) <= _ZERO * scale] = 0
            margins = self._margins
            margins = np.where(margins <= _ZERO * max(self._scales[1:]), 0, margins)
            return -_first_zero(margins, -slopes), _first_zero(margins, slopes)
        if len(self._data[2]) + np.count_nonzero(self._binding) > _MOST_EQUATIONS:
            return np.nan, np.nan
        margins = self._curved(direction)
        if not np.allclose(margins(0.0)[0], self._margins, rtol=1e-6, atol=1e-6):
            return np.nan, np.nan  # one of several multipliers, and another one here
        return -_follow(margins, -1), _follow(margins, 1)

    def _is_solved(self, direction: list[np.ndarray], change: list[np.ndarray]) -> bool:
        """Whether the solution can follow. With redundant active rows, or with several
        solutions, it may be that no change of it keeps the same rows active, and `change`
        is then one in the sense of least squares.
        """
        dx, dy, ds = change
        dP, dA = self._as_matrices(*direction[:2])
        x, y = np.asarray(self._operator.x), np.asarray(self._operator.y)
        dual = self._P @ dx + self._A.T @ dy + dP @ x + dA.T @ y + direction[2]
        off = np.concatenate([dual, ds[self._binding], dy[~self._binding]])
        scale = sum(np.abs(part).max(initial=0) for part in (*change, *direction))
        return bool(np.abs(off).max(initial=0) <= 1e-7 * scale)

    def _curved(self, direction: list[np.ndarray]) -> Callable[[float], Any]:
        """The margins and their slopes as a function of `t`, from (1)."""
        dP, dA = self._as_matrices(*direction[:2])
        dq, db = direction[2:]
        q, b = self._data[2:]
        a, n = self._binding, q.size

        def system(P: Any, A: Any) -> np.ndarray:
            A_a = A[a].toarray()
            zero = np.zeros((len(A_a), len(A_a)))
            return np.block([[P.toarray(), A_a.T], [A_a, zero]])

        K1 = system(dP, dA)
        r1 = np.concatenate([-dq, db[a]])

        def margins(t: float) -> Any:
            A = self._A + t * dA
            K = system(self._P + t * dP, A)
            r = np.concatenate([-q - t * dq, b[a] + t * db[a]])
            try:
                z = np.linalg.solve(K, r)
                dz = np.linalg.solve(K, r1 - K1 @ z)
            except np.linalg.LinAlgError:
                return np.full((2, self._margins.size), -np.inf)  # no solution here
            value, slope = np.zeros((2, b.size))
            value[a], slope[a] = z[n:], dz[n:]
            x, dx, free = z[:n], dz[:n], ~a
            value[free] = (b + t * db - A @ x)[free]
            slope[free] = (db - dA @ x - A @ dx)[free]
            return np.stack([value, slope])[:, self._inequalities]

        return margins

    def _as_matrices(self, P: np.ndarray, A: np.ndarray) -> tuple[Any, Any]:
        """From stored entries; all of `P`."""
        P_pattern, A_pattern = self._matrices
        upper = sp.csr_array((P, (P_pattern.rows, P_pattern.cols)), shape=P_pattern.shape)
        full = upper + sp.triu(upper, 1).T
        return sp.csr_array(full), sp.csr_array(
            (A, (A_pattern.rows, A_pattern.cols)), shape=A_pattern.shape
        )


def _first_zero(margins: np.ndarray, slopes: np.ndarray) -> float:
    """The least `t >= 0` at which `margins + t * slopes` has a zero, or inf."""
    falling = slopes < 0
    return float(np.min(margins[falling] / -slopes[falling], initial=np.inf))


def _follow(margins: Callable[[float], Any], sign: int) -> float:
    """The least `t >= 0` at which an element of `margins(sign * t)` becomes negative.

    Each step goes as far as the slopes predict. If no margin is negative there, the next
    step starts there; if one is, bisection finds where it became so.
    """
    t, value, slope = 0.0, *margins(0.0)
    tolerance = _ZERO * (1 + np.abs(value).max(initial=0))

    def least(t: float) -> float:
        return float(margins(sign * t)[0].min(initial=np.inf)) + tolerance

    for _ in range(100):
        step = min(_first_zero(np.maximum(value, 0), sign * slope), 1 + 2 * t)
        if step <= 1e-12 * (1 + t):
            return t
        if least(t + step) < 0:
            root: Any = brentq(least, t, t + step, xtol=1e-14) if least(t) > 0 else t
            return float(root)
        t += step
        if t > _FAR:
            return np.inf
        value, slope = margins(sign * t)
    return t
