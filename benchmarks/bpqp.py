"""BPQP's tables: forward and backward passes of dense QPs, LPs and SOCPs.

    python -m benchmarks.bpqp [--sizes 100x20,500x100,3000x1000,5000x2000]
        [--families QP,LP,SOCP] [--rivals diffcp\\ lsqr,qpax] [--budget 600]
        [--rounds 1] [--out bpqp.json]

(Pan et al., "BPQP: A Differentiable Convex Optimization Framework for Efficient
End-to-End Learning", NeurIPS 2024, tables 1 and 2: QP 3.5 and 57 ms, LP 3.0 and 32 ms,
SOCP 6.3 and 24 ms for forward and backward together, cosine similarity 0.992, 0.924,
0.989, on their machine.) `n x m` are variables and equalities: QPs have as many
inequalities too, half of them active, LPs have `x >= 0`, SOCPs a ball. One thread. The
truth about the gradient, with respect to `q` and `b`, is that of `benchmarks.reference`,
or where that would take too long, of one dense factorisation of the active constraints'
system. Each package has a process of its own, which is ended when its budget, in seconds,
is used up. Printed are the medians, the cosine similarity, and one less it. The speed of
some machines changes within a minute: in several rounds all packages are measured one
after the other, again and again, and the fastest median of each is printed.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .timing import median_seconds, ONE_THREAD


os.environ |= ONE_THREAD

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

import diffqcp

from .forward import solve
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
    A: Any = sp.vstack([rng.normal(size=(m, n)) / np.sqrt(n), -sp.eye_array(n)])
    positive = rng.permutation(n) < m
    margins = rng.uniform(0.5, 1.5, size=n)
    x, y = np.where(positive, margins, 0), np.where(positive, 0, margins)
    y, s = np.concatenate([rng.normal(size=m), y]), np.concatenate([np.zeros(m), x])
    return around(sp.csc_array((n, n)), A, {"z": m, "l": n}, x, y, s)


def ball(n: int, m: int) -> Problem:
    """A linear objective over the part of a ball in a subspace."""
    rng = np.random.default_rng(2)
    head = sp.csc_array((1, n))
    A: Any = sp.vstack([rng.normal(size=(m, n)) / np.sqrt(n), head, -sp.eye_array(n)])
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
    apply = jax.jit(lambda function, vector: function(vector))
    vector = jnp.asarray(cotangent)
    return Prepared(
        np.asarray(x),
        lambda: jax.block_until_ready(forward(*data)),
        lambda: jax.block_until_ready(apply(pullback, vector)),
        lambda found: {"q": np.asarray(found[2]), "b": np.asarray(found[3])},
        given,
    )


def as_solver(problem: Problem, cotangent: np.ndarray, forward: Any = None) -> Prepared:
    """`diffqcp.QCPSolver` with its defaults, but that it believes its solver."""
    P, A = BCOO.from_scipy_sparse(problem.P), BCOO.from_scipy_sparse(problem.A)
    structure = diffqcp.QCPStructureCPU(P, A, problem.dims, psd_order="upper")
    options = {"forward": forward, "polish": False, "throw": False}
    solver = diffqcp.QCPSolver(structure, **options)
    data = P.data, A.data, jnp.asarray(problem.q), jnp.asarray(problem.b)

    def solution(P_values: Any, A_values: Any, q: Any, b: Any) -> Any:
        P_matrix = structure.wrap(P_values, structure.P_pattern)
        A_matrix = structure.wrap(A_values, structure.A_pattern)
        return solver(P_matrix, A_matrix, q, b).x

    return pulled(problem, cotangent, data, solution)


def by_moreau(problem: Problem, cotangent: np.ndarray) -> Prepared:
    """The same by another forward solver."""
    from diffqcp.forward.moreau import Moreau

    return as_solver(problem, cotangent, Moreau(tol=1e-10))


def by_clarabel(problem: Problem, cotangent: np.ndarray) -> Prepared:
    """The same by Clarabel."""
    return as_solver(problem, cotangent, diffqcp.Clarabel())


def as_qp(problem: Problem, cotangent: np.ndarray) -> Prepared:
    """`diffqcp.solve_qp` with its defaults, but that it believes its solver."""

    def solution(*qp: Any) -> Any:
        return diffqcp.solve_qp(*qp, polish=False, throw=False).x

    return by_pullback(problem, cotangent, solution)


def as_program(problem: Problem, cotangent: np.ndarray) -> Prepared:
    """`diffqcp.Program.at` Clarabel's solution, from functions."""

    def objective(x: Any, theta: Any) -> Any:
        P, _, q, _ = theta
        return x @ P @ x / 2 + q @ x

    def constraints(x: Any, theta: Any) -> Any:
        _, A, _, b = theta
        return A @ x - b

    at = diffqcp.Program(objective, constraints, problem.dims, psd_order="upper").at
    forward = solve(problem, budget=0.3)
    parts = problem.full_P.toarray(), problem.A.toarray(), problem.q, problem.b
    data = tuple(jnp.asarray(part) for part in parts)

    def solution(*theta: Any) -> Any:
        return at(theta, forward.x, forward.y, throw=False).x

    taken = forward.setup + forward.seconds
    return pulled(problem, cotangent, data, solution, taken)


