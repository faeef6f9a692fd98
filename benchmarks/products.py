"""What the derivative of a large program costs whose Hessian is dense, but cheap to
multiply with, and is not formed.

    python -m benchmarks.products [--size 20000]

The Hessian is a diagonal and a matrix of rank 100, and there are 50 curved constraints,
whose Jacobian is dense. The gradient is that with respect to all data. One thread.
"""

import argparse
import os
from typing import Any

from .timing import median_seconds, ONE_THREAD, peak_megabytes


os.environ |= ONE_THREAD

import jax
import jax.numpy as jnp
import numpy as np

import diffqcp

from .run import environment


RANK, ROWS = 100, 50


def objective(x: Any, theta: Any) -> Any:
    """Logistic regression with more features than samples, and a ridge that is curved."""
    logits = theta["samples"] @ x
    loss = jnp.sum(jax.nn.softplus(logits)) - theta["labels"] @ logits
    return loss + jnp.sum(x**2) / 2 - jnp.sum(jnp.cos(x)) / 10


def constraints(x: Any, theta: Any) -> Any:
    """Half-spaces whose boundaries are bent."""
    return theta["rows"] @ x + jnp.mean(x**2) - theta["bounds"]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000)
    n = parser.parse_args().size
    rng = np.random.default_rng(0)
    theta = {
        "samples": rng.normal(size=(RANK, n)) / n**0.5,
        "labels": 5 * rng.normal(size=RANK),
        "rows": rng.normal(size=(ROWS, n)) / n**0.5,
        "bounds": rng.uniform(-1, 3, size=ROWS),
    }
    theta = jax.tree.map(jnp.asarray, theta)
    by_products = {"solve_method": "jax-lsmr"}
    program = diffqcp.Program(objective, constraints, {"l": ROWS}, **by_products)

    @jax.jit
    def newton(theta: Any) -> Any:
        return program.at(theta, jnp.zeros(n), jnp.zeros(ROWS), polish=30)

    @jax.jit
    def product(theta: Any, x: Any) -> Any:
        return jax.jvp(lambda x: jax.grad(objective)(x, theta), (x,), (x,))[1]

    @jax.jit
    def at(theta: Any, x: Any, y: Any) -> Any:
        return program.at(theta, x, y)

    @jax.jit
    def gradient(theta: Any, x: Any, y: Any) -> Any:
        return jax.grad(lambda theta: jnp.sum(program.at(theta, x, y).x ** 2))(theta)

    found = newton(theta)
    x, y = found.x, found.y
    print(environment())
    active = int(np.sum(np.asarray(y) > np.asarray(found.s)))
    print(f"n = {n}, {ROWS} inequalities, {active} active, error {found.error:.0e}")
    calls = {
        "a product with the Hessian of the objective": lambda: product(theta, x),
        "the point looked at": lambda: at(theta, x, y),
        "that and the gradient": lambda: gradient(theta, x, y),
        "Newton's method from zero": lambda: newton(theta),
    }
    print("| | ms |\n|---|---|")
    for name, call in calls.items():
        jax.block_until_ready(call())  # compiled
        seconds = median_seconds(lambda call=call: jax.block_until_ready(call()))
        print(f"| {name} | {1e3 * seconds:.1f} |")
    compiled = gradient.lower(theta, x, y).compile()
    needed: Any = compiled.memory_analysis()
    megabytes = needed.temp_size_in_bytes / 1e6
    print(f"memory of a gradient, beside arguments and results: {megabytes:.0f} MB")
    print(f"peak of the process: {peak_megabytes():.0f} MB")


if __name__ == "__main__":
    main()
