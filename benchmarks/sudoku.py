"""The training of docs/examples/sudoku.md, with diffqcp and with the layer of proxsuite.

    python -m benchmarks.sudoku [--steps 20]

Seconds are those of the processor, one thread. See `benchmarks.infeasible` for "equal
penalties".
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .timing import ONE_THREAD


os.environ |= ONE_THREAD

import jax
import jax.numpy as jnp
import numpy as np
import torch
from proxsuite.torch.qplayer import QPFunction

import diffqcp

from .infeasible import equal_penalties
from .run import environment
from .table import seconds
from .timing import once


class Boards(NamedTuple):
    """Digits that are given, all digits, and the first rules."""

    given: np.ndarray
    solutions: np.ndarray
    rules: np.ndarray


def boards(count: int = 24) -> Boards:
    """Those of docs/examples/sudoku.md."""
    rng = np.random.default_rng(0)
    start = np.array([[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]])
    found = []
    for _ in range(count):
        board = rng.permutation(4)[start]
        for _ in range(2):
            bands = board.reshape(2, 2, 4)[rng.permutation(2)]
            board = np.concatenate([band[rng.permutation(2)] for band in bands]).T
        found.append(np.eye(4)[board].ravel())
    solutions = np.stack(found)
    given = np.repeat(rng.random((count, 16)) < 0.6, 4, axis=1) * solutions
    return Boards(given, solutions, rng.uniform(-1, 1, size=(40, 64)) / 8)


def sudoku_by_us(task: Boards) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Loss and gradient as functions of the rules."""
    m, n = task.rules.shape
    structure = diffqcp.QCPStructureDense(
        jnp.zeros((n, n)), jnp.zeros((m + n, n)), {"z": m, "l": n}
    )
    solver = diffqcp.QCPSolver(structure, closest_feasible=True, throw=False)
    b = jnp.concatenate([jnp.ones(m), jnp.zeros(n)])

    def loss(A: Any) -> Any:
        rows = jnp.concatenate([A, -jnp.eye(n)])
        solve = jax.vmap(lambda p: solver(jnp.zeros((n, n)), rows, -p, b).x)
        return jnp.mean((solve(jnp.asarray(task.given)) - task.solutions) ** 2)

    both = jax.jit(jax.value_and_grad(loss))

    def run(A: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = both(jnp.asarray(A))
        return float(value), np.asarray(slope)

    return run


def sudoku_by_proxsuite(
    task: Boards, equal: bool = False, **options: float
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The same."""
    n = task.rules.shape[1]
    p, solutions = torch.as_tensor(task.given), torch.as_tensor(task.solutions)
    b, zeros = torch.ones(task.rules.shape[0]), torch.zeros(n)
    layer = QPFunction(structural_feasibility=False, **options)

    def run(rules: np.ndarray) -> tuple[float, np.ndarray]:
        A = torch.tensor(rules, requires_grad=True)
        # For one A for all, proxsuite returns the mean of the gradients.
        each = A.expand(p.shape[0], -1, -1)
        bounds = zeros - 1e20, zeros
        with equal_penalties(equal):
            x = layer(torch.zeros(n, n), -p, each, b, -torch.eye(n), *bounds)[0]
        loss = ((x - solutions) ** 2).mean()
        (slope,) = torch.autograd.grad(loss, A)
        return loss.item(), slope.numpy()

    return run


def table_of_sudoku(steps: int, rate: float = 0.03) -> None:
    """Trains by Adam with each, and prints the times of the steps and the losses."""
    task = boards()
    print("| layer | first step | median step | first loss | final loss | best loss |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, function in {
        "diffqcp": sudoku_by_us(task),
        "proxsuite": sudoku_by_proxsuite(task),
        "proxsuite, equal penalties": sudoku_by_proxsuite(
            task, equal=True, eps_backward=1e-10
        ),
    }.items():
        A, mean, square, losses, times = task.rules, 0.0, 0.0, [], []
        for k in range(1, steps + 1):
            (loss, slope), taken = once(partial(function, A), clock=time.process_time)
            mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
            step = mean / (1 - 0.9**k) / (np.sqrt(square / (1 - 0.99**k)) + 1e-8)
            A = A - rate * step
            losses.append(loss)
            times.append(taken)
        values = f"{losses[0]:.4f} | {losses[-1]:.4f} | {min(losses):.4f}"
        cells = seconds(times[0]), seconds(float(np.median(times[1:]))), values
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Trains, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    print(environment())
    table_of_sudoku(options.steps)


if __name__ == "__main__":
    main()
