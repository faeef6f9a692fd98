"""How accurate derivatives are, cone by cone: `python -m benchmarks.accuracy`.

Random regular problems with exact solutions; the truth is fourth-order differences of
solutions that Newton's method finds to 1e-12, with code that shares nothing with the
package (`tests/reference.py`). For each cone and solver the worst relative error over
all problems, of `dx`, `dy`, `ds` with respect to each of `P`, `A`, `q`, `b`, the worst
error of the vjp's action on the same perturbations, and the worst violation of the
adjoint identity.
"""

import argparse

import jax
import numpy as np


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=5, help="problems per cone")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    from tests.helpers import FAMILIES

    print("| cone | solver | jvp | vjp | adjoint identity |")
    print("|---|---|---|---|---|")
    for family, dims in FAMILIES.items():
        for method in ("jax-lu", "jax-lsmr"):
            errors = np.max(
                [measure(dims, seed, method) for seed in range(options.problems)], axis=0
            )
            cells = " | ".join(f"{error:.0e}" for error in errors)
            print(f"| {family} | {method} | {cells} |", flush=True)
            jax.clear_caches()  # each program takes memory maps, which are limited


def measure(dims: dict, seed: int, method: str) -> tuple[float, float, float]:
    """The three worst errors for one problem."""
    from tests import helpers, reference

    problem, solution = reference.random_problem(dims, seed)
    direction = reference.random_direction(problem, seed + 1000)
    rng = np.random.default_rng(seed + 2000)
    cotangents = [rng.normal(size=part.size) for part in solution]
    qcp = helpers.host(problem, solution)
    gradient = qcp.vjp(*cotangents, solve_method=method)
    jvp_error = vjp_error = adjoint = 0.0
    for name in "PAqb":
        single = helpers.only(direction, name)
        truth = reference.differences(problem, solution, single)
        data = helpers.host_data(problem, single)
        tangents = qcp.jvp(*data, solve_method=method)
        size = np.linalg.norm(np.concatenate(truth))
        backward = helpers.inner(gradient, data)
        jvp_error = max(jvp_error, helpers.worst(tangents, truth))
        vjp_error = max(
            vjp_error, abs(helpers.inner(cotangents, truth) - backward) / size
        )
        adjoint = max(adjoint, abs(helpers.inner(cotangents, tangents) - backward) / size)
    return jvp_error, vjp_error, adjoint


if __name__ == "__main__":
    main()
