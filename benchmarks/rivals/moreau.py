import importlib
import time
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..problems import Problem
from ._base import entries, Prepared, Rival


class Moreau(Rival):
    """Moreau's interior-point solver on one CPU thread, in one of its two modes."""

    package = "moreau"
    modules = ("moreau",)

    def __init__(self, mode: str):
        self.mode = mode
        self.name = f"moreau {mode}"
        self.note = f"backward() of the solver that solved, diff_method='{mode}'"

    def refuses(self, problem: Problem) -> str | None:
        others = [key for key in ("s", "ep", "ed", "p") if problem.dims.get(key)]
        if self.mode == "smoothed" and others:
            return "smoothed: zero, nonnegative and second-order cones only"
        return "no dual exponential cones" if problem.dims.get("ed") else None

    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        moreau: Any = importlib.import_module("moreau")
        dims = problem.dims
        cones = moreau.Cones(
            num_zero_cones=dims.get("z", 0),
            num_nonneg_cones=dims.get("l", 0),
            so_cone_dims=dims.get("q", []),
            psd_dims=dims.get("s", []),
            num_exp_cones=dims.get("ep", 0),
            power_alphas=dims.get("p", []),
        )
        ipm = moreau.IPMSettings(
            diff_method=self.mode, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10
        )
        settings = moreau.Settings(
            solver="ipm", device="cpu", enable_grad=True, ipm_settings=ipm
        )
        P, A = sp.csr_matrix(problem.full_P), sp.csr_matrix(problem.A)
        solver = moreau.Solver(P, problem.q, A, problem.b, cones, settings)
        started = time.perf_counter()
        solution = solver.solve()
        seconds = time.perf_counter() - started
        if str(solver.info.status) not in ("Solved", "AlmostSolved"):
            raise RuntimeError(f"not solved: {solver.info.status}")

        def collect(found: dict[str, Any]) -> dict[str, np.ndarray]:
            parts = {key: np.ravel(value) for key, value in found.items()}
            dP = sp.csr_array((parts["dP_values"], P.indices, P.indptr), P.shape)
            dA = sp.csr_array((parts["dA_values"], A.indices, A.indptr), A.shape)
            both = sp.triu(dP) + sp.triu(dP.T, 1)
            return {
                "q": parts["dq"],
                "b": parts["db"],
                "P": _values(both, problem.P),
                "A": _values(dA, problem.A),
            }

        x = np.ravel(solution.x)
        return Prepared(x, seconds, lambda: solver.backward(cotangent), collect)


def _values(matrix: sp.sparray, pattern: sp.csc_array) -> np.ndarray:
    """The entries of `matrix` at those of `pattern`, zeros included."""
    return np.ravel(sp.csr_array(matrix)[entries(pattern)])
