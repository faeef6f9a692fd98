import importlib
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..problems import Problem
from ._base import entries, only_small_qps, Prepared, Rival


class Moreau(Rival):
    """Moreau on one CPU thread: its interior-point solver in one of two modes, or its
    active-set solver.
    """

    package = "moreau"
    modules = ("moreau",)

    def __init__(self, mode: str):
        self.mode = mode
        self.name = f"moreau {mode}"
        self.note = {
            "exact": "its interior-point solver, diff_method='exact'",
            "smoothed": "its interior-point solver, diff_method='smoothed'",
            "active set": "its active-set solver, primal_tol=1e-10",
        }[mode]

    def refuses(self, problem: Problem) -> str | None:
        if self.mode == "active set":
            return only_small_qps(problem, self.largest)
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
        if self.mode == "active set":
            tight = moreau.ActiveSetSettings(primal_tol=1e-10)
            chosen = {"solver": "active_set", "active_set_settings": tight}
        else:
            tolerances = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
            tight = moreau.IPMSettings(
                diff_method=self.mode, **dict.fromkeys(tolerances, 1e-10)
            )
            chosen = {"solver": "ipm", "ipm_settings": tight}
        settings = moreau.Settings(device="cpu", enable_grad=True, **chosen)
        P, A = sp.csr_matrix(problem.full_P), sp.csr_matrix(problem.A)
        solver = moreau.Solver(P, problem.q, A, problem.b, cones, settings)
        solution = solver.solve()
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
        return Prepared(x, solver.solve, lambda: solver.backward(cotangent), collect)


def _values(matrix: sp.sparray, pattern: sp.csc_array) -> np.ndarray:
    """The entries of `matrix` at those of `pattern`, zeros included."""
    return np.ravel(sp.csr_array(matrix)[entries(pattern)])
