"""Derivatives of many random instances: `python -m tests.instances 1000 [family ...]`.

Each family is a CVXPY problem with parameters. For each instance, the derivative of a
random function of the solution along a random direction of the parameters is taken by
`diffqcp.QCPSolver`, by the JAX layer, and by `backward` after a default solve. The truth
are central differences of solutions whose optimality conditions are checked here, where
two step sizes agree; elsewhere there is a kink nearby, and the instance is not compared.
"""

import sys
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

from diffqcp import QCPSolver, Status
from diffqcp.integrations.cvxpy import backward
from diffqcp.integrations.cvxpylayers import CvxpyLayer, DiffQCP
from diffqcp.integrations.cvxpylayers._jax_layer import _solve as solve_layer


class Family(NamedTuple):
    """A problem, what to look at, and random values and directions of its parameters."""

    problem: cp.Problem
    parameters: list[cp.Parameter]
    variables: list[cp.Variable]
    draw: Callable[[np.random.Generator], tuple[list[Any], list[Any]]]


def denoising() -> Family:
    """Basis pursuit denoising: as reported, with sigma from 1e-4 to 1e-1."""
    rows, n = 8, 20
    x, A, b, sigma = (
        *(cp.Variable(n), cp.Parameter((rows, n)), cp.Parameter(rows)),
        cp.Parameter(nonneg=True),
    )
    problem = cp.Problem(cp.Minimize(cp.norm1(x)), [cp.norm(A @ x - b) <= sigma])

    def draw(rng):
        values, sparse = rng.normal(size=(rows, n)), np.zeros(n)
        sparse[rng.choice(n, 3, replace=False)] = rng.normal(size=3)
        size, noise = 10 ** rng.uniform(-4, -1), rng.normal(size=rows)
        b = values @ sparse + 0.9 * size * noise / np.linalg.norm(noise)
        return [values, b, size], [0 * values, size * rng.normal(size=rows), size]

    return Family(problem, [A, b, sigma], [x], draw)


def lasso() -> Family:
    """Least squares in second-order form with a penalty."""
    rows, n = 12, 8
    x, A, b, weight = (
        *(cp.Variable(n), cp.Parameter((rows, n)), cp.Parameter(rows)),
        cp.Parameter(nonneg=True),
    )
    objective = cp.norm(A @ x - b) + weight * cp.norm1(x)

    def draw(rng):
        values = rng.normal(size=(rows, n))
        b = values @ (rng.normal(size=n) * (rng.random(n) < 0.5)) + rng.normal(size=rows)
        weight = 10 ** rng.uniform(-2, 0)
        return [values, b, weight], [rng.normal(size=(rows, n)), 0 * b, weight]

    return Family(cp.Problem(cp.Minimize(objective)), [A, b, weight], [x], draw)


def huber() -> Family:
    """Robust regression with outliers."""
    rows, n = 15, 5
    x, A, b = cp.Variable(n), cp.Parameter((rows, n)), cp.Parameter(rows)
    objective = cp.sum(cp.huber(A @ x - b, 1.0)) + 0.01 * cp.sum_squares(x)

    def draw(rng):
        values, b = rng.normal(size=(rows, n)), rng.normal(size=rows)
        b += 10 * rng.normal(size=rows) * (rng.random(rows) < 0.3)
        return [values, b], [rng.normal(size=(rows, n)), rng.normal(size=rows)]

    return Family(cp.Problem(cp.Minimize(objective)), [A, b], [x], draw)


def entropy() -> Family:
    """Maximum entropy with weights from 0.01 to 10 and an inequality."""
    n = 6
    x, c, a, weight = (
        *(cp.Variable(n), cp.Parameter(n), cp.Parameter(n)),
        cp.Parameter(nonneg=True),
    )
    objective = c @ x - weight * cp.sum(cp.entr(x))
    problem = cp.Problem(cp.Minimize(objective), [cp.sum(x) == 1, a @ x <= 0.2])

    def draw(rng):
        a = rng.normal(size=n)
        a[0] = -abs(a[0])  # so that it is feasible
        weight = 10 ** rng.uniform(-2, 1)
        values = [rng.normal(size=n), a, weight]
        return values, [rng.normal(size=n), rng.normal(size=n), weight]

    return Family(problem, [c, a, weight], [x], draw)


