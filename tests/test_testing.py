"""`diffqcp.testing`: what is in the package satisfies it, and what is wrong does not."""

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from diffqcp import Clarabel, InteriorPoint, LSMR, LU, Newton, SparseLDL
from diffqcp.cones import AbstractCone, NonnegativeCone
from diffqcp.testing import (
    check_cone,
    check_forward_solver,
    check_linear_solver,
    known_problem,
)

from .test_cones import CONES


CURVED = {"z": 1, "l": 2, "q": [3]}
ALL = {"z": 2, "l": 3, "q": [4, 1], "s": [3], "ep": 1, "ed": 1, "p": [0.4, -0.7]}


# The others are made of these.
CHECKED = ["nonnegative", "second-order 5", "psd 3 lower", "exponential", "dual power"]


@pytest.mark.parametrize("name", CHECKED)
def test_cones(name):
    check_cone(CONES[name][0])


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [(LU(), 1e-9), (SparseLDL(), 1e-9), (LSMR(), 1e-7)],
)
def test_linear_solvers(solver, tolerance):
    check_linear_solver(solver, tolerance=tolerance)


@pytest.mark.parametrize(
    ("solver", "dims"), [(Clarabel(), CURVED), (Newton(), None), (InteriorPoint(), None)]
)
def test_forward_solvers(solver, dims):
    check_forward_solver(solver, dims)


def test_known_problems_are_solved():
    for redundant in (False, True):
        problem = known_problem(ALL, 4, redundant=redundant)
        P, A, q, b = (
            np.asarray(getattr(p, "todense", lambda p=p: p)()) for p in problem.data
        )
        x, y, s = problem.solution
        P = P + np.triu(P, 1).T
        np.testing.assert_allclose(P @ x + A.T @ y + q, 0, atol=1e-13)
        np.testing.assert_allclose(A @ x + s, b, atol=1e-13)
        assert abs(y @ s) < 1e-13
        assert (np.linalg.matrix_rank(A[:2]) == 1) == redundant
    with pytest.raises(ValueError, match="redundant: expected two equalities"):
        known_problem({"z": 1, "l": 2}, redundant=True)


class Wrong(AbstractCone):
    """The nonnegative cone with one of its methods wrong."""

    method: str = eqx.field(static=True)

    @property
    def dim(self):
        return 3

    def project(self, v):
        return jnp.maximum(v, 0) + (0.1 if self.method == "project" else 0.0)

    def jacobian(self, v):
        found = NonnegativeCone(3).jacobian(v)
        return found.map(lambda t: 0.9 * t) if self.method == "jacobian" else found

    def smoothed_jacobian(self, v, mu):
        return NonnegativeCone(3).smoothed_jacobian(v, mu)

    def differential(self, v, dv):
        return dv if self.method == "differential" else self.jacobian(v).mv(dv)

    def dual(self):
        return NonnegativeCone(3)


@pytest.mark.parametrize(
    ("method", "claim"),
    [
        ("project", "project: v - Pi"),
        ("jacobian", "jacobian: D dv is the derivative"),
        ("differential", "differential: it is D dv"),
    ],
)
def test_wrong_cones_are_found(method, claim):
    with pytest.raises(AssertionError, match=claim):
        check_cone(Wrong(method))


class Scaled(lx.AbstractLinearSolver):
    """A solver whose solutions are off by a factor."""

    inner: lx.AbstractLinearSolver

    def init(self, operator, options):
        return self.inner.init(operator, options)

    def compute(self, state, vector, options):
        solution, result, stats = self.inner.compute(state, vector, options)
        return 1.001 * solution, result, stats

    def transpose(self, state, options):
        return self.inner.transpose(state, options)

    def conj(self, state, options):
        return self.inner.conj(state, options)

    def assume_full_rank(self):
        return False


def test_wrong_linear_solvers_are_found():
    with pytest.raises(AssertionError, match="jvp: off by"):
        check_linear_solver(Scaled(LU()))
    with pytest.raises(AssertionError, match="singular: jvp"):
        check_linear_solver(LU(well_posed=True))
