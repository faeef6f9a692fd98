"""First calls, each in a fresh process in which everything is imported.

    python -m benchmarks.first_calls [--repeat 3]

For a problem that CVXPY has solved: `host_qcp(problem)` and `qcp.vjp` together, which
compile nothing; then, with the structure known, the first call of a jitted `qcp.vjp`, and
of a jitted solve with its gradient, which are traced and compiled. Seconds of the
processor, medians over processes, one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .timing import once, ONE_THREAD


os.environ |= ONE_THREAD

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

import diffqcp
from diffqcp.integrations.cvxpy import host_qcp

from .run import environment
from .table import seconds


RNG = np.random.default_rng(0)
timed = partial(once, clock=time.process_time)


def quadratic() -> cp.Problem:
    """Nonnegative least squares, with 50 variables."""
    x = cp.Variable(50)
    residual = RNG.normal(size=(80, 50)) @ x - RNG.normal(size=80)
    return cp.Problem(cp.Minimize(cp.sum_squares(residual)), [x >= 0])


def logistic() -> cp.Problem:
    """Logistic regression, 50 samples and five features."""
    w, X = cp.Variable(5), RNG.normal(size=(50, 5))
    losses = cp.logistic(cp.multiply(np.sign(RNG.normal(size=50)), X @ w))
    return cp.Problem(cp.Minimize(cp.sum(losses) + 0.1 * cp.sum_squares(w)))


def semidefinite() -> cp.Problem:
    """The nearest correlation matrix, 6 x 6."""
    X, near = cp.Variable((6, 6), PSD=True), RNG.normal(size=(6, 6))
    distance = cp.sum_squares(X - (near + near.T) / 2)
    return cp.Problem(cp.Minimize(distance), [cp.diag(X) == 1])


def second_order() -> cp.Problem:
    """A linear objective over balls."""
    x = cp.Variable(10)
    balls = [cp.norm(x - RNG.normal(size=10)) <= 4 for _ in range(3)]
    return cp.Problem(cp.Minimize(RNG.normal(size=10) @ x), balls)


def power() -> cp.Problem:
    """The largest sum of powers over a simplex."""
    x = cp.Variable(5)
    gain = cp.sum(cp.multiply(RNG.uniform(1, 2, 5), cp.power(x, 0.3)))
    return cp.Problem(cp.Maximize(gain), [cp.sum(x) == 1])


PROBLEMS: dict[str, Callable[[], cp.Problem]] = {
    "QP, 50 variables": quadratic,
    "logistic regression, 50 x 5": logistic,
    "SDP, 6 x 6": semidefinite,
    "SOCP, 10 variables": second_order,
    "power cones, 5 variables": power,
}


def measure(name: str) -> list[float]:
    """The three times, in seconds."""
    problem = PROBLEMS[name]()
    problem.solve(solver=cp.CLARABEL)

    def eager() -> diffqcp.HostQCP:
        qcp = host_qcp(problem)
        jax.block_until_ready(qcp.vjp(*cotangents(qcp)))
        return qcp

    qcp, first = timed(eager)
    vjp = jax.jit(lambda qcp, parts: qcp.vjp(*parts))
    parts = cotangents(qcp)
    _, jitted = timed(lambda: jax.block_until_ready(vjp(qcp, parts)))
    solver = diffqcp.QCPSolver(qcp.problem_structure)

    def loss(q: Any) -> Any:
        return jnp.sum(solver(qcp.P, qcp.A, q, qcp.b).x ** 2)

    gradient = jax.jit(jax.value_and_grad(loss))
    _, solved = timed(lambda: jax.block_until_ready(gradient(qcp.q)))
    return [first, jitted, solved]


def cotangents(qcp: diffqcp.HostQCP) -> tuple[np.ndarray, ...]:
    """Of `x`, `y` and `s`."""
    zero = np.zeros(qcp.b.size)
    return np.ones(qcp.q.size), zero, zero


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="processes a problem")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    print(environment())
    print("| problem | `host_qcp` and first VJP | jitted VJP | jitted solve, gradient |")
    print("|---|---|---|---|")
    for name in PROBLEMS:
        command = [sys.executable, "-m", "benchmarks.first_calls", "--one", name]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            for _ in range(options.repeat)
        ]
        cells = map(seconds, np.median(runs, axis=0))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
