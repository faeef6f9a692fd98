"""BPQP's tables: forward and backward passes of dense QPs, LPs and SOCPs.

    python -m benchmarks.bpqp [--sizes 100x20,500x100] [--rivals diffcp\\ lsqr,qpax]

(Pan et al., "BPQP: A Differentiable Convex Optimization Framework for Efficient
End-to-End Learning", NeurIPS 2024, tables 1 and 2: QP 3.5 and 57 ms, LP 3.0 and 32 ms,
SOCP 6.3 and 24 ms for forward and backward together, cosine similarity 0.992, 0.924,
0.989, on their machine.) `n x m` are variables and equalities: QPs have as many
inequalities too, half of them active, LPs have `x >= 0`, SOCPs a ball. One thread. The
truth about the gradient, with respect to `q` and `b`, is that of `benchmarks.reference`.
Printed are the medians, the cosine similarity, and one less it.
"""

import argparse
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from .timing import median_seconds, ONE_THREAD


os.environ |= ONE_THREAD

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

import diffqcp

from .forward import Forward, solve
from .problems import Problem
from .problems._problem import around
from .problems.quadratic import dense
from .reference import reference
from .rivals import Prepared, RIVALS
from .rivals._jax import by_pullback
from .run import environment


def linear(n: int, m: int) -> Problem:
    """An LP at a vertex: `m` of the variables are positive."""
    rng = np.random.default_rng(1)
    A = sp.vstack([rng.normal(size=(m, n)) / np.sqrt(n), -sp.eye_array(n)])
    positive = rng.permutation(n) < m
    margins = rng.uniform(0.5, 1.5, size=n)
    x, y = np.where(positive, margins, 0), np.where(positive, 0, margins)
    y, s = np.concatenate([rng.normal(size=m), y]), np.concatenate([np.zeros(m), x])
    return around(sp.csc_array((n, n)), A, {"z": m, "l": n}, x, y, s)


def ball(n: int, m: int) -> Problem:
    """A linear objective over the part of a ball in a subspace."""
    rng = np.random.default_rng(2)
    head = sp.csc_array((1, n))
    A = sp.vstack([rng.normal(size=(m, n)) / np.sqrt(n), head, -sp.eye_array(n)])
    x = rng.normal(size=n) / np.sqrt(n)
    r = np.linalg.norm(x)
    y = np.concatenate([rng.normal(size=m), [r], -x])
    s = np.concatenate([np.zeros(m), [r], x])
    return around(sp.csc_array((n, n)), A, {"z": m, "q": [n + 1]}, x, y, s)


FAMILIES: dict[str, Callable[[int, int], Problem]] = {
    "QP": dense,
    "LP": linear,
    "SOCP": ball,
}


def pulled(
    problem: Problem,
    cotangent: np.ndarray,
    data: tuple[Any, ...],
    solution: Callable[..., Any],
    given: float = 0.0,
) -> Prepared:
    """A differentiable function of `(P, A, q, b)` under `jax.vjp`, jitted.

    **Arguments:**

    - `given`: what the solution that it starts from took, in seconds.
    """
    forward = jax.jit(lambda *data: jax.vjp(solution, *data))
    x, pullback = jax.block_until_ready(forward(*data))
    seconds = median_seconds(lambda: jax.block_until_ready(forward(*data)))
    apply = jax.jit(lambda function, vector: function(vector))
    vector = jnp.asarray(cotangent)
    return Prepared(
        np.asarray(x),
        given + seconds,
        lambda: jax.block_until_ready(apply(pullback, vector)),
        lambda found: {"q": np.asarray(found[2]), "b": np.asarray(found[3])},
    )


