"""What a derivative rests on. It is read by people, so it is eager and in NumPy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ._differentiate import Values
from ._problem import is_known, problem_of
from ._structure_base import AbstractStructure
from .cones import AbstractCone, NonnegativeCone, PSDCone, SecondOrderCone, ZeroCone
from .cones.dims import cones_of
from .cones.psd import unpacking
from .sparsity import SparsityPattern
from .structure import AbstractQCPStructure


_Smoothed: TypeAlias = Callable[[float], np.ndarray]


@dataclass(frozen=True)
class Regularity:
    """What the derivative of a solution rests on.

    **Attributes:**

    - `margins`: for each kind of cone (the keys of `cone_dims`), the smallest distance of
        `y - s` to where the projection has a kink: how far the solution is from losing
        strict complementarity. It is exact for `l`, `q` and `s`, and right within a
        factor of 3 for the others.
    - `rank_deficiency`: the number of eigenvalues of `K` that are zero.
    - `condition`: the largest over the smallest of the others, in absolute value.
    - `primal`, `dual`, `gap`: the residuals `A x + s - b`, `P x + A'y + q` in the largest
        norm, and `|y's|`.
    - `differentiable`: whether the solution map has a derivative here, as far as the
        numbers can tell: margins below ten times the root of the largest residual are
        not told from zero.
    - `verdict`: all of this in words.
    """

    margins: dict[str, float]
    rank_deficiency: int
    condition: float
    primal: float
    dual: float
    gap: float
    differentiable: bool
    verdict: str


def examine(structure: AbstractQCPStructure, values: Values) -> Regularity:
    """See `AbstractQCP.regularity`."""
    check_order(structure)
    eps = float(jnp.finfo(values.x.dtype).eps)
    P, A, q, b, x, y, s = (np.asarray(part, np.float64) for part in values)
    v = y - s
    P = _dense(structure.P_full, P[structure.P_source])
    A = _dense(structure.A_pattern, A)
    matrix = _matrix(structure, P, A, v)
    sizes = np.sort(np.abs(np.linalg.eigvalsh(matrix)))
    zero = sizes <= eps**0.6 * sizes[-1] if sizes.size else np.zeros(0, bool)
    regular = sizes[~zero]
    condition = float(regular[-1] / regular[0]) if regular.size else 1.0
    margins: dict[str, float] = {}
    for key, margin in _margins(structure, v):
        margins[key] = min(margin, margins.get(key, np.inf))

    def largest(vector) -> float:
        return float(np.max(np.abs(vector), initial=0))

    residuals = (
        largest(A @ x + s - b),
        largest(P @ x + A.T @ y + q),
        float(abs(y @ s)),
    )
    scale = max(1.0, largest(v))
    # At a kink `y` and `s` both vanish, and their errors are the roots of `y's`.
    resolved = max(eps**0.4 * scale, 10 * max(residuals) ** 0.5)
    kinks = [key for key, margin in margins.items() if margin <= resolved]
    deficiency = int(np.sum(zero))
    verdict = _verdict(kinks, deficiency, condition, max(residuals), scale, resolved)
    good = not kinks and deficiency == 0
    return Regularity(margins, deficiency, condition, *residuals, good, verdict)


def check_order(structure: AbstractStructure) -> None:
    """**Raises:** `ValueError` if the eigenvalues of `K` would take too long."""
    if structure.n + structure.m > _LARGEST:
        raise ValueError(
            f"regularity: expected n + m of at most {_LARGEST}, since it takes the "
            f"eigenvalues of K, got {structure.n + structure.m}"
        )


_LARGEST = 3000


def _dense(pattern: SparsityPattern, values: np.ndarray) -> np.ndarray:
    matrix = np.zeros(pattern.shape)
    matrix[pattern.rows, pattern.cols] = values
    return matrix


def _matrix(
    structure: AbstractQCPStructure, P: np.ndarray, A: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """`K` at `v`."""
    if not is_known(structure):
        D = structure.dual_cone.jacobian(jnp.asarray(v))
        lam = np.asarray(D.eigenvalues)
        rows = jax.vmap(D.eigenvectors.transpose_mv)(jnp.asarray(A.T))
    else:
        problem = problem_of(structure)
        lam, frames = problem.jacobian(v)
        rows = [problem.rotate_back(frames, row) for row in np.ascontiguousarray(A.T)]
    coupling = np.sqrt(lam) * np.reshape(np.asarray(rows), A.T.shape)
    return np.block([[P, coupling], [coupling.T, np.diag(lam - 1)]])


def _verdict(
    kinks: list[str],
    deficiency: int,
    condition: float,
    residual: float,
    scale: float,
    resolved: float,
) -> str:
    parts = []
    if kinks:
        parts.append(
            f"Strict complementarity fails in the cones {kinks}, as far as can be told: "
            "a constraint is about to change between active and inactive, and then there "
            "are one-sided derivatives only. (With the residuals of this solution, "
            f"margins below {resolved:.0e} are not told from zero.)"
        )
    if deficiency:
        parts.append(
            f"K has {deficiency} zero eigenvalues: the solution or its multipliers are "
            "not unique, or active constraints depend on each other. What is returned is "
            "built on the least-squares solution."
        )
    if not parts:
        parts.append("The solution map is differentiable here.")
        if condition > 1e8:
            parts.append(f"But K is nearly singular: its condition is {condition:.0e}.")
    if residual > 1e-6 * scale:
        parts.append(
            f"The solution is not accurate, nor is the derivative: the largest residual "
            f"is {residual:.0e}."
        )
    return " ".join(parts)


def _margins(
    structure: AbstractQCPStructure, v: np.ndarray
) -> Iterator[tuple[str, float]]:
    small, start = _SmallCones(structure, v), 0
    for key, cone in cones_of(structure.dims, structure.psd_order):
        part = v[start : start + cone.dim]
        if key in ("ep", "ed", "p"):
            yield key, _small_margin(part, *small.at(start, _projected(structure, cone)))
        elif isinstance(cone, NonnegativeCone):
            yield key, float(np.abs(part).min())
        elif isinstance(cone, SecondOrderCone):
            r = np.linalg.norm(part[1:])
            yield key, float(min(abs(part[0] - r), abs(part[0] + r)) / np.sqrt(2))
        elif isinstance(cone, PSDCone):
            position, scale = unpacking(cone.size, cone.order)
            matrix = part[position] * scale
            yield key, float(np.abs(np.linalg.eigvalsh(matrix)).min())
        elif not isinstance(cone, ZeroCone):
            yield key, _smoothing_margin(_projected(structure, cone), part)
        start += cone.dim


def _projected(structure: AbstractQCPStructure, cone: AbstractCone) -> AbstractCone:
    """The factor of `K*` that a cone of the dictionary stands for."""
    return cone.dual() if structure.onto_dual else cone


def _smoothing_margin(cone: AbstractCone, v: np.ndarray) -> float:
    """Of any cone. Smoothed by a small `mu`, `D` moves by `mu` over the square of the
    distance to the nearest kink, up to a factor; `mu` is made to suit that distance.
    """
    point = jnp.asarray(v)
    exact = cone.jacobian(point).as_matrix()
    smoothed = jax.jit(lambda mu: cone.smoothed_jacobian(point, mu).as_matrix())
    distance = float(np.linalg.norm(v))
    for _ in range(_SMOOTHINGS):
        mu = 1e-6 * distance**2
        moved = float(np.linalg.norm(np.asarray(smoothed(mu) - exact), 2))
        distance = min(distance, (mu / max(moved, 1e-12)) ** 0.5)
    return distance


_SMOOTHINGS = 6


class _SmallCones:
    """The exponential and the power cones of a structure, at a point."""

    def __init__(self, structure: AbstractQCPStructure, v: np.ndarray):
        self._v, self._inverse = v, structure.dual_cone.inverse
        self._problem = problem_of(structure) if is_known(structure) else None
        if self._problem is not None:
            self._projection = self._problem.project(v)

    def at(self, start: int, cone: AbstractCone) -> tuple[np.ndarray, _Smoothed]:
        """The projection onto a cone of `K*` whose first row this is, and the eigenvalues
        of `D` smoothed, as a function of the parameter.
        """
        problem, v = self._problem, self._v
        if problem is None:
            part = jnp.asarray(v[start : start + 3])

            def smoothed(mu: float) -> np.ndarray:
                return np.asarray(cone.smoothed_jacobian(part, mu).eigenvalues)

            return np.asarray(cone.project(part)), smoothed
        first = start if self._inverse is None else int(self._inverse.value[start])

        def compiled(mu: float) -> np.ndarray:
            return problem.jacobian(v, mu)[0][first : first + 3]

        return self._projection[start : start + 3], compiled


def _small_margin(v: np.ndarray, p: np.ndarray, smoothed: _Smoothed) -> float:
    """Of the exponential and the power cone. Outside the cone and its polar the kinks are
    where the projection or the rest is zero. Inside one of them, the Dikin ellipsoid of
    the barrier tells the distance to its boundary: `D` smoothed by a small `mu` has
    eigenvalues with `mu lam / (1 - lam)` (or its inverse in the polar cone) the squares
    of the axes.
    """
    size, *lengths = (float(np.linalg.norm(part)) for part in (v, p, v - p))
    if min(lengths) > 1e-12 * size or size == 0:
        return min(lengths)
    mu = 1e-6 * size**2
    eigenvalues = smoothed(mu)
    if lengths[0] < lengths[1]:
        eigenvalues = 1 - eigenvalues
    ratios = eigenvalues / np.maximum(1 - eigenvalues, 1e-300)
    return float(np.sqrt(mu * max(ratios.min(), 0)))