def log_det() -> Family:
    """The inverse covariance with a penalty."""
    n = 4
    X, S, weight = (
        *(cp.Variable((n, n), PSD=True), cp.Parameter((n, n), symmetric=True)),
        cp.Parameter(nonneg=True),
    )
    objective = -cp.log_det(X) + cp.trace(S @ X) + weight * cp.sum(cp.abs(X))

    def draw(rng):
        F, step = rng.normal(size=(3 * n, n)), rng.normal(size=(n, n))
        weight = 10 ** rng.uniform(-2, 0)
        return [F.T @ F / (3 * n), weight], [step + step.T, weight]

    return Family(cp.Problem(cp.Minimize(objective)), [S, weight], [X], draw)


def logistic() -> Family:
    """Logistic regression with a penalty."""
    rows, n = 12, 3
    x, A, weight = (
        *(cp.Variable(n), cp.Parameter((rows, n))),
        cp.Parameter(nonneg=True),
    )
    objective = cp.sum(cp.logistic(A @ x)) + weight * cp.sum_squares(x)

    def draw(rng):
        weight = 10 ** rng.uniform(-2, 1)
        return [rng.normal(size=(rows, n)), weight], [rng.normal(size=(rows, n)), weight]

    return Family(cp.Problem(cp.Minimize(objective)), [A, weight], [x], draw)


def soft_mpc() -> Family:
    """Control with soft bounds on the state, whose weights are from 1 to 1e6."""
    T = 6
    x, u, e = cp.Variable((T + 1, 2)), cp.Variable((T, 1)), cp.Variable((T + 1, 2))
    state, weight = cp.Parameter(2), cp.Parameter(nonneg=True)
    A, B = np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([[0.125], [0.5]])
    constraints = [x[0] == state, e >= 0, cp.abs(x) <= 1 + e, cp.abs(u) <= 1]
    constraints += [x[t + 1] == A @ x[t] + B @ u[t] for t in range(T)]
    objective = cp.sum_squares(x) + 0.1 * cp.sum_squares(u) + weight * cp.sum(e)

    def draw(rng):
        weight = 10 ** rng.uniform(0, 6)
        return [3 * rng.normal(size=2), weight], [rng.normal(size=2), weight]

    problem = cp.Problem(cp.Minimize(objective), constraints)
    return Family(problem, [state, weight], [x, u], draw)


FAMILIES = {
    family.__name__: family
    for family in (denoising, lasso, huber, entropy, log_det, logistic, soft_mpc)
}


class Report(NamedTuple):
    """What became of the instances of a family.

    - `statuses`: how many ended how in `QCPSolver`, by name.
    - `warned`: for how many there is none by `backward`, since CVXPY's solver has failed
        or `backward` has said that the solution is inaccurate.
    - `unsolved`: how many the layer did not solve.
    - `compared`: of how many of the solved ones two step sizes agree on the difference.
    - `errors`: the largest error of a derivative among these, by the way it was taken;
        relative to the derivative where that is above one.
    - `ways`: how far the ways are from each other, on all that are solved.
    - `residual`: the largest of a solved one, relative to the solution and its dual.
    """

    statuses: dict[str, int]
    warned: int
    unsolved: int
    compared: int
    errors: dict[str, float]
    ways: float
    residual: float


