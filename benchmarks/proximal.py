"""`diffqcp.Proximal`, cold and without another solver, beside Clarabel and ProxQP.

    python -m benchmarks.proximal families
    python -m benchmarks.proximal batch
    python -m benchmarks.proximal maros --maros FOLDER [--max-size 1500] [--limit 20]

`families` are those of `benchmarks.problems`, one line for a problem: the steps, the
time, and the error. `batch` is 64 shortest-path problems on a 5 x 5 grid with costs of
their own, in one jitted program. `maros` counts what is solved of Maros and Meszaros'
problems. Each problem is solved in a process of its own; seconds are those of the
processor, medians after a warm-up, one thread.

The error is the largest of the residuals of the optimality conditions, each relative to
its largest term or to one: `A x + s = b`, `P x + A'y + q = 0`, `s'y = 0`, and the signs
of `s` and `y` in the rows of nonnegative cones. It counts as
solved if that is at most 1e-9.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .timing import ONE_THREAD


os.environ |= ONE_THREAD

import clarabel
import jax
import jax.numpy as jnp
import numpy as np

import diffqcp
from diffqcp._scaling import equilibrate
from diffqcp.forward import Status

from .forward import cones, solve
from .ours import host_qcp
from .problems import combinatorial, maros_cases, Problem, suite
from .run import environment
from .table import power, seconds
from .timing import in_turns, median_seconds, once


def error(problem: Problem, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> float:
    """As above."""
    P, A, q, b = problem.full_P, problem.A, problem.q, problem.b
    zeros, signed = problem.dims.get("z", 0), problem.dims.get("l", 0)
    rows = slice(zeros, zeros + signed)
    low = np.concatenate([s[rows], y[rows], -np.abs(s[:zeros])])
    terms = (
        ([A @ x, s, -b], np.inf),
        ([P @ x, A.T @ y, q], np.inf),
        ([s @ y, x @ (P @ x), q @ x, b @ y], 1),
        ([np.minimum(low, 0), s, y], 1),
    )
    found = []
    for parts, used in terms:
        residual = sum(parts) if used == np.inf else parts[0]
        size = 1 + max(np.abs(part).max(initial=0) for part in parts)
        found.append(np.abs(residual).max(initial=0) / size)
    return float(max(found))


def by_proximal(problem: Problem) -> dict[str, Any]:
    """In units of the problem's own, as `QCPSolver` does."""
    nothing = np.zeros(problem.n), np.zeros(problem.m), np.zeros(problem.m)
    structure = host_qcp(problem, *nothing).problem_structure

    @jax.jit
    def run(*data: Any) -> Any:
        scaling = equilibrate(structure, data)
        scaled = scaling.data(structure, data)
        found = diffqcp.Proximal().solve(structure, scaled, None)
        solution = scaling.restore(found[:3])
        return solution, found.status, found.iterations

    parts = problem.P.data, problem.A.data, problem.q, problem.b
    data = [jnp.asarray(part) for part in parts]
    (solution, status, steps), first = once(
        lambda: jax.block_until_ready(run(*data)), clock=time.process_time
    )
    return {
        "steps": int(steps),
        "status": Status(int(status)).name.lower().replace("_", " "),
        "error": error(problem, *map(np.asarray, solution)),
        "first": first,
        "seconds": _seconds(lambda: jax.block_until_ready(run(*data))),
    }


def by_clarabel(problem: Problem) -> dict[str, Any]:
    """With the smallest tolerance of 1e-10, 1e-9, 1e-8 that it reaches."""
    found = solve(problem)
    return {
        "steps": found.iterations,
        "status": found.status.lower(),
        "error": error(problem, found.x, found.y, found.s),
        "seconds": found.setup + found.seconds,
    }


def by_proxqp(problem: Problem) -> dict[str, Any]:
    """proxsuite's sparse ProxQP with tolerances of 1e-10, and of certificates 1e-12."""
    import proxsuite

    if not problem.is_qp:
        return {"status": "QPs only"}
    zeros = problem.dims.get("z", 0)
    rows = problem.A.tocsr()
    E, G = rows[:zeros].tocsc(), rows[zeros:].tocsc()
    b, h = problem.b[:zeros], problem.b[zeros:]

    def run() -> Any:
        qp = proxsuite.proxqp.sparse.QP(problem.n, zeros, h.size)
        qp.settings.eps_abs = qp.settings.eps_rel = 1e-10
        # All problems are feasible, but many are not by the default tolerances.
        qp.settings.eps_primal_inf = qp.settings.eps_dual_inf = 1e-12
        data = problem.full_P, problem.q, E, b, G, np.full(h.size, -1e20), h
        qp.init(*data)
        qp.solve()
        return qp.results

    found = run()
    y, x = np.concatenate([found.y, found.z]), np.array(found.x)
    s = problem.b - problem.A @ x
    s[:zeros] = 0
    s[zeros:] = np.maximum(s[zeros:], 0)
    return {
        "steps": int(found.info.iter),
        "status": str(found.info.status).rpartition("_")[2].lower(),
        "error": error(problem, x, y, s),
        "seconds": _seconds(run),
    }


