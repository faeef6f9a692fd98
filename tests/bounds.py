"""Bounds that are none, in every position: `python -m tests.bounds`.

A row `a'x <= bound`, with a bound from 1e3 to 1e30 or infinite, is added to a problem
with each kind of cone, at each place among the nonnegative rows, and solved by each
forward solver, from a start nearby and from none. The solution and the gradient must be
as without it, to 1e-9; there is no gradient with respect to the row. Printed are how many
cases there are, how many were not solved, and the largest error.
"""

import itertools
from typing import Any

import jax
import numpy as np

from diffqcp import (
    AbstractForwardSolver,
    Clarabel,
    InteriorPoint,
    Newton,
    Proximal,
)
from diffqcp.forward.moreau import Moreau
from diffqcp.forward.scs import SCS

from .helpers import gradient_of_solve
from .reference import random_problem


CONES: dict[str, dict[str, Any]] = {
    "nonnegative": {"z": 1, "l": 4},
    "second-order": {"z": 1, "l": 2, "q": [3, 4]},
    "psd": {"l": 2, "s": [3]},
    "exponential": {"l": 2, "ep": 1, "ed": 1},
    "power": {"l": 2, "p": [0.4, -0.7]},
    "mixed": {"z": 1, "l": 2, "q": [3], "s": [2], "ep": 1, "p": [0.3]},
}
BOUNDS = 1e3, 1e5, 1e8, 1e10, 1e12, 1e15, 1e20, 1e30, np.inf
# And whether they take all cones.
SOLVERS: dict[str, tuple[AbstractForwardSolver, bool]] = {
    "Clarabel": (Clarabel(), True),
    "Newton": (Newton(), True),
    "Proximal": (Proximal(), True),
    "SCS": (SCS(), True),
    "InteriorPoint": (InteriorPoint(), False),
    "Moreau": (Moreau(), False),
}


def errors(
    dims: dict[str, Any], forward: AbstractForwardSolver
) -> tuple[np.ndarray, np.ndarray]:
    """The error of each case, and whether it was solved."""
    problem, (x, y, s) = random_problem(dims, 3)
    first, count = dims.get("z", 0), dims["l"]
    data = problem.P, problem.A, problem.q, problem.b
    exact = jax.jit(gradient_of_solve(problem, problem.A, dims, throw=False))
    (_, truth), (dP, dA, dq, db) = exact(*data, (x, y, s))
    row = np.random.default_rng(0).normal(size=x.size)
    places = range(first, first + count + 1)
    cases = list(itertools.product(places, BOUNDS, (False, True)))
    longer = dims | {"l": count + 1}

    def inputs(place: int, bound: float, warm: bool) -> tuple[np.ndarray, ...]:
        slack = bound if warm and np.isfinite(bound) else 1.0
        return (
            np.insert(problem.A, place, row, axis=0),
            np.insert(problem.b, place, bound),
            x + 0.01 if warm else np.zeros_like(x),
            np.insert(y, place, 0) * warm,
            np.insert(s, place, slack) if warm else np.ones(s.size + 1),
        )

    stacked = [
        np.stack(parts) for parts in zip(*(inputs(*c) for c in cases), strict=True)
    ]
    options = {"forward": forward, "throw": False}
    solve = gradient_of_solve(problem, stacked[0][0], longer, **options)

    def one(A: Any, b: Any, *start: Any) -> Any:
        (_, found), gradients = solve(problem.P, A, problem.q, b, start)
        return found.x, found.y, found.status, gradients

    found, duals, status, gradients = jax.jit(jax.vmap(one))(*stacked)
    sizes = []
    for k, (place, _, _) in enumerate(cases):
        own = [np.asarray(part[k]) for part in (found, duals, *gradients)]
        expected = [
            *(np.asarray(truth.x), np.insert(truth.y, place, 0), dP),
            *(np.insert(dA, place, 0, axis=0), dq, np.insert(db, place, 0)),
        ]
        pairs = zip(own, expected, strict=True)
        sizes.append(np.max([np.max(np.abs(a - b), initial=0) for a, b in pairs]))
    return np.array(sizes), np.asarray(status) == 0


def main() -> None:
    """All of them."""
    jax.config.update("jax_enable_x64", True)
    for (cones, dims), (name, (forward, takes_all)) in itertools.product(
        CONES.items(), SOLVERS.items()
    ):
        if not (takes_all or cones == "nonnegative"):
            continue
        sizes, solved = errors(dims, forward)
        worst = f"largest error {sizes.max():.1e}"
        print(cones, name, f"{sizes.size} cases, {(~solved).sum()} unsolved, {worst}")


if __name__ == "__main__":
    main()