class Instances:
    """Instances of a family, and the function of the solution that is differentiated."""

    def __init__(self, name: str, count: int):
        rng = np.random.default_rng(0)
        self.family = FAMILIES[name]()
        draws = [self.family.draw(rng) for _ in range(count)]
        self.values, self.steps = (
            [jnp.asarray(np.stack(part), float) for part in zip(*side, strict=True)]
            for side in zip(*draws, strict=True)
        )
        variables = self.family.variables
        self.weights = [rng.normal(size=variable.shape) for variable in variables]
        solver = DiffQCP(throw=False)
        self.layer = CvxpyLayer(*self.family[:3], solver=solver)

    def loss(self, variables: Any) -> Any:
        """A weighted sum of variables with a batch axis."""
        return sum(
            jnp.sum(part * weight, axis=tuple(range(1, part.ndim)))
            for part, weight in zip(variables, self.weights, strict=True)
        )

    def moved(self, t: Any) -> list[Any]:
        return [
            value + t * step for value, step in zip(self.values, self.steps, strict=True)
        ]

    @cached_property
    def by_solver(self) -> Callable[[float], tuple[Any, ...]]:
        """The function at a place, its derivative, statuses and residuals."""
        maps = self.layer._maps
        solver = QCPSolver(maps.form.structure, throw=False)

        def solve(values):
            found = solver(*maps.form.data(*maps.vectors(values)))
            sizes = found.residuals.primal, found.residuals.dual, found.residuals.gap
            scale = 1 + jnp.max(jnp.abs(found.x)) + jnp.max(jnp.abs(found.y))
            residual = jnp.max(jnp.stack(sizes)) / scale
            return maps.variables(found.x, found.y), (found.status, residual)

        def function(t):
            variables, how = jax.vmap(solve)(self.moved(t))
            return self.loss(variables), how

        @jax.jit
        def differentiated(t):
            value, slope, how = jax.jvp(function, (t,), (1.0,), has_aux=True)
            return value, slope, *how

        return lambda t: tuple(np.asarray(part) for part in differentiated(t))

    def by_differences(self) -> np.ndarray:
        """By central differences; NaN where the step sizes do not agree."""
        truth = np.full(len(self.values[0]), np.nan)
        for size in (1e-5, 1e-6):
            one, four = (self._difference(step) for step in (size, 4 * size))
            clear = np.abs(one - four) <= 2e-6 * (1 + np.abs(one))
            truth = np.where(np.isnan(truth) & clear, (16 * one - four) / 15, truth)
        return truth

    def _difference(self, step: float) -> np.ndarray:
        ahead, behind = self.by_solver(step), self.by_solver(-step)
        solved = (ahead[2] == Status.SOLVED) & (behind[2] == Status.SOLVED)
        return np.where(solved, (ahead[0] - behind[0]) / (2 * step), np.nan)

    def by_layer(self) -> np.ndarray:
        """NaN where it is not solved: Clarabel's last digits depend on what it has solved
        before, and so does in rare cases what polishing makes of them.
        """

        def total(*values):
            return jnp.sum(self.loss(self.layer(*values)))

        numbers = tuple(range(len(self.values)))
        gradients = jax.grad(total, numbers)(*self.values)
        products = [
            np.sum(gradient * step, axis=tuple(range(1, step.ndim)))
            for gradient, step in zip(gradients, self.steps, strict=True)
        ]
        solver = self.layer._backend.qcp_solver(self.layer.ctx.cone_dims, {}, False)
        axes = (0,) * len(self.values)
        _, found = solve_layer(self.layer._maps, solver, axes, self.values, None)
        solved = np.asarray(found.status) == Status.SOLVED
        return np.where(solved, np.sum(products, axis=0), np.nan)

    def by_backward(self) -> tuple[np.ndarray, int]:
        """And for how many there is none; there it is NaN."""
        slopes = np.full(len(self.values[0]), np.nan)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "diffqcp")
            warnings.filterwarnings("ignore", "Solution may be inaccurate")
            for k in range(len(slopes)):
                slopes[k] = self._by_backward(k)
        return slopes, int(np.sum(np.isnan(slopes)))

    def _by_backward(self, k: int) -> float:
        problem, parameters = self.family.problem, self.family.parameters
        for parameter, values in zip(parameters, self.values, strict=True):
            parameter.value = np.asarray(values[k])
        for variable in problem.variables():
            variable.gradient = np.zeros(variable.shape)
        for variable, weight in zip(self.family.variables, self.weights, strict=True):
            variable.gradient = weight
        try:
            problem.solve(solver=cp.CLARABEL)
            backward(problem)
        except (UserWarning, ValueError, cp.SolverError):
            return np.nan
        slope = 0.0
        for parameter, steps in zip(parameters, self.steps, strict=True):
            product = np.asarray(parameter.gradient * steps[k])
            if parameter.ndim == 2 and parameter.is_symmetric():
                # Both of two symmetric places have what changing both of them brings.
                product = np.triu(product)
            slope += np.sum(product)
        return slope


def report(name: str, count: int) -> Report:
    """Of `count` instances of a family."""
    instances = Instances(name, count)
    _, by_solver, status, residual = instances.by_solver(0.0)
    by_backward, warned = instances.by_backward()
    by_layer = instances.by_layer()
    found = {
        "solve": by_solver,
        "layer": by_layer,
        "backward": by_backward,
    }
    truth, solved = instances.by_differences(), status == Status.SOLVED
    compared = solved & np.isfinite(truth)

    def error(way, reference, rows):
        errors = np.abs(way - reference) / np.maximum(1, np.abs(reference))
        return float(np.max(errors[rows & np.isfinite(errors)], initial=0))

    names, counts = np.unique(status, return_counts=True)
    return Report(
        {Status(int(k)).name: int(c) for k, c in zip(names, counts, strict=True)},
        warned,
        int(np.sum(np.isnan(by_layer))),
        int(np.sum(compared)),
        {way: error(slope, truth, compared) for way, slope in found.items()},
        max(error(slope, by_solver, solved) for slope in found.values()),
        float(np.max(residual[solved], initial=0)),
    )


def main(count: int, names: list[str]) -> None:
    """Prints a report for each family."""
    jax.config.update("jax_enable_x64", True)
    for name in names or FAMILIES:
        print(name, report(name, count), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2:])
