"""The report on what a derivative rests on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffqcp import HostQCP, QCPStructureCPU

from .helpers import entries, host
from .reference import project_dual, random_problem


def test_a_regular_problem():
    dims = {"z": 1, "l": 3, "q": [3], "s": [2], "ep": 2, "p": [0.4]}
    problem, solution = random_problem(dims, 1)
    qcp = host(problem, solution)
    report = qcp.regularity()
    assert report.differentiable and report.rank_deficiency == 0
    assert report.verdict.startswith("The solution map is differentiable")
    assert set(report.margins) == {"l", "q", "s", "ep", "p"}
    v = solution[1] - solution[2]
    assert report.margins["l"] == pytest.approx(np.abs(v[1:4]).min())
    assert max(report.primal, report.dual, report.gap) < 1e-12
    kkt = qcp.derivative("jax-lu").kkt.as_matrix()
    assert report.condition == pytest.approx(np.linalg.cond(kkt), rel=1e-6)
    # The projection is smooth within the margins: its differences there are symmetric.
    for seed in range(5):
        step = np.random.default_rng(seed).normal(size=v.size)
        step *= 1e-3 * min(report.margins.values()) / np.linalg.norm(step)
        middle = project_dual(dims, v)
        second = project_dual(dims, v + step) + project_dual(dims, v - step) - 2 * middle
        assert np.abs(second).max() < 1e-2 * np.linalg.norm(step)


def test_kinks_and_singular_systems():
    # minimise |x|^2 / 2 s.t. x <= 0, twice: weakly active.
    P, A = np.eye(1), np.array([[1.0], [1.0]])
    structure = QCPStructureCPU(entries(P, P), entries(A, A), {"l": 2})
    zero, none = np.zeros(1), np.zeros(2)
    qcp = HostQCP(entries(P, P), entries(A, A), zero, none, zero, none, none, structure)
    report = qcp.regularity()
    assert report.margins == {"l": 0.0} and not report.differentiable
    assert "Strict complementarity fails" in report.verdict
    # The same with q = -1: both rows active, each with a multiplier, one too many.
    y = np.array([0.5, 0.5])
    qcp = HostQCP(entries(P, P), entries(A, A), zero - 1, none, zero, y, none, structure)
    report = qcp.regularity()
    assert report.rank_deficiency == 1 and not report.differentiable
    assert "1 zero eigenvalues" in report.verdict
    wrong = HostQCP(
        entries(P, P), entries(A, A), zero - 1, none, zero + 1, y, none, structure
    )
    assert "not accurate" in wrong.regularity().verdict
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda qcp: jnp.asarray(qcp.regularity().condition))(qcp)
