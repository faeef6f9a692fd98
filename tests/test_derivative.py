"""The derivative of each cone's problems against finite differences, both directions."""

import functools
import itertools

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp

from .helpers import (
    device,
    device_data,
    FAMILIES,
    host,
    host_data,
    inner,
    only,
    worst,
)
from .reference import differences, random_direction, random_problem


TOLERANCES = {"jax-lu": 1e-8, "jax-lsmr": 1e-7, "ldl": 1e-8}
FORMS = {"host": (host, host_data), "device": (device, device_data)}
ORDERS = {"psd": "upper"}


@functools.cache
def example(name):
    """A problem, its solution, a direction, and the derivatives along its parts."""
    problem, solution = random_problem(FAMILIES[name], 1, order=ORDERS.get(name, "lower"))
    direction = random_direction(problem, 2)
    truth = {
        name: differences(problem, solution, only(direction, name)) for name in "PAqb"
    }
    return problem, solution, direction, truth


@pytest.fixture(params=FAMILIES)
def family(request):
    return example(request.param)


# All cones by both implementations of them: by JAX's all at once, since each pattern is
# compiled anew, and those with a rule of their own. An iterative solver has no part in
# that, nor has the form; the device's through other solvers is in test_csr.
@pytest.mark.parametrize(
    ("name", "form", "method"),
    [
        *itertools.product(FAMILIES, ["host", "device"], ["ldl"]),
        *itertools.product(["mixed", "psd"], ["host"], ["jax-lu"]),
        ("second-order", "host", "jax-lsmr"),
    ],
)
def test_jvp_and_vjp(name, form, method):
    problem, solution, direction, truth = example(name)
    make, data = FORMS[form]
    qcp = make(problem, solution)
    rng = np.random.default_rng(3)
    cotangents = [rng.normal(size=part.size) for part in solution]
    gradient = qcp.vjp(*cotangents, solve_method=method)
    for name, expected in truth.items():
        perturbation = data(problem, only(direction, name))
        tangents = qcp.jvp(*perturbation, solve_method=method)
        assert worst(tangents, expected) < TOLERANCES[method], name
        # The vjp against the same truth, by its action on the perturbation.
        forward, backward = inner(cotangents, expected), inner(gradient, perturbation)
        size = np.linalg.norm(np.concatenate(expected))
        assert abs(forward - backward) < TOLERANCES[method] * size, name
        # The adjoint identity.
        assert abs(inner(cotangents, tangents) - backward) < 1e-10 * size, name


def test_device_agrees_with_host(family):
    problem, solution, _, _ = family
    rng = np.random.default_rng(3)
    cotangents = [rng.normal(size=part.size) for part in solution]
    dP, dA, dq, db = host(problem, solution).vjp(*cotangents)
    full_dP, full_dA, full_dq, full_db = device(problem, solution).vjp(*cotangents)
    np.testing.assert_allclose(full_dA.todense(), dA.todense(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(full_dq, dq, rtol=0, atol=1e-12)
    np.testing.assert_allclose(full_db, db, rtol=0, atol=1e-12)
    # A stored entry of HostQCP's P stands for two of DeviceQCP's.
    symmetric = np.asarray(full_dP.todense())
    np.testing.assert_allclose(symmetric, symmetric.T, rtol=0, atol=1e-14)
    upper = np.triu(symmetric) + np.triu(symmetric.T, 1)
    np.testing.assert_allclose(dP.todense(), upper, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "method"), [*((name, "ldl") for name in FAMILIES), ("mixed", "jax-lu")]
)
def test_operator(name, method):
    problem, solution, direction, _ = example(name)
    qcp = host(problem, solution)
    derivative = qcp.derivative(method)
    dP, dA, dq, db = host_data(problem, direction)
    data = (dP.data, dA.data, dq, db)
    matrix = np.asarray(derivative.as_matrix())
    product = matrix @ np.concatenate(data)
    tangents = derivative.mv(data)
    np.testing.assert_allclose(np.concatenate(tangents), product, rtol=0, atol=1e-9)
    for got, expected in zip(qcp.jvp(dP, dA, dq, db, method), tangents, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        derivative.T.as_matrix(), matrix.T, rtol=0, atol=1e-10 * np.abs(matrix).max()
    )
    assert derivative.T.T is derivative
    assert derivative.in_size() == derivative.T.out_size() == matrix.shape[1]
    assert derivative.out_size() == derivative.T.in_size() == matrix.shape[0]


SETTINGS = clarabel.DefaultSettings()
SETTINGS.verbose = False


def solve_by_clarabel(problem):
    """At its default tolerance."""
    cones = [
        clarabel.ZeroConeT(problem.dims["z"]),
        clarabel.NonnegativeConeT(problem.dims["l"]),
    ]
    P, A = sp.csc_matrix(np.triu(problem.P)), sp.csc_matrix(problem.A)
    solver = clarabel.DefaultSolver(P, problem.q, A, problem.b, cones, SETTINGS)
    solution = solver.solve()
    return tuple(np.array(part) for part in (solution.x, solution.z, solution.s))


@pytest.mark.parametrize("method", TOLERANCES)
def test_default_tolerance_is_enough_for_a_qp(method):
    """The active set is right, and the Newton step ends at the exact solution."""
    errors = {True: [], False: []}
    # A problem's pattern is its own, and only one solver does not compile for it.
    for seed in range(5 if method == "ldl" else 1):
        problem, exact = random_problem({"z": 3, "l": 12}, seed)
        found = solve_by_clarabel(problem)
        assert np.linalg.norm(found[0] - exact[0]) > 1e-10
        rng = np.random.default_rng(seed)
        cotangents = [rng.normal(size=part.size) for part in exact]
        truth = host(problem, exact).vjp(*cotangents, "jax-lu", polish=False)
        for polish, collected in errors.items():
            got = host(problem, found).vjp(*cotangents, method, polish=polish)
            parts = [(a.data, b.data) for a, b in zip(got[:2], truth[:2], strict=True)]
            parts += zip(got[2:], truth[2:], strict=True)
            collected.append(worst(*zip(*parts, strict=True)))
    assert max(errors[True]) < 1e-10
    assert 1e-9 < max(errors[False]) < 1e-4


@pytest.mark.parametrize(
    ("name", "method"), [*((name, "ldl") for name in FAMILIES), ("mixed", "jax-lu")]
)
def test_polishing_keeps_exact_solutions_and_mends_rough_ones(name, method):
    problem, (x, y, s), _, _ = example(name)
    exact = host(problem, (x, y, s)).derivative(method)
    np.testing.assert_allclose(exact.x, x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(exact.y, y, rtol=0, atol=1e-12)
    rng = np.random.default_rng(0)
    near = [part + 1e-6 * rng.normal(size=part.size) for part in (x, y, s)]
    mended = host(problem, near).derivative(method)
    np.testing.assert_allclose(mended.x, x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(mended.y, y, rtol=0, atol=1e-11)
