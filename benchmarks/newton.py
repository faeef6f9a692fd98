"""Newton's method as a forward solver, against Clarabel.

    python -m benchmarks.newton [--order 1e4]

For each generated problem up to the given order: Clarabel's time to solve it at its
default tolerance, set-up apart; that of `diffqcp.Newton` alone, to rounding errors, with
no start, and from the solution for other data, each entry of `A` and `q` changed by one
per cent (normally distributed); and how many steps were taken. A time in brackets is one
after which the problem is not solved: it is what Newton's method has cost before the
other solver is called.
"""

import argparse
import os
from typing import Any

from .timing import median_seconds, ONE_THREAD


os.environ |= ONE_THREAD

import jax
import numpy as np
from jax.experimental.sparse import BCOO

from diffqcp import Clarabel, Function, Newton, QCPStructureCPU
from diffqcp.forward import Found, Start

from .problems import Case, suite


CLARABEL = Clarabel()
ALONE = Newton(Function(lambda *data: None))


def lines(case: Case) -> str:
    """A row of the table."""
    problem = case.problem()
    P, A = BCOO.from_scipy_sparse(problem.P), BCOO.from_scipy_sparse(problem.A)
    structure = QCPStructureCPU(P, A, problem.dims, psd_order="upper")
    parts = (P.data, A.data, problem.q, problem.b)
    data = tuple(np.asarray(part, float)[None] for part in parts)
    rng = np.random.default_rng(0)
    P_data, A_data, q, b = data
    A_near, q_near = (
        part * (1 + rng.normal(size=part.shape) / 100) for part in (A_data, q)
    )
    near = CLARABEL.solve_batch(structure, (P_data, A_near, q_near, b), None)
    start = Start((near.x, near.y, near.s), np.zeros(1, bool))

    def measure(solver: Any, start: Start | None = None) -> tuple[float, Found]:
        def run() -> Found:
            return jax.block_until_ready(solver.solve_batch(structure, data, start))

        found = run()  # compiles
        return 1e3 * median_seconds(run), found

    def cells(time: float, found: Found) -> str:
        solved, steps = int(found.status[0]) == 0, int(found.iterations[0])
        return f"{time:.2f} ms | {steps}" if solved else f"({time:.2f} ms) |"

    timed = [measure(CLARABEL), measure(ALONE), measure(ALONE, start)]
    order = problem.n + problem.m
    return f"| {case.name} | {order} | " + " | ".join(cells(*one) for one in timed) + " |"


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--order", type=float, default=1e4)
    limit = parser.parse_args().order
    print("| problem | n + m | Clarabel | its | Newton | steps | from near | steps |")
    print("|---|---|---|---|---|---|---|---|")
    for case in suite():
        if case.order <= limit:
            print(lines(case), flush=True)


if __name__ == "__main__":
    main()
