"""What the derivative of a sparse general program costs, against its budget.

    python -m benchmarks.program [--size 10000]

A chain with a tridiagonal Hessian, and an inequality for each pair of neighbours, all of
them active. The budget of a gradient is three times the evaluation of the second
derivatives of the Lagrangian and of the derivatives of the constraints, plus one
iteration of Clarabel on the local QP. One thread; medians of calls that take turns, as
the speed of a machine changes.
"""

import argparse
import os
import time
from typing import Any

from .timing import ONE_THREAD


os.environ |= ONE_THREAD

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

import diffqcp

from .forward import solve
from .problems import Problem
from .run import environment


def objective(x: Any, theta: Any) -> Any:
    """Not convex off the constraints."""
    return jnp.sum(jnp.cos(x)) + jnp.sum((x[1:] - x[:-1]) ** 2) + theta[0] * jnp.sum(x)


def constraints(x: Any, theta: Any) -> Any:
    """Neighbours are not further apart than the curve allows."""
    return theta[1] - x[:-1] - x[1:] * jnp.exp(x[1:] / 10)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    n = options.size
    chain = sum(sp.eye_array(n, k=k) for k in (-1, 0, 1))
    pairs = sum(sp.eye_array(n - 1, n, k=k) for k in (0, 1))
    program = diffqcp.Program(
        *(objective, constraints, {"l": n - 1}),
        hessian_pattern=chain,
        jacobian_pattern=pairs,
    )
    theta = jnp.array([1.0, 1.0])
    found = program.solve(theta, np.full(n, 0.6))
    x, y = found.x, found.y
    active = int(np.sum(np.asarray(y) > np.asarray(found.s)))
    model, theta, vector = program._model(theta, x)
    local = jax.jit(model.local)
    P, A, q, b = (np.asarray(part) for part in local(vector, y, theta).data)
    structure = model.structure
    places = structure.P_pattern, structure.A_pattern
    upper, rows = (
        sp.csc_array((values, (pattern.rows, pattern.cols)), pattern.shape)
        for values, pattern in zip((P, A), places, strict=True)
    )
    problem = Problem(upper, q, rows, b, {"l": n - 1}, name="chain")

    @jax.jit
    def gradient(theta: Any, x: Any, y: Any) -> Any:
        return jax.grad(lambda theta: jnp.sum(program.at(theta, x, y).x ** 2))(theta)

    calls = {
        "derivatives": lambda: jax.block_until_ready(local(vector, y, theta)),
        "gradient by `at`": lambda: jax.block_until_ready(gradient(theta, x, y)),
    }
    solver = "an iteration of Clarabel"
    times: dict[str, list[float]] = {name: [] for name in (*calls, solver)}
    for call in calls.values():
        call()
    for _ in range(options.rounds):
        forward = solve(problem, budget=0)
        times[solver].append(forward.seconds / forward.iterations)
        for _ in range(10):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - started)
    taken = {name: 1e3 * float(np.median(part)) for name, part in times.items()}
    taken["budget"] = 3 * taken["derivatives"] + taken[solver]
    print(environment())
    print(f"n = {n}, {n - 1} inequalities, {active} active, status {found.status}")
    print("| | ms |\n|---|---|")
    for name, value in taken.items():
        print(f"| {name} | {value:.2f} |")


if __name__ == "__main__":
    main()
