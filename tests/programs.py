"""Programs with local solutions, and the truth about them.

The truth is in NumPy but for the gradients of the functions, and has nothing of the
package: Newton's method on

    grad f + J'y = 0,    c + s = 0    with y = Pi(v), s = Pi(v) - v

with the projection onto the dual cone of `tests.reference` and a Jacobian by differences.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .reference import project_dual


class Case(NamedTuple):
    """A program, its parameters, where to start, and `(x, y - s)` of the local solution
    that is to be found, to two digits.
    """

    objective: Callable[[Any, Any], Any]
    constraints: Callable[[Any, Any], Any] | None
    dims: dict[str, Any]
    theta: np.ndarray
    start: np.ndarray
    near: list[float]


def conditions(case: Case) -> Callable[..., np.ndarray]:
    """The residual as a function of `z = (x, v)` and `theta`."""
    constraints = case.constraints or (lambda x, theta: jnp.zeros(0))

    @jax.jit
    def lagrangian(x, y, theta):
        slope = jax.grad(lambda x: case.objective(x, theta) + y @ constraints(x, theta))
        return slope(x), constraints(x, theta)

    def residual(z, theta):
        x, v = np.split(z, [case.start.size])
        y = project_dual(case.dims, v)
        slope, c = lagrangian(x, y, theta)
        return np.concatenate([slope, np.asarray(c) + y - v])

    return residual


def refine(residual: Callable, z: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Newton's method from nearby, to rounding errors."""
    for _ in range(20):
        r = residual(z, theta)
        if np.abs(r).max() < 1e-13:
            break
        steps = 1e-6 * np.eye(z.size)
        columns = [
            (residual(z + d, theta) - residual(z - d, theta)) / 2e-6 for d in steps
        ]
        z = z - np.linalg.solve(np.stack(columns, axis=1), r)
    assert np.abs(residual(z, theta)).max() < 1e-11, "no solution"
    return z


def truth(case: Case, step: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """`(x, y, s)`, and its derivative with respect to `theta` by differences of fourth
    order.
    """
    residual = conditions(case)
    z = refine(residual, np.array(case.near), case.theta)

    def at(theta):
        moved = refine(residual, z, theta)
        x, v = np.split(moved, [case.start.size])
        y = project_dual(case.dims, v)
        return np.concatenate([x, y, y - v])

    def along(d):
        near = at(case.theta + d) - at(case.theta - d)
        far = at(case.theta + 2 * d) - at(case.theta - 2 * d)
        return (8 * near - far) / (12 * step)

    units = step * np.eye(case.theta.size)
    return at(case.theta), np.stack([along(d) for d in units], axis=1)


def _entropy() -> Case:
    """The closest distribution with a given mean."""
    points = jnp.arange(4.0)
    return Case(
        lambda x, theta: jnp.sum(x * jnp.log(x / theta[:4])),
        lambda x, theta: jnp.stack([jnp.sum(x) - 1, points @ x - theta[4]]),
        {"z": 2},
        np.array([0.2, 0.4, 0.1, 0.3, 1.2]),
        np.full(4, 0.25),
        [0.28, 0.44, 0.08, 0.2, -1.34, 0.25],
    )


def _logistic() -> Case:
    """Weights that are not negative and have a given sum."""
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(20, 3)))
    labels = jnp.asarray(np.sign(rng.normal(size=20) + data @ np.array([2.0, 1.0, -2.0])))
    return Case(
        lambda x, theta: jnp.sum(jax.nn.softplus(-labels * (data @ (x - theta[:3])))),
        lambda x, theta: jnp.concatenate([jnp.sum(x)[None] - theta[3], -x]),
        {"z": 1, "l": 3},
        np.array([0.1, -0.2, 0.3, 1.0]),
        np.full(3, 0.3),
        [1.0, 0.0, 0.0, 3.17, -1.0, 1.68, 5.8],
    )


def _poisson() -> Case:
    """Rates that do not grow from one to the next by more than a given number."""
    counts = jnp.array([2.0, 7.0, 6.0, 1.0])
    return Case(
        lambda x, theta: jnp.sum(jnp.exp(x) * theta[:4] - counts * x),
        lambda x, theta: jnp.diff(x) - theta[4],
        {"l": 3},
        np.array([1.0, 0.9, 1.2, 1.1, 0.4]),
        np.zeros(4),
        [1.35, 1.75, 1.61, -0.1, 1.84, -0.54, -2.1],
    )


def _rosenbrock() -> Case:
    """In a disc."""
    return Case(
        lambda x, theta: (theta[0] - x[0]) ** 2 + theta[1] * (x[1] - x[0] ** 2) ** 2,
        lambda x, theta: jnp.stack([jnp.sum(x**2) - theta[2]]),
        {"l": 1},
        np.array([1.0, 100.0, 1.5]),
        np.array([-1.2, 1.0]),
        [0.91, 0.82, 0.04],
    )


def _trust_region() -> Case:
    """A quadratic function that is not convex, in a ball: a second-order cone."""
    return Case(
        lambda x, theta: (jnp.array([-2.0, 0.5, 3.0]) * x**2 / 2 + theta[:3] * x).sum(),
        lambda x, theta: -jnp.concatenate([theta[3:], x]),
        {"q": [4]},
        np.array([1.0, -1.0, 0.5, 1.3]),
        np.array([-0.1, 0.2, 0.0]),
        [-1.26, 0.3, -0.09, 2.33, 4.78, -1.15, 0.33],
    )


