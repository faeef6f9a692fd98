"""The steps that the README of the published package, 0.4, asks for, with its names."""

import warnings

import clarabel
import cvxpy as cvx
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from cvxpy.reductions.solvers.conic_solvers.clarabel_conif import dims_to_solver_cones
from jax.experimental.sparse import BCOO, BCSR

from diffqcp import DeviceQCP, HostQCP, QCPStructureCPU, QCPStructureGPU


TIGHT = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)


def pairs(alpha):
    """A cone as `pnd`, of the two exponents that a three-dimensional one has."""
    x, z = cvx.Variable(2), cvx.Variable(1)
    cone = cvx.PowConeND(
        cvx.reshape(x, (2, 1), order="F"), z, np.array([[alpha], [1 - alpha]])
    )
    # Beside one of `p`, whose rows come first, and one of `l`.
    u = cvx.Variable(3)
    other = cvx.PowCone3D(u[0], u[1], u[2], 0.6)
    objective = cvx.sum_squares(x - 1) + cvx.sum_squares(u[:2] - 1) - z[0] - 2 * u[2]
    return cvx.Problem(cvx.Minimize(objective), [cone, other, x[0] <= 1.1])


def quadratic():
    x = cvx.Variable(3)
    objective = cvx.sum_squares(x - np.array([1.4, -2.0, 3.0])) + cvx.norm1(x)
    return cvx.Problem(cvx.Minimize(objective), [cvx.sum(x) == 1, x >= -1])


@pytest.mark.parametrize("make", [quadratic, lambda: pairs(0.3)])
def test_steps(make):
    problem = make()
    prob_data, _, _ = problem.get_problem_data(
        cvx.CLARABEL, solver_opts={"use_quad_obj": True}
    )
    dims_to_solver_dict = (
        cvx.reductions.solvers.conic_solvers.scs_conif.dims_to_solver_dict
    )
    scs_cones = dims_to_solver_dict(prob_data["dims"])
    q, b = jnp.asarray(prob_data["c"]), jnp.asarray(prob_data["b"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(solver=cvx.CLARABEL, use_quad_obj=True, **TIGHT)
    found = problem._solver_cache["CLARABEL"].get_solution()
    x, y, s = (jnp.array(part) for part in (found.x, found.z, found.s))

    P_upper, A_coo = sp.triu(prob_data["P"]), sp.coo_array(prob_data["A"])
    P, A = BCOO.from_scipy_sparse(P_upper), BCOO.from_scipy_sparse(A_coo)
    problem_structure = QCPStructureCPU(P, A, scs_cones)
    qcp = HostQCP(P, A, q, b, x, y, s, problem_structure)
    rng = np.random.default_rng(0)
    db = jnp.asarray(rng.normal(size=b.size))
    zeros = P * 0.0, A * 0.0
    dx, dy, ds = qcp.jvp(*zeros, jnp.zeros(q.size), db)

    # The truth is a solution for b + h db by Clarabel alone.
    def solved(b):
        cones = dims_to_solver_cones(prob_data["dims"])
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        for name, value in TIGHT.items():
            setattr(settings, name, value)
        P, A = sp.csc_array(P_upper), sp.csc_array(A_coo)
        solver = clarabel.DefaultSolver(
            P, np.asarray(q), A, np.asarray(b), cones, settings
        )
        return np.array(solver.solve().x)

    step = 1e-4
    difference = (solved(b + step * db) - solved(b - step * db)) / (2 * step)
    # Clarabel's errors of 1e-10 over the step.
    np.testing.assert_allclose(dx, difference, rtol=0, atol=1e-5)

    dP, dA, dq, db_bar = qcp.vjp(dx, dy, ds)
    np.testing.assert_allclose(
        db_bar @ db, dx @ dx + dy @ dy + ds @ ds, rtol=1e-9, atol=0
    )

    P, A = BCSR.from_scipy_sparse(sp.csr_array(prob_data["P"])), BCSR.from_bcoo(A)
    problem_structure = QCPStructureGPU(P, A, scs_cones)
    device = DeviceQCP(P, A, q, b, x, y, s, problem_structure)
    np.testing.assert_allclose(device.vjp(dx, dy, ds)[3], db_bar, rtol=0, atol=1e-8)
