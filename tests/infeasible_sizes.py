"""Infeasible problems of many sizes, dense and sparse, with every kind of cone.

    python -m tests.infeasible_sizes [--sizes 5,20,80,200]

Each line is a problem: how far `x`, `s` and `t` are from the optimality conditions of
both stages (`t` from the one that the problem is made around), and how far a derivative
along a random direction of the data is from fourth-order differences of solutions,
relative to its largest entry.
"""

import argparse
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from diffqcp import QCPSolver, QCPStructureCPU, QCPStructureDense, Status

from .infeasible import infeasible_problem
from .reference import project


KINDS = {
    "z l": ({"z": 2, "l": 3}, {"z": 1, "l": 2}, 2),
    "z": ({"z": 4}, {"l": 2}, 2),
    "l": ({"l": 6}, {"z": 1}, 1),
    "q": ({"q": [4]}, {"l": 1, "q": [3]}, 2),
    "s": ({"s": [3]}, {"l": 1, "s": [2]}, 3),
    "ep": ({"ep": 1}, {"l": 1, "ep": 1}, 1),
    "ed": ({"ed": 1}, {"l": 1, "ed": 1}, 1),
    "p": ({"p": [-0.6]}, {"l": 1, "p": [0.4]}, 1),
    "all": (
        {"z": 1, "l": 2, "q": [3], "s": [2], "ep": 1, "ed": 1, "p": [0.3]},
        {"z": 1, "l": 2, "q": [3], "s": [2], "ep": 1, "ed": 1, "p": [-0.7]},
        5,
    ),
}


def repeated(dims: dict[str, Any], times: int) -> dict[str, Any]:
    """That many of each."""
    return {key: count * times for key, count in dims.items()}


def check(kind: str, n: int, sparse: bool) -> dict[str, float]:
    """Errors of a problem with `n` variables, about a third of them in contradictions."""
    core, rest, few = KINDS[kind]
    times = max(1, n // (3 * few))
    core, rest = repeated(core, times), repeated(rest, max(1, times // 2))
    problem, shift = infeasible_problem(core, rest, few * times, n, n)
    rng = np.random.default_rng(n)
    matrices = problem.P, problem.A
    if sparse:  # a chain for P; A has the zeros that it is made with
        P = 2 * np.eye(n) - np.eye(n, k=1) / 2 - np.eye(n, k=-1) / 2
        matrices = P, problem.A
        P_type = BCOO.fromdense(jnp.asarray(np.triu(P)))
        A_type = BCOO.fromdense(jnp.asarray(problem.A))
        structure = QCPStructureCPU(P_type, A_type, problem.dims, psd_order="upper")
        places = P_type.indices, A_type.indices
        shapes = (n, n), problem.A.shape
        values = [P_type.data, A_type.data]
        moves = [
            matrix[tuple(np.asarray(at).T)]
            for matrix, at in zip(
                (_symmetric(rng, n), rng.normal(size=problem.A.shape)),
                places,
                strict=True,
            )
        ]
    else:
        structure = QCPStructureDense(*matrices, problem.dims, psd_order="upper")
        values = [jnp.asarray(part) for part in matrices]
        kept = problem.A != 0
        moves = [_symmetric(rng, n), kept * rng.normal(size=kept.shape)]
    solver = QCPSolver(structure, closest_feasible=True, throw=False)

    def solve(P: Any, A: Any, q: Any, b: Any) -> Any:
        if sparse:
            P, A = (
                BCOO((part, at), shape=shape)
                for part, at, shape in zip((P, A), places, shapes, strict=True)
            )
        found = solver(P, A, q, b)
        return (found.x, found.s, found.shift), (found.y, found.status)

    data = *values, jnp.asarray(problem.q), jnp.asarray(problem.b)
    right = [rng.normal(size=n), rng.normal(size=problem.b.size)]
    change = tuple(jnp.asarray(part) for part in (*moves, *right))
    both = jax.jit(lambda data: jax.jvp(solve, data, change, has_aux=True))
    (x, s, t), moved, (y, status) = jax.tree.map(np.asarray, both(data))
    assert status == Status.CLOSEST_FEASIBLE, Status(int(status)).name
    P, A = matrices
    primal, dual = A @ x + s - problem.b - t, P @ x + A.T @ y + problem.q
    outside = project(problem.dims, s, "upper") - s
    alone = jax.jit(lambda data: solve(*data)[0])

    def at(size: float) -> Any:
        return alone(
            tuple(part + size * move for part, move in zip(data, change, strict=True))
        )

    # A step must not change which constraints are active: they become smaller until the
    # two agree, and the best agreement counts.
    best = np.inf
    for step in (3e-5, 1e-6, 1e-7):
        ends = [at(size) for size in (step, -step, 2 * step, -2 * step)]
        errors = []
        for got, *parts in zip(moved, *ends, strict=True):
            near, behind, far, back = map(np.asarray, parts)
            slope = (8 * (near - behind) - (far - back)) / (12 * step)
            errors.append(np.abs(got - slope).max() / max(1, np.abs(slope).max()))
        best = min(best, float(max(errors)))
        if best < 1e-8:
            break
    return {
        "t": float(np.abs(t - shift).max()),
        "residual": float(max(np.abs(part).max() for part in (primal, dual, outside))),
        "complementarity": float(max(abs(s @ t), abs(s @ y))),
        "derivative": best,
    }


def _symmetric(rng: np.random.Generator, n: int) -> np.ndarray:
    root = rng.normal(size=(n, n))
    return (root + root.T) / 2


def main() -> None:
    """Prints a line for each, and fails if an error is larger than 1e-8 or, for
    derivatives, 1e-6.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="5,20,80,200")
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    worst: dict[str, float] = {}
    failed = 0
    for kind in options.kinds.split(","):
        for n in map(int, options.sizes.split(",")):
            for sparse in (False, True):
                started = time.perf_counter()
                name = f"{kind}, n = {n}, {'sparse' if sparse else 'dense'}"
                try:
                    found = check(kind, n, sparse)
                except AssertionError as error:
                    print(f"{name}: {error}", flush=True)
                    failed += 1
                    continue
                worst = {key: max(worst.get(key, 0), found[key]) for key in found}
                small = all(found[key] <= 1e-8 for key in found if key != "derivative")
                failed += not (small and found["derivative"] <= 1e-6)
                figures = ", ".join(f"{key} {found[key]:.0e}" for key in found)
                taken = time.perf_counter() - started
                print(f"{name}: {figures} ({taken:.0f} s)", flush=True)
                jax.clear_caches()
    print("worst:", ", ".join(f"{key} {value:.0e}" for key, value in worst.items()))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