def _least_squares() -> Case:
    """An exponential decay, with bounds on its rate and its size."""
    times = jnp.linspace(0, 2, 8)
    noise = jnp.asarray(np.random.default_rng(1).normal(size=8)) / 20
    seen = 2 * jnp.exp(-1.3 * times) + noise
    return Case(
        lambda x, theta: (
            jnp.sum((x[0] * jnp.exp(-x[1] * times) + x[2] - seen) ** 2)
            + 1e-2 * jnp.sum((x - theta[2]) ** 2)
        ),
        lambda x, theta: jnp.concatenate([x[1:2] - theta[0], -x - theta[1]]),
        {"l": 4},
        np.array([1.1, 0.05, 0.3]),
        np.array([1.0, 1.0, 0.0]),
        [1.98, 1.1, -0.05, 0.29, -2.03, -1.15, 0.29],
    )


def _second_order() -> Case:
    """A smooth function in two cones, one active along its boundary."""

    def objective(x, theta):
        return jnp.sum(jnp.exp(x - theta[:3])) + theta[3] * x[0] * x[1] - 2 * x[2]

    def constraints(x, theta):
        return -jnp.stack([1 + 0.3 * x[0], x[1], x[2] - theta[4], 5 + x[1], x[0], x[2]])

    start = np.array([0.0, 0.1, 0.1])
    theta = np.array([0.1, -0.2, -0.5, 0.4, 0.2])
    return Case(
        objective,
        constraints,
        {"q": [3, 3]},
        theta,
        start,
        [-0.94, -0.72, 0.19, -0.5, 0.94, 0.01, -4.28, 0.94, -0.19],
    )


def _semidefinite() -> Case:
    """The covariance of a Gaussian whose smallest eigenvalue is at least a given one, by
    the inverse of it (lower triangle, column after column).
    """
    root = np.sqrt(2)
    scale = jnp.array([1, root, root, 1, root, 1])
    fixed = jnp.array([1.0, 0, 0, 1.0, 0, 1.0])

    def full(x):
        a, b, c, d, e, f = x / scale
        return jnp.stack([jnp.stack(row) for row in ([a, b, c], [b, d, e], [c, e, f])])

    def objective(x, theta):
        return x @ (scale * theta[:6]) - jnp.linalg.slogdet(full(x))[1]

    def constraints(x, theta):
        return theta[6] * fixed - x

    theta = np.array([2.0, 0.4, -0.3, 0.6, 0.2, 0.3, 0.8])
    return Case(
        objective,
        constraints,
        {"s": [3]},
        theta,
        np.asarray(fixed),
        [1.39, -1.85, 2.77, 3.94, -5.67, 8.01, 0.24, 2.13, -2.93, -3.09, 5.63, -7.19],
    )


def _exponential() -> Case:
    """Geometric: `x0 exp(x1 / x0) <= x2`, and a smooth objective."""
    return Case(
        lambda x, theta: jnp.sum((x - theta[:3]) ** 2) + 0.1 * jnp.sum(x**4),
        lambda x, theta: -jnp.stack([x[1] + theta[3], x[0], x[2]]),
        {"ep": 1},
        np.array([0.8, 1.1, 0.7, 0.1]),
        np.array([1.0, 0.0, 2.0]),
        [0.49, 0.23, 0.96, -2.06, -1.06, -0.08],
    )


def _free() -> Case:
    """Without constraints."""
    return Case(
        lambda x, theta: jnp.sum(jnp.cosh(x - theta[0])) + theta[1] * x[0] * x[1],
        None,
        {},
        np.array([0.3, 0.5]),
        np.zeros(2),
        [0.2, 0.2],
    )


CASES = {
    "entropy": _entropy(),
    "logistic": _logistic(),
    "poisson": _poisson(),
    "rosenbrock": _rosenbrock(),
    "trust region": _trust_region(),
    "least squares": _least_squares(),
    "second-order": _second_order(),
    "semidefinite": _semidefinite(),
    "exponential": _exponential(),
    "free": _free(),
}


def banded() -> Case:
    """A chain whose Hessian is indefinite, but for the active constraints."""
    half = 12
    signs = jnp.tile(jnp.array([3.0, -1.0]), half)
    weights = jnp.asarray(np.random.default_rng(2).uniform(0.7, 1.3, size=half))

    def objective(x, theta):
        coupling = jnp.sum(x[1:-1:2] * x[2::2] ** 2)
        wave = jnp.sum(jnp.cos(x)) / 5 - weights @ x[::2]
        return theta[0] * signs @ x**2 / 2 + theta[1] * coupling + wave

    def constraints(x, theta):
        tied = x[::2] + x[1::2] * jnp.exp(x[::2] / 10) - theta[2]
        return jnp.concatenate([tied, x[1::2] - jnp.linspace(0.5, 2.0, half)])

    theta, start = np.array([1.0, 0.3, 1.0]), np.full(2 * half, 0.5)
    dims = {"z": half, "l": half}
    near = [
        *(0.48, 0.5, 0.34, 0.64, 0.21, 0.77, 0.08, 0.91, -0.04, 1.05, -0.07, 1.08),
        *(-0.25, 1.28, -0.28, 1.32, -0.21, 1.24, -0.1, 1.11, -0.12, 1.13, -0.27, 1.31),
        *(-0.45, -0.17, 0.48, 0.44, 1.08, 1.24, 1.48, 1.54, 1.46, 1.29, 1.31, 1.54),
        *(1.04, 0.92, 0.42, 0.62, 0.14, -0.1, -0.04, -0.14, -0.35, -0.62, -0.73, -0.69),
    ]
    return Case(objective, constraints, dims, theta, start, near)
