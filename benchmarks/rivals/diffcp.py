import importlib
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..problems import Problem
from ._base import entries, Prepared, Rival


class Diffcp(Rival):
    """diffcp with Clarabel, its derivative by LSQR (the default) or densely.

    With PSD cones it solves with SCS, to 1e-9: it returns Clarabel's duals and slacks of
    PSD cones in another order than its derivative takes them.

    A quadratic objective becomes a second-order cone, as CVXPY writes it for diffcp:
    `min q'x + t` with `(1 + t, 1 - t, sqrt(2) R x)` in the cone and `P = R'R`.
    """

    package = "diffcp"
    modules = ("diffcp",)

    def __init__(self, mode: str):
        self.mode = mode
        self.name = f"diffcp {mode}"
        self.note = f"mode='{mode}'; forms its matrix in the forward call; P as a cone"

    def refuses(self, problem: Problem) -> str | None:
        if problem.dims.get("p"):
            return "no derivative with power cones through Clarabel"
        order = problem.n + problem.m
        if self.mode == "dense" and order > 1500:
            return "dense: tried up to n + m = 1500"
        if problem.P.nnz > problem.n and problem.n > 2000:
            return "P is not diagonal: factored up to n = 2000"
        return None

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        diffcp: Any = importlib.import_module("diffcp")
        A, b, c, dims, kept = _linear_objective(problem)

        def solve() -> Any:
            solver = _SCS if dims.get("s") else _CLARABEL
            matrix = sp.csc_matrix(A)
            return diffcp.solve_and_derivative(
                matrix, b, c, dims, mode=self.mode, **solver
            )

        x, _, _, _, adjoint = solve()
        dx = np.zeros(c.size)
        dx[: problem.n] = cotangent
        zero = np.zeros(b.size)

        def collect(found: tuple[Any, ...]) -> dict[str, np.ndarray]:
            dA, db, dc = found
            rows, cols = entries(problem.A)
            back = sp.csr_array(dA)[kept]
            return {
                "q": dc[: problem.n],
                "b": db[kept],
                "A": np.ravel(back[rows, cols]),
            }

        return Prepared(x[: problem.n], solve, lambda: adjoint(dx, zero, zero), collect)


_CLARABEL = {
    "solve_method": "Clarabel",
    "tol_gap_abs": 1e-10,
    "tol_gap_rel": 1e-10,
    "tol_feas": 1e-10,
    "max_threads": 1,
}
_SCS = {"solve_method": "SCS", "eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 100000}


def _linear_objective(problem: Problem) -> tuple[Any, np.ndarray, np.ndarray, dict, Any]:
    """Data with a linear objective, and where the rows of `A` are among theirs."""
    order = _lower_order(problem)
    A, b, dims = sp.csr_array(problem.A)[order], problem.b[order], dict(problem.dims)
    if not problem.P.nnz:
        return A, b, problem.q, dims, np.argsort(order)
    root = np.sqrt(2) * _root(problem)
    head = sp.csr_array(
        ([-1.0, 1.0], ([0, 1], [problem.n, problem.n])), (2, problem.n + 1)
    )
    tail = sp.hstack([-root, sp.csr_array((root.shape[0], 1))])
    epigraph = sp.vstack([head, tail])
    at = dims.get("z", 0) + dims.get("l", 0)
    wide = sp.csr_array(sp.hstack([A, sp.csr_array((problem.m, 1))]))
    everything = sp.vstack([wide[:at], epigraph, wide[at:]])
    right = np.concatenate([b[:at], [1.0, 1.0], np.zeros(root.shape[0]), b[at:]])
    dims["q"] = [root.shape[0] + 2, *dims.get("q", [])]
    place = np.arange(problem.m)
    place[at:] += root.shape[0] + 2
    kept = place[np.argsort(order)]
    return everything, right, np.append(problem.q, 1.0), dims, kept


def _root(problem: Problem) -> sp.sparray:
    """`R` with `P = R'R`, without rows of zeros."""
    if problem.P.nnz <= problem.n:
        diagonal = problem.P.diagonal()
        return sp.csr_array(sp.diags_array(np.sqrt(diagonal)))[diagonal > 0]
    values, vectors = np.linalg.eigh(problem.full_P.toarray())
    kept = values > 1e-12 * values[-1]
    return sp.csr_array(np.sqrt(values[kept])[:, None] * vectors[:, kept].T)


def _lower_order(problem: Problem) -> np.ndarray:
    """Rows in diffcp's order: PSD matrices as lower triangles by columns."""
    order = np.arange(problem.m)
    start = sum(problem.dims.get(key, 0) for key in "zl") + sum(problem.dims.get("q", []))
    for size in problem.dims.get("s", []):
        cols, rows = np.tril_indices(size)
        place = np.zeros((size, size), int)
        place[rows, cols] = place[cols, rows] = np.arange(rows.size)
        cols, rows = np.triu_indices(size)
        order[start : start + rows.size] = start + place[rows, cols]
        start += rows.size
    return order
