"""Truth that shares no code and no formula with the package.

Projections in NumPy: onto the exponential and the power cone by minimising the distance
over a family of boundary rays and the faces. Solutions by Newton's method on the
optimality conditions, with the projection's Jacobian by finite differences. Derivatives
by fourth-order central differences of such solutions.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq


def project(dims: dict[str, Any], v: np.ndarray, order: str = "lower") -> np.ndarray:
    """Onto the cone that an SCS-style dictionary describes."""
    return np.concatenate(
        [block(v[rows]) for rows, block in _blocks(dims, order)] or [np.zeros(0)]
    )


def project_dual(dims: dict[str, Any], v: np.ndarray, order: str = "lower") -> np.ndarray:
    """Onto the dual cone: Moreau's decomposition."""
    return v + project(dims, -v, order)


def _blocks(dims: dict[str, Any], order: str):
    start = 0

    def rows(size):
        nonlocal start
        start += size
        return slice(start - size, start)

    yield rows(dims.get("z", 0)), np.zeros_like
    yield rows(dims.get("l", 0)), lambda v: np.maximum(v, 0)
    for dim in dims.get("q", []):
        yield rows(dim), _second_order
    for size in dims.get("s", []):
        dim = size * (size + 1) // 2
        yield rows(dim), lambda v, size=size: _psd(v, size, order)
    for _ in range(dims.get("ep", 0)):
        yield rows(3), exponential
    for _ in range(dims.get("ed", 0)):
        yield rows(3), _dual_of(exponential)
    for alpha in dims.get("p", []):
        block = lambda v, alpha=alpha: power(v, abs(alpha))  # noqa: E731
        yield rows(3), block if alpha > 0 else _dual_of(block)


def _dual_of(block: Callable) -> Callable:
    return lambda v: v + block(-v)


def _second_order(v: np.ndarray) -> np.ndarray:
    if v.size == 0:
        return v
    r = np.linalg.norm(v[1:])
    if v[0] >= r:
        return v
    if v[0] <= -r:
        return np.zeros_like(v)
    return (v[0] + r) / 2 * np.concatenate([[1.0], v[1:] / r])


def _psd(v: np.ndarray, size: int, order: str) -> np.ndarray:
    matrix = np.zeros((size, size))
    entries = [
        (i, j)
        for j in range(size)
        for i in (range(j, size) if order == "lower" else range(j + 1))
    ]
    for value, (i, j) in zip(v, entries, strict=True):
        matrix[i, j] = matrix[j, i] = value if i == j else value / np.sqrt(2)
    values, basis = np.linalg.eigh(matrix)
    kept = (basis * np.maximum(values, 0)) @ basis.T
    return np.array([kept[i, j] * (1 if i == j else np.sqrt(2)) for i, j in entries])


def exponential(v: np.ndarray) -> np.ndarray:
    """`y exp(x/y) <= z`: rays `(rho, 1, exp(rho))` and the face `y = 0`."""
    x, y, z = v
    if y > 0 and z > 0 and x <= y * np.log(z / y):
        return v
    face = np.array([min(x, 0), 0, max(z, 0)])
    return _closest(v, [face], _exponential_rays())


def power(v: np.ndarray, alpha: float) -> np.ndarray:
    """`x^alpha y^(1-alpha) >= |z|`: rays `(e^((1-alpha)w), e^(-alpha w), +-1)`, axes."""
    x, y, z = v
    if x >= 0 and y >= 0 and x**alpha * y ** (1 - alpha) >= abs(z):
        return v
    sign = -1.0 if z < 0 else 1.0
    faces = [np.array([max(x, 0), 0, 0]), np.array([0, max(y, 0), 0])]
    return _closest(v, faces, _power_rays(alpha, sign))


class _Rays(NamedTuple):
    """A family of rays, its tangent, and its unit rays on a grid."""

    ray: Callable[[float], np.ndarray]
    tangent: Callable[[float], np.ndarray]
    grid: np.ndarray
    units: np.ndarray


def _tabulate(ray: Callable, tangent: Callable, grid: np.ndarray) -> _Rays:
    table = np.array([ray(w) for w in grid])
    units = table / np.linalg.norm(table, axis=1, keepdims=True)
    return _Rays(ray, tangent, grid, units)


@functools.cache
def _exponential_rays() -> _Rays:
    return _tabulate(
        lambda rho: np.array([rho, 1, np.exp(rho)]),
        lambda rho: np.array([1, 0, np.exp(rho)]),
        np.linspace(-60, 30, 2000),
    )


@functools.cache
def _power_rays(alpha: float, sign: float) -> _Rays:
    def ray(w):
        return np.array([np.exp((1 - alpha) * w), np.exp(-alpha * w), sign])

    def tangent(w):
        up, down = np.exp((1 - alpha) * w), np.exp(-alpha * w)
        return np.array([(1 - alpha) * up, -alpha * down, 0])

    return _tabulate(ray, tangent, np.linspace(-60, 60, 2000))


