"""Forward solvers: solutions, gradients against differences, warm starts, batches."""

import importlib
import importlib.util

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffqcp
from diffqcp import (
    Clarabel,
    Function,
    InteriorPoint,
    Newton,
    Proximal,
    QCPSolver,
    QCPStructureDense,
    solver,
)
from diffqcp._extension import extension

from .reference import differences, random_direction, random_problem


ALL = {"z": 1, "l": 2, "q": [3, 1, 0], "s": [3, 1], "ep": 1, "ed": 1, "p": [0.4, -0.7]}


def clarabel_function(P, A, q, b, dims):
    """As a user would write it."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.ZeroConeT(dims["z"]), clarabel.NonnegativeConeT(dims["l"])]
    found = clarabel.DefaultSolver(P, q, A, b, cones, settings).solve()
    return found.x, found.z, found.s


def solvers(dims):
    """Those that take the cones, with how accurate the gradient has to be."""
    scs = pytest.importorskip("diffqcp.forward.scs")
    qp = set(dims) <= {"z", "l"}
    options = {"clarabel": Clarabel(), "scs": scs.SCS(), "newton": Newton()}
    if importlib.util.find_spec("moreau"):
        options["moreau"] = importlib.import_module("diffqcp.forward.moreau").Moreau()
    if qp:
        options |= {
            "interior point": InteriorPoint(),
            "function": Function(clarabel_function),
        }
    return options


def dense(problem):
    return tuple(jnp.asarray(getattr(problem, part)) for part in "PAqb")


@pytest.mark.parametrize("dims", [{"z": 2, "l": 6}, ALL], ids=["qp", "all cones"])
def test_gradients_through_every_forward_solver(dims):
    """A JVP against differences of solutions found by other code."""
    problem, solution = random_problem(dims, 1, order="lower")
    direction = random_direction(problem, 2)
    expected = differences(problem, solution, direction)
    data, change = dense(problem), dense(direction)
    structure = QCPStructureDense(*data[:2], dims, psd_order="lower")
    for name, forward in solvers(dims).items():
        solver = QCPSolver(structure, forward=forward)

        @jax.jit
        def jvp(data, change, solver=solver):
            found, moved = jax.jvp(lambda *data: solver(*data), data, change)
            return found, (moved.x, moved.y, moved.s)

        found, moved = jvp(data, change)
        for part, exact in zip((found.x, found.y, found.s), solution, strict=True):
            np.testing.assert_allclose(part, exact, rtol=0, atol=1e-10, err_msg=name)
        for part, exact in zip(moved, expected, strict=True):
            error = np.linalg.norm(part - exact) / np.linalg.norm(exact)
            assert error < 1e-6, (name, error)


def test_warm_start():
    scs = pytest.importorskip("diffqcp.forward.scs")
    problem, _ = random_problem({"z": 2, "l": 6, "q": [4]}, 1)
    data = dense(problem)
    structure = QCPStructureDense(*data[:2], problem.dims)
    solver = QCPSolver(structure, forward=scs.SCS(tol=1e-8))
    cold = solver(*data)
    warm = solver(*data, start=cold)
    assert warm.iterations < cold.iterations
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-10)


def test_history_and_company_do_not_matter():
    """The solver object is reused: other problems before or beside one, bad ones too,
    leave its solution as it is.
    """
    problem, solution = random_problem({"z": 1, "l": 4, "q": [3]}, 1)
    P, A, q, b = dense(problem)
    for forward in solvers(problem.dims).values():
        structure = QCPStructureDense(P, A, problem.dims)
        solver = QCPSolver(structure, forward=forward, throw=False)
        scales = jnp.asarray([jnp.nan, 1e6, 1.0, 1e-6, jnp.inf, 1.0])
        found = jax.vmap(lambda k, solver=solver: solver(P, k * A, q, k * b))(scales)
        status = np.asarray(found.status)
        bad = int(diffqcp.Status.NOT_FINITE)
        np.testing.assert_array_equal(status[[0, 2, 4, 5]], [bad, 0, bad, 0])
        for k in (2, 5):
            np.testing.assert_allclose(found.x[k], solution[0], atol=1e-10)
        assert np.all(np.isnan(np.asarray(found.x)[[0, 4]]))


def test_statuses():
    A, b = jnp.asarray([[1.0], [-1.0]]), jnp.asarray([-1.0, -1.0])
    one, none = jnp.ones((1, 1)), jnp.zeros((1, 1))
    for name, forward in solvers({"l": 2}).items():
        if name == "function":
            continue
        options = {"forward": forward, "throw": False}
        found = diffqcp.solve(one, A, jnp.ones(1), b, {"l": 2}, **options)
        assert found.status == diffqcp.Status.INFEASIBLE, name
        assert np.isnan(found.x[0]) and np.isnan(found.objective)
        found = diffqcp.solve(none, A[:1], jnp.ones(1), b[:1], {"l": 1}, **options)
        assert found.status == diffqcp.Status.UNBOUNDED, name
        assert np.isnan(found.y[0])
        found = diffqcp.solve(one, A, jnp.ones(1), b * jnp.inf, {"l": 2}, **options)
        assert found.status == diffqcp.Status.NOT_FINITE, name
    nothing = Function(lambda *data: None)
    found = diffqcp.solve(one, A, jnp.ones(1), -b, {"l": 2}, forward=nothing, throw=False)
    assert found.status == diffqcp.Status.NUMERICAL_TROUBLE
    # What a solver does not get done is done by another one.
    options = {"forward": Clarabel(max_iter=1), "throw": False}
    found = diffqcp.solve(one, A, jnp.ones(1), -b, {"l": 2}, **options)
    assert found.status == diffqcp.Status.SOLVED
    np.testing.assert_allclose(found.x, -1, rtol=0, atol=1e-14)


def test_float32():
    problem, solution = random_problem({"z": 1, "l": 4}, 1)
    data = tuple(part.astype(jnp.float32) for part in dense(problem))
    structure = QCPStructureDense(*data[:2], problem.dims)
    for forward in (Clarabel(), InteriorPoint()):
        found = QCPSolver(structure, forward=forward)(*data)
        assert found.x.dtype == jnp.float32 and found.objective.dtype == jnp.float32
        # Rounding errors times the condition number of K, about 1e2.
        np.testing.assert_allclose(found.x, solution[0], atol=1e-4)


def test_default_solver(monkeypatch):
    """The proximal method where the extension computes, else Clarabel."""

    def default(dims, rows):
        structure = QCPStructureDense(jnp.eye(2), jnp.ones((rows, 2)), dims)
        return type(QCPSolver(structure).forward)

    compiled = extension() is not None
    few = Proximal if compiled else Clarabel
    assert default({"z": 1, "l": 2}, 3) is few
    assert default({"ep": 1, "q": [3]}, 6) is few
    assert default({"ep": 110, "ed": 110}, 660) is Clarabel
    monkeypatch.setattr(solver, "in_programs", lambda *_: False)
    assert default({"z": 1, "l": 2}, 3) is Clarabel