OURS = {
    "diffqcp, solve_qp": as_qp,
    "diffqcp, QCPSolver": as_solver,
    "diffqcp, QCPSolver by Clarabel": by_clarabel,
    "diffqcp, QCPSolver by moreau": by_moreau,
    "diffqcp, Program.at": as_program,
}


_LARGE = 2500
_LARGEST = 10_000


def truth(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """A cotangent of `x`, and the gradient with respect to `q` and `b`."""
    assert problem.exact is not None
    x, y, _ = problem.exact
    if problem.n + problem.m <= _LARGE:
        found = reference(problem, x, y)
        return found.cotangent, np.concatenate([found.gradient.q, found.gradient.b])
    cotangent = np.random.default_rng(1).normal(size=problem.n)
    # [P B'; B 0] [dx; dy] = [-dq; db] for the active rows B.
    equal = np.arange(problem.m) < problem.dims["z"]
    active = np.flatnonzero(equal | (y > 0))
    B = problem.A.toarray()[active]
    corner = np.zeros((active.size, active.size))
    K = np.block([[problem.full_P.toarray(), B.T], [B, corner]])
    right = np.concatenate([cotangent, np.zeros(active.size)])
    factors = sla.lu_factor(K)
    z = sla.lu_solve(factors, right)
    z += sla.lu_solve(factors, right - K @ z)
    db = np.zeros(problem.m)
    db[active] = z[problem.n :]
    return cotangent, np.concatenate([-z[: problem.n], db])


def refuses(name: str, problem: Problem) -> str | None:
    """Why there is no row."""
    large = problem.n + problem.m > _LARGE
    if name in OURS:
        if OURS[name] is as_qp:
            fits = problem.is_qp and problem.P.nnz
            return None if fits else "strictly convex QPs only"
        return "not run" if large else None
    rival = RIVALS[name]
    if not rival.installed():
        return "not installed"
    if large and rival.package in ("qpth", "proxsuite", "qpax", "jaxopt", "pounce"):
        type(rival).largest = _LARGEST
    return rival.refuses(problem)


def measure(name: str, problem: Problem) -> dict[str, Any]:
    """The times in milliseconds, and one less the cosine similarity."""
    if reason := refuses(name, problem):
        return {"reason": reason}
    cotangent, exact = truth(problem)
    if name in OURS:
        prepared = OURS[name](problem, cotangent)
    else:
        for module in RIVALS[name].modules:
            importlib.import_module(module)
        prepared = RIVALS[name].prepare(problem, cotangent)
    found = prepared.collect(prepared.backward())
    got = np.concatenate([found["q"], found["b"]])
    got, want = got / np.linalg.norm(got), exact / np.linalg.norm(exact)
    forward = 1e3 * (prepared.before + median_seconds(prepared.forward))
    backward = 1e3 * median_seconds(prepared.backward)
    # One less the cosine is half of the squared distance, without cancellation.
    left = float(np.sum((got - want) ** 2)) / 2
    return {
        "both": forward + backward,
        "backward": backward,
        "left": left,
    }


def make(family: str, size: str) -> Problem:
    """A problem by the names of its table."""
    n, m = map(int, size.split("x"))
    return FAMILIES[family](n, m)._replace(name=f"{family} {size}")


def apart(family: str, size: str, name: str, budget: float) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bpqp", "--one", family, size, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=budget)
    except subprocess.TimeoutExpired:
        return {"reason": f"more than {budget:g} s"}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        return {"reason": f"failed: {' '.join(last)[:80]}"}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100x20,500x100,3000x1000,5000x2000")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rivals", default=",".join(RIVALS))
    parser.add_argument("--budget", type=float, default=600)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        family, size, name = options.one
        print(json.dumps(measure(name, make(family, size))))
        return
    print(environment())
    print("| problem | solver | both, ms | backward, ms | cosine | 1 - cosine |")
    print("|---|---|---|---|---|---|")
    records = []
    for family in options.families.split(","):
        for size in options.sizes.split(","):
            if family != "QP" and sum(map(int, size.split("x"))) > _LARGE:
                continue  # not in the tables
            names = [*OURS, *filter(None, options.rivals.split(","))]
            fastest: dict[str, dict[str, Any]] = {}
            for _ in range(options.rounds):
                for name in names:
                    if "reason" in fastest.get(name, {}):
                        continue
                    found = apart(family, size, name, options.budget)
                    fastest[name] = min(fastest.get(name, found), found, key=_time)
            for name, found in fastest.items():
                records.append({"problem": f"{family} {size}", "solver": name, **found})
                print(row(records[-1]), flush=True)
    if options.out:
        report = {"environment": environment(), "records": records}
        options.out.write_text(json.dumps(report, indent=1))


def _time(found: dict[str, Any]) -> float:
    return found.get("both", float("inf"))


def row(record: dict[str, Any]) -> str:
    """A line of the table."""
    names = f"| {record['problem']} | {record['solver']} |"
    if "reason" in record:
        return f"{names} {record['reason']} | | | |"
    left = record["left"]
    times = f"{record['both']:.2f} | {record['backward']:.2f}"
    return f"{names} {times} | {1 - left:.4f} | {left:.0e} |"


if __name__ == "__main__":
    main()
