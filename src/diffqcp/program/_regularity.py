"""What the derivative of a program's solution rests on: for people, so in NumPy."""

from dataclasses import dataclass

import numpy as np

from .._differentiate import Values
from .._regularity import examine, Regularity
from ..kkt import KKTOperator
from ..structure import AbstractQCPStructure


@dataclass(frozen=True)
class ProgramRegularity:
    """What the derivative of a program's solution rests on.

    **Attributes:**

    - `first_order`: a [`diffqcp.Regularity`][] of the local QCP: margins of strict
        complementarity, the rank and the condition of `K`, and the residuals: `primal` is
        that of the constraints, `dual` the gradient of the Lagrangian.
    - `dependent`: how many active constraints depend on the others.
    - `curvature`: the eigenvalues of the reduced Hessian: the curvature of the Lagrangian
        along the surface of the active constraints, the smallest first. Where cones are
        curved, it includes theirs.
    - `outside`: how far the multipliers are from `K*`.
    - `minimum`: whether the sufficient conditions of second order hold: all of
        `curvature` is positive.
    - `differentiable`: whether the solution has a derivative, as far as the numbers can
        tell.
    - `verdict`: all of this in words.
    """

    first_order: Regularity
    dependent: int
    curvature: np.ndarray
    outside: float
    minimum: bool
    differentiable: bool
    verdict: str


def examine_program(structure: AbstractQCPStructure, values: Values) -> ProgramRegularity:
    """See `Program.regularity`."""
    first_order = examine(structure, values)
    y, s = values.y, values.s
    kkt = KKTOperator(
        structure.P_matrix(values.P),
        structure.A_matrix(values.A),
        structure.dual_cone.jacobian(y - s),
    )
    n, K = structure.n, np.asarray(kkt.as_matrix(), np.float64)
    P, B, rest = K[:n, :n], K[n:, :n], -np.diag(K[n:, n:])
    straight = rest < _STRAIGHT
    curved = ~straight & (rest < 1)
    S = P + B[curved].T @ (B[curved] / rest[curved, None])
    _, sizes, rows = np.linalg.svd(B[straight])
    rank = int(np.sum(sizes > 1e-10 * max(sizes.max(initial=0), 1e-300)))
    Z = rows[rank:].T
    curvature = np.linalg.eigvalsh(Z.T @ S @ Z)
    dependent = int(straight.sum()) - rank
    outside = float(np.max(np.abs(y - structure.dual_cone.project(y)), initial=0))
    scale = 1 + float(np.max(np.abs(y), initial=0))
    least = 1e-9 * max(float(np.abs(P).max(initial=0)), 1e-300)
    minimum = bool(np.all(curvature > least))
    words = _verdict(curvature, least, dependent, outside > 1e-6 * scale)
    return ProgramRegularity(
        *(first_order, dependent, curvature, outside, minimum),
        first_order.differentiable and minimum and outside <= 1e-6 * scale,
        " ".join([*words, first_order.verdict]),
    )


_STRAIGHT = 1e-9


def _verdict(
    curvature: np.ndarray, least: float, dependent: int, outside: bool
) -> list[str]:
    parts = []
    if outside:
        parts.append("Multipliers are not in the dual cone: this is no minimum.")
    if np.any(curvature < -least):
        parts.append(
            f"The reduced Hessian has the eigenvalue {curvature[0]:.1e}: this is no "
            "minimum."
        )
    elif not np.all(curvature > least):
        parts.append(
            "The reduced Hessian is singular: the second-order conditions do not tell "
            "whether this is a minimum, and it need not be isolated."
        )
    if dependent:
        parts.append(f"{dependent} active constraints depend on the others.")
    return parts
