"""Training through a layer of cvxpylayers, with diffqcp and with the solvers it ships.

    python -m benchmarks.layers [--problem NAME] [--steps 10]

Each row is a problem with a solver: seconds of the processor for the first two steps,
which make the layer and compile, the median of the others, and the error of the first
step's gradient: the slope along a random direction, against fourth-order differences of
solutions by SCS to a tolerance of 1e-11.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from .timing import ONE_THREAD


os.environ |= {k: v for k, v in ONE_THREAD.items() if k != "JAX_ENABLE_X64"}

import cvxpy as cp
import numpy as np
import torch
from cvxpylayers.torch import CvxpyLayer

from diffqcp import Clarabel
from diffqcp.integrations.cvxpylayers import DiffQCP


class Task(NamedTuple):
    """A layer of one parameter to train, and a function of its first variable."""

    problem: cp.Problem
    parameters: list[cp.Parameter]
    variable: cp.Variable
    values: list[np.ndarray]
    loss: Callable[[Any], Any]
    rate: float


def portfolio(n: int = 200, factors: int = 20) -> Task:
    """Expected returns, so that the portfolio has a given one."""
    rng = np.random.default_rng(0)
    x, returns = cp.Variable(n), cp.Parameter(n)
    F, own = rng.normal(size=(factors, n)) / 5, rng.uniform(0.1, 0.3, size=n)
    risk = cp.sum_squares(F @ x) + cp.sum_squares(cp.multiply(own, x))
    problem = cp.Problem(cp.Minimize(risk - returns @ x), [cp.sum(x) == 1, x >= 0])
    realised = rng.normal(size=n) / 10
    target = torch.as_tensor(realised)
    values = [realised + rng.normal(size=n) / 20]
    return Task(problem, [returns], x, values, lambda x: -(x @ target), 0.1)


def small_qps(batch: int = 64, n: int = 10, m: int = 8) -> Task:
    """Linear terms of a batch of QPs."""
    rng = np.random.default_rng(1)
    x, q = cp.Variable(n), cp.Parameter(n)
    root, G = rng.normal(size=(n, n)), rng.normal(size=(m, n))
    objective = cp.sum_squares(root @ x) / 2 + cp.sum_squares(x) / 2 + q @ x
    problem = cp.Problem(cp.Minimize(objective), [G @ x <= 0.3])
    target = torch.as_tensor(rng.normal(size=(batch, n)))
    values = [3 * rng.normal(size=(batch, n))]
    return Task(problem, [q], x, values, lambda x: ((x - target) ** 2).sum(), 0.1)


def correlation(n: int = 15) -> Task:
    """The matrix whose nearest correlation matrix is given."""
    rng = np.random.default_rng(2)
    X, C = cp.Variable((n, n), symmetric=True), cp.Parameter((n, n))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.diag(X) == 1])
    noise = rng.normal(size=(n, n))
    target = np.corrcoef(rng.normal(size=(n, 3 * n)))
    wanted = torch.as_tensor(target)
    values = [target + (noise + noise.T) / 2]
    return Task(problem, [C], X, values, lambda X: ((X - wanted) ** 2).sum(), 0.1)


def logistic_regression(points: int = 50, features: int = 5) -> Task:
    """Data, so that the fit to them has given weights."""
    rng = np.random.default_rng(3)
    weights, data = cp.Variable(features), cp.Parameter((points, features))
    truth = rng.normal(size=features)
    values = rng.normal(size=(points, features))
    labels = np.sign(values @ truth + rng.normal(size=points))
    margins = -cp.multiply(labels, data @ weights)
    objective = cp.sum(cp.logistic(margins)) + 0.5 * cp.sum_squares(weights)
    problem = cp.Problem(cp.Minimize(objective))
    target = torch.as_tensor(truth)
    return Task(
        problem, [data], weights, [values], lambda w: ((w - target) ** 2).sum(), 0.1
    )


TASKS = {
    "portfolio, n = 200": portfolio,
    "64 QPs, n = 10": small_qps,
    "correlation matrix, 15 x 15": correlation,
    "logistic regression, 50 x 5": logistic_regression,
}
SOLVERS: dict[str, Callable[[], Any]] = {
    "diffqcp": DiffQCP,
    "diffqcp, no warm starts": lambda: DiffQCP(warm_start=False),
    "diffqcp, solved by Clarabel": lambda: DiffQCP(Clarabel()),
    "DIFFCP (default)": lambda: "DIFFCP",
    "MOREAU": lambda: "MOREAU",
}


def slope(task: Task, direction: np.ndarray, size: float = 1e-3) -> float:
    """The derivative of the loss along `direction`, by differences."""
    options = {"eps_abs": 1e-11, "eps_rel": 1e-11, "max_iters": 200_000}

    def loss(step: float) -> float:
        moved = task.values[0] + step * direction
        batched = moved.ndim > task.parameters[0].ndim
        found = []
        for value in moved if batched else [moved]:
            task.parameters[0].value = value
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                task.problem.solve(solver=cp.SCS, **options)
            found.append(task.variable.value)
        return float(task.loss(torch.as_tensor(np.array(found if batched else found[0]))))

    ends = [loss(k * size) for k in (1, -1, 2, -2)]
    return (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * size)


def train(task: Task, solver: Any, steps: int) -> tuple[float, float, torch.Tensor]:
    """Seconds of the first two steps, of which the second is the first one with a start,
    the median of the others, and the first gradient.
    """
    started = time.process_time()
    layer = CvxpyLayer(task.problem, task.parameters, [task.variable], solver=solver)
    learnt = torch.nn.Parameter(torch.tensor(task.values[0]))
    optimiser = torch.optim.SGD([learnt], lr=task.rate)
    times, first = [started], torch.zeros(())
    for k in range(steps + 2):
        optimiser.zero_grad()
        task.loss(layer(learnt)[0]).backward()
        if k == 0:
            assert learnt.grad is not None
            first = learnt.grad.clone()
        optimiser.step()
        times.append(time.process_time())
    later = float(np.median(np.diff(times[2:])))
    return times[2] - times[0], later, first


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", choices=sorted(TASKS), action="append")
    parser.add_argument("--solver", choices=sorted(SOLVERS), action="append")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| problem | solver | first two steps (s) | each step (s) | gradient error |")
    print("|---|---|---|---|---|", flush=True)
    for name in arguments.problem or TASKS:
        task = TASKS[name]()
        direction = np.random.default_rng(9).normal(size=task.values[0].shape)
        expected = slope(task, direction)
        for title in arguments.solver or SOLVERS:
            try:
                start, each, gradient = train(task, SOLVERS[title](), arguments.steps)
            except Exception as error:
                print(f"| {name} | {title} | {type(error).__name__} | | |", flush=True)
                continue
            got = float((gradient * torch.as_tensor(direction)).sum())
            error = abs(got - expected) / abs(expected)
            print(f"| {name} | {title} | {start:.2f} | {each:.4f} | {error:.0e} |")


if __name__ == "__main__":
    main()