def _closest(v: np.ndarray, candidates: list[np.ndarray], rays: _Rays) -> np.ndarray:
    """The closest to `v` of the origin, the candidates and the rays."""

    def unit(w):
        direction = rays.ray(w)
        return direction / np.linalg.norm(direction)

    def slope(w):
        direction = unit(w)
        along = rays.tangent(w)
        along = along - direction * (direction @ along)
        return along @ v / np.linalg.norm(along)

    heights = rays.units @ v
    top = int(np.argmax(heights))
    if heights[top] > 0 and 0 < top < rays.grid.size - 1:
        low, high = rays.grid[top - 1], rays.grid[top + 1]
        if slope(low) > 0 > slope(high):
            direction = unit(brentq(slope, low, high, xtol=1e-15, rtol=1e-15))
            candidates = [*candidates, direction * (direction @ v)]
    candidates = [np.zeros(3), *candidates]
    return min(candidates, key=lambda p: np.linalg.norm(v - p))


class Problem(NamedTuple):
    """Dense data: `P` symmetric, `A`, `q`, `b`, and the cone."""

    P: np.ndarray
    A: np.ndarray
    q: np.ndarray
    b: np.ndarray
    dims: dict[str, Any]
    order: str = "lower"

    def shifted(self, d: "Problem", step: float) -> "Problem":
        return self._replace(
            P=self.P + step * d.P,
            A=self.A + step * d.A,
            q=self.q + step * d.q,
            b=self.b + step * d.b,
        )


def residual(problem: Problem, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Of the optimality conditions at `y = Pi(v)`, `s = Pi(v) - v`."""
    y = project_dual(problem.dims, v, problem.order)
    dual = problem.P @ x + problem.A.T @ y + problem.q
    return np.concatenate([dual, problem.A @ x + y - v - problem.b])


def solve(problem: Problem, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    """Newton's method from a nearby solution; `(x, y, s)` to a residual of 1e-12."""
    n, m = x.size, v.size
    for _ in range(30):
        r = residual(problem, x, v)
        if np.linalg.norm(r) < 1e-13:
            break
        D = _jacobian(problem, v)
        J = np.block([[problem.P, problem.A.T @ D], [problem.A, D - np.eye(m)]])
        delta = np.linalg.solve(J, -r)
        x, v = x + delta[:n], v + delta[n:]
    assert np.linalg.norm(residual(problem, x, v)) < 1e-12, "not solved"
    y = project_dual(problem.dims, v, problem.order)
    return x, y, y - v


def _jacobian(problem: Problem, v: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Of the projection onto the dual cone, by central differences."""
    columns = [
        project_dual(problem.dims, v + unit, problem.order)
        - project_dual(problem.dims, v - unit, problem.order)
        for unit in step * np.eye(v.size)
    ]
    return np.stack(columns, axis=1) / (2 * step)


def random_problem(
    dims: dict[str, Any], seed: int, n: int | None = None, order: str = "lower"
) -> tuple[Problem, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A well-conditioned problem and its exact, strictly complementary solution.

    Draws `v` and `x`, and sets `q` and `b` so that the optimality conditions hold.
    """
    rng = np.random.default_rng(seed)
    m = _size(dims)
    n = m + 2 if n is None else n
    A = rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.7)
    root = rng.normal(size=(n, n)) / np.sqrt(n)
    P = (root @ root.T + np.diag(rng.uniform(0.1, 1, n))) * (root + root.T > -0.5)
    P = P + n * 0.05 * np.eye(n)
    P = P + max(0, 0.05 - np.linalg.eigvalsh(P)[0]) * np.eye(n)  # convex, if n is small
    v, x = rng.normal(size=m), rng.normal(size=n)
    y = project_dual(dims, v, order)
    s = y - v
    return Problem(P, A, -(P @ x + A.T @ y), A @ x + s, dims, order), (x, y, s)


def _size(dims: dict[str, Any]) -> int:
    total = dims.get("z", 0) + dims.get("l", 0) + sum(dims.get("q", []))
    total += sum(k * (k + 1) // 2 for k in dims.get("s", []))
    return total + 3 * (dims.get("ep", 0) + dims.get("ed", 0) + len(dims.get("p", [])))


def random_direction(problem: Problem, seed: int) -> Problem:
    """A perturbation of the data on their pattern."""
    rng = np.random.default_rng(seed)
    dP = rng.normal(size=problem.P.shape) * (problem.P != 0)
    dA = rng.normal(size=problem.A.shape) * (problem.A != 0)
    dq, db = rng.normal(size=problem.q.shape), rng.normal(size=problem.b.shape)
    return problem._replace(P=dP + dP.T, A=dA, q=dq, b=db)


def differences(
    problem: Problem,
    solution: tuple[np.ndarray, np.ndarray, np.ndarray],
    direction: Problem,
    step: float = 1e-5,
) -> list[np.ndarray]:
    """The directional derivative of `(x, y, s)`, to about 1e-9."""
    x, y, s = solution

    def at(k):
        return solve(problem.shifted(direction, k * step), x, y - s)

    ends = zip(at(1), at(-1), at(2), at(-2), strict=True)
    return [(8 * (a - b) - (c - d)) / (12 * step) for a, b, c, d in ends]
