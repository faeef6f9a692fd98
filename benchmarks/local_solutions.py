"""Derivatives of local solutions, against differences of tight ones: a table.

    python -m benchmarks.local_solutions [case ...]

For each of the programs of `tests.programs` the largest error of the Jacobian of
`(x, y, s)`, relative to its largest entry: through `at` and through `solve`, for one
program in reverse and in forward mode, and for a batch of two with different parameters.
"""

import os
import sys
from typing import Any

from .timing import ONE_THREAD


os.environ |= ONE_THREAD

import jax
import jax.numpy as jnp
import numpy as np
from tests.programs import Case, CASES, truth

from diffqcp import Program, Status


def errors(case: Case) -> dict[str, float]:
    """By what the derivative goes through; infinite where there is no solution."""
    dims = case.dims if case.constraints else None
    program = Program(case.objective, case.constraints, dims, psd_order="lower")
    exact, expected = truth(case)
    x = exact[: case.start.size]
    moved = case._replace(theta=case.theta * (1 + 1e-3))
    thetas = np.stack([case.theta, moved.theta])
    other, expected_other = truth(moved)
    xs = np.stack([x, other[: x.size]])
    ways: dict[str, Any] = {
        "at": (lambda theta, x: program.at(theta, x, throw=False), xs),
        "solve": (
            lambda theta, start: program.solve(theta, start, throw=False),
            np.stack([case.start] * 2),
        ),
    }
    found = {}
    for name, (way, points) in ways.items():

        def vector(theta: Any, point: Any, way: Any = way) -> Any:
            solution = way(theta, point)
            parts = solution.x, solution.y, solution.s
            return jnp.concatenate(parts), solution.status

        modes = {
            "reverse": jax.jacrev(vector, has_aux=True),
            "forward": jax.jacfwd(vector, has_aux=True),
        }
        for mode, jacobian in modes.items():
            J, status = jax.jit(jacobian)(case.theta, points[0])
            found[f"{name}, {mode}"] = _error(J, status, expected)
        J, status = jax.jit(jax.vmap(modes["reverse"]))(thetas, points)
        both = zip(J, status, (expected, expected_other), strict=True)
        found[f"{name}, batch"] = max(_error(*item) for item in both)
    return found


def _error(J: Any, status: Any, expected: np.ndarray) -> float:
    if status != Status.SOLVED:
        return float("inf")
    return float(np.abs(J - expected).max() / np.abs(expected).max())


def main() -> None:
    """Prints the table."""
    chosen = sys.argv[1:] or list(CASES)
    for k, name in enumerate(chosen):
        row = errors(CASES[name])
        if k == 0:
            print(f"| | {' | '.join(row)} |\n|{'---|' * (len(row) + 1)}")
        cells = " | ".join(f"{value:.0e}" for value in row.values())
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
