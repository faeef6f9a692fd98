"""Moreau as a forward solver. Needs the extra `solvers`."""

from typing import Any, ClassVar

import moreau as _moreau
import numpy as np
import scipy.sparse as sp

from ..cones.psd import PSDOrder
from ._base import Found, Status
from ._host import AbstractHostSolver, check_limits, HostBatch


moreau: Any = _moreau  # it has no type information


class Moreau(AbstractHostSolver):
    """Moreau, for batches, on CPUs and NVIDIA GPUs.

    (PyPI `moreau`.) A batch is solved by one call of its compiled solver, which is made
    once for a structure and a size of the batch. Its derivatives are not used.

    **Arguments:**

    - `tol`: the tolerance of residuals and duality gap, absolute and relative; see
        [`diffqcp.Clarabel`][].
    - `accept`: if rounding errors end the solve before `tol` is reached, a solution with
        this tolerance counts as solved.
    - `max_iter`: the most iterations.
    - `method`: `"ipm"`, an interior-point method, or `"active_set"`, which is faster for
        small QPs on the CPU, but can miss that a problem is unbounded, or fail.
    - `device`: `"cpu"`, `"cuda"` or `"auto"`.
    - `threads`: into how many parts a batch is divided. One by default, since the
        compiled solver has threads of its own.
    - `settings`: further settings of its interior-point method (`moreau.IPMSettings`),
        as pairs of a name and a value.

    **Raises:** `TypeError` or `ValueError`, naming the argument, for options without
    sense, and for a method or a setting that it does not have.
    """

    tol: float = 1e-8
    accept: float = 1e-7
    max_iter: int = 200
    method: str = "ipm"
    device: str = "auto"
    threads: int | None = 1
    settings: tuple[tuple[str, Any], ...] = ()

    psd_order: ClassVar[PSDOrder] = "upper"
    own_duals: ClassVar[bool] = False

    def __check_init__(self):
        check_limits(self.tol, self.accept, self.max_iter, self.threads)
        if self.method not in ("ipm", "active_set"):
            raise ValueError(
                f"method: expected 'ipm' or 'active_set', got {self.method!r}"
            )
        known = moreau.IPMSettings.model_fields
        unknown = [name for name, _ in self.settings if name not in known]
        if unknown:
            raise ValueError(f"settings: Moreau has none of the name {unknown[0]!r}")

    def run(
        self,
        dims: dict[str, Any],
        problems: HostBatch,
        workspace: dict[str, Any],
    ) -> Found:
        """One call of the compiled solver for all of them."""
        if workspace.get("batch_size") != len(problems.q):
            workspace |= _compiled(self, dims, problems)
        solver, P_order, A_order = (workspace[key] for key in ("solver", "P", "A"))
        solver.setup(problems.P_data[:, P_order], problems.A_data[:, A_order])
        found = solver.solve(np.array(problems.q), np.array(problems.b))
        names = (status.name for status in solver.info.status)
        trouble = Status.NUMERICAL_TROUBLE
        status = np.asarray([_STATUSES.get(name, trouble) for name in names])
        steps = np.broadcast_to(solver.info.iterations, status.shape)
        return Found(found.x, found.z, found.s, status, steps)


_STATUSES = {
    "Solved": Status.SOLVED,
    "AlmostSolved": Status.SOLVED,
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
    "MaxIterations": Status.ITERATION_LIMIT,
    "MaxTime": Status.ITERATION_LIMIT,
}


def _compiled(
    options: Moreau, dims: dict[str, Any], problems: HostBatch
) -> dict[str, Any]:
    """A solver for so many problems, and the places of its matrices' entries, by rows
    and with both triangles of `P`, among those of the problems.
    """
    sizes = problems.P_data.shape[1], problems.A_data.shape[1]
    matrices: Any = [
        sp.csr_array(pattern.matrix(np.arange(1, size + 1)))
        for pattern, size in zip(problems.patterns, sizes, strict=True)
    ]
    upper, A = matrices
    P: Any = sp.csr_array(upper + sp.triu(upper, 1).T)
    tolerances = moreau.IPMSettings(
        tol_gap_abs=options.tol,
        tol_gap_rel=options.tol,
        tol_feas=options.tol,
        reduced_tol_gap_abs=options.accept,
        reduced_tol_gap_rel=options.accept,
        reduced_tol_feas=options.accept,
        **dict(options.settings),
    )
    settings = moreau.Settings(
        solver=options.method,
        device=options.device,
        batch_size=len(problems.q),
        max_iter=options.max_iter,
        ipm_settings=tolerances,
    )
    cones = moreau.Cones(
        num_zero_cones=dims["z"],
        num_nonneg_cones=dims["l"],
        so_cone_dims=list(dims["q"]),
        psd_dims=list(dims["s"]),
        num_exp_cones=dims["ep"],
        power_alphas=list(dims["p"]),
    )
    pointers = (P.indptr, P.indices, A.indptr, A.indices)
    solver = moreau.CompiledSolver(
        P.shape[0], A.shape[0], *pointers, cones=cones, settings=settings
    )
    places = {"P": P.data - 1, "A": A.data - 1}
    return {"batch_size": len(problems.q), "solver": solver, **places}