def _seconds(run: Any) -> float:
    return median_seconds(run, clock=time.process_time)


SOLVERS = {"Proximal": by_proximal, "Clarabel": by_clarabel, "ProxQP": by_proxqp}


def apart(name: str, solver: str, options: argparse.Namespace) -> dict[str, Any]:
    """A problem by a solver, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.proximal", "--one", name, solver]
    if options.maros:
        command += ["--maros", str(options.maros)]
    # What JAX takes to start and to compile is not the solver's.
    budget = 3 * options.limit + 60
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=budget)
    except subprocess.TimeoutExpired:
        return {"status": "too long"}
    if done.returncode:
        return {"status": f"failed: {done.stderr.strip().splitlines()[-1][:60]}"}
    return json.loads(done.stdout.splitlines()[-1])


def solved(found: dict[str, Any], limit: float) -> bool:
    """Whether it counts."""
    return found.get("error", np.inf) <= 1e-9 and found["seconds"] <= limit


def table_of_problems(names: dict[str, int], options: argparse.Namespace) -> None:
    """Prints it, a line for a problem, and then how many each has solved."""
    titles = "".join(f" {name}: steps | time | error |" for name in options.solvers)
    print(f"| problem | n + m |{titles}")
    print("|---|---|" + "---|" * (3 * len(options.solvers)), flush=True)
    all_found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.solvers}
    for name, order in names.items():
        cells = [name, str(order)]
        for solver in options.solvers:
            found = apart(name, solver, options)
            all_found[solver].append(found)
            steps = found.get("steps", found["status"])
            cells += [
                str(steps),
                seconds(found.get("seconds")),
                power(found.get("error")),
            ]
        print(f"| {' | '.join(cells)} |", flush=True)
    for solver, found in all_found.items():
        good = [one["seconds"] for one in found if solved(one, options.limit)]
        median = seconds(float(np.median(good))) if good else ""
        print(f"{solver}: {len(good)} of {len(found)}, median time {median}")


def table_of_batch(items: int = 64, rounds: int = 60) -> None:
    """The forward pass of a batch under `jit` and `vmap`, with both solvers, and one
    problem after the other by Clarabel's own interface.
    """
    problem = combinatorial.shortest_path(125)
    qcp = host_qcp(problem, *(np.zeros(k) for k in (problem.n, problem.m, problem.m)))
    costs = np.random.default_rng(0).uniform(0.5, 1.5, (items, problem.n))
    q = jnp.asarray(costs)
    calls: dict[str, Callable[[], Any]] = {}
    for forward in (diffqcp.Proximal(), diffqcp.Clarabel()):
        solver = diffqcp.QCPSolver(qcp.problem_structure, forward=forward)
        run = jax.jit(jax.vmap(lambda q, f=solver: f(qcp.P, qcp.A, q, qcp.b)))
        name = type(forward).__name__
        calls[name] = lambda run=run: jax.block_until_ready(run(q)).iterations
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1
    kinds = cones(problem.dims)

    def each() -> list[int]:
        parts = problem.A, problem.b, kinds, settings
        solvers = (clarabel.DefaultSolver(problem.P, q, *parts) for q in costs)
        return [solver.solve().iterations for solver in solvers]

    calls["Clarabel alone, to 1e-8"] = each
    starts = {name: once(call, clock=time.process_time) for name, call in calls.items()}
    times = in_turns(calls, rounds, clock=time.process_time)
    print("| solver | first call | median | fastest | most steps |")
    print("|---|---|---|---|---|")
    for name, (steps, first) in starts.items():
        middle, least = float(np.median(times[name])), min(times[name])
        parts = " | ".join(map(seconds, (first, middle, least)))
        print(f"| {name} | {parts} | {int(np.max(steps))} |")


def main() -> None:
    """Measures, and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=["families", "batch", "maros", []])
    parser.add_argument("--maros", type=Path, help="folder of the Maros-Meszaros set")
    parser.add_argument("--max-size", type=float, default=1500, help="largest n + m")
    parser.add_argument("--limit", type=float, default=20, help="seconds")
    parser.add_argument("--solvers", default="Proximal,Clarabel,ProxQP")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.solvers = options.solvers.split(",")
    maros = maros_cases(options.maros) if options.maros else []
    if options.one:
        name, solver = options.one
        problem = next(case.problem() for case in suite() + maros if case.name == name)
        print(json.dumps(SOLVERS[solver](problem)))
        return
    print(environment())
    if "batch" in options.what:
        table_of_batch()
    for kind, cases in (("families", suite()), ("maros", maros)):
        if kind in options.what:
            names = {k.name: k.order for k in cases if k.order <= options.max_size}
            table_of_problems(names, options)


if __name__ == "__main__":
    main()