def as_solver(problem: Problem, forward: Forward, cotangent: np.ndarray) -> Prepared:
    """`diffqcp.QCPSolver` with its defaults, but that it believes its solver."""
    del forward
    P, A = BCOO.from_scipy_sparse(problem.P), BCOO.from_scipy_sparse(problem.A)
    structure = diffqcp.QCPStructureCPU(P, A, problem.dims, psd_order="upper")
    solver = diffqcp.QCPSolver(structure, polish=False, throw=False)
    data = P.data, A.data, jnp.asarray(problem.q), jnp.asarray(problem.b)

    def solution(P_values: Any, A_values: Any, q: Any, b: Any) -> Any:
        P_matrix = structure.wrap(P_values, structure.P_pattern)
        A_matrix = structure.wrap(A_values, structure.A_pattern)
        return solver(P_matrix, A_matrix, q, b).x

    return pulled(problem, cotangent, data, solution)


def as_qp(problem: Problem, forward: Forward, cotangent: np.ndarray) -> Prepared:
    """`diffqcp.solve_qp`, whose interior-point method is a part of the program."""
    del forward

    def solution(*qp: Any) -> Any:
        return diffqcp.solve_qp(*qp, polish=False, throw=False).x

    return by_pullback(problem, cotangent, solution)


def as_program(problem: Problem, forward: Forward, cotangent: np.ndarray) -> Prepared:
    """`diffqcp.Program.at` Clarabel's solution, from functions."""

    def objective(x: Any, theta: Any) -> Any:
        P, _, q, _ = theta
        return x @ P @ x / 2 + q @ x

    def constraints(x: Any, theta: Any) -> Any:
        _, A, _, b = theta
        return A @ x - b

    at = diffqcp.Program(objective, constraints, problem.dims, psd_order="upper").at
    parts = problem.full_P.toarray(), problem.A.toarray(), problem.q, problem.b
    data = tuple(jnp.asarray(part) for part in parts)

    def solution(*theta: Any) -> Any:
        return at(theta, forward.x, forward.y, throw=False).x

    taken = forward.setup + forward.seconds
    return pulled(problem, cotangent, data, solution, taken)


OURS = {
    "diffqcp, solve_qp": as_qp,
    "diffqcp, QCPSolver": as_solver,
    "diffqcp, Program.at": as_program,
}


def rows(problem: Problem, rivals: list[str]) -> Iterator[str]:
    """One for each solver."""
    forward = solve(problem, budget=0.3)
    truth = reference(problem, forward.x, forward.y)
    exact = np.concatenate([truth.gradient.q, truth.gradient.b])

    def measure(name: str, prepared: Prepared) -> str:
        found = prepared.collect(prepared.backward())
        got = np.concatenate([found["q"], found["b"]])
        sizes = np.linalg.norm(got), np.linalg.norm(exact)
        got, want = got / sizes[0], exact / sizes[1]
        cosine = float(got @ want)
        seconds = median_seconds(prepared.backward)
        total = 1e3 * (prepared.forward + seconds)
        # One less the cosine is half of the squared distance, without cancellation.
        left = float(np.sum((got - want) ** 2)) / 2
        return f"{name} | {total:.2f} | {1e3 * seconds:.2f} | {cosine:.4f} | {left:.0e}"

    for name, prepare in OURS.items():
        if prepare is as_qp and not (problem.is_qp and problem.P.nnz):
            continue
        yield measure(name, prepare(problem, forward, truth.cotangent))
    for name in rivals:
        rival = RIVALS[name]
        if not rival.installed():
            continue
        if reason := rival.refuses(problem):
            yield f"{name} | {reason} | | | "
            continue
        try:
            for module in rival.modules:
                importlib.import_module(module)
            yield measure(name, rival.prepare(problem, truth.cotangent))
        except Exception as error:
            yield f"{name} | {type(error).__name__} | | | "


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100x20,500x100")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rivals", default=",".join(RIVALS))
    options = parser.parse_args()
    print(environment())
    print("| problem | solver | both, ms | backward, ms | cosine | 1 - cosine |")
    print("|---|---|---|---|---|---|")
    for family in options.families.split(","):
        for size in options.sizes.split(","):
            n, m = map(int, size.split("x"))
            problem = FAMILIES[family](n, m)._replace(name=f"{family} {size}")
            for row in rows(problem, [r for r in options.rivals.split(",") if r]):
                print(f"| {problem.name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
