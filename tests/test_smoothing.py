"""Smoothed projections, and what they do for derivatives at vertices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffqcp
from diffqcp.cones import (
    ExponentialCone,
    FreeCone,
    NonnegativeCone,
    PowerCone,
    ProductCone,
    PSDCone,
    SecondOrderCone,
    ZeroCone,
)

from .helpers import host, inner
from .reference import random_problem


# Barriers in plain NumPy, with a point inside, for complex steps.
BARRIERS = {
    "nonnegative": (NonnegativeCone(3), lambda p: -np.log(p).sum(), [0.2, 1.0, 3.0]),
    "second-order": (
        SecondOrderCone(3),
        lambda p: -np.log(p[0] ** 2 - p[1] ** 2 - p[2] ** 2),
        [1.0, 0.3, -0.8],
    ),
    "psd": (
        PSDCone(2, "lower"),
        lambda p: -np.log(p[0] * p[2] - p[1] ** 2 / 2),
        [1.0, 0.7, 0.8],
    ),
    "exponential": (
        ExponentialCone(),
        lambda p: (
            -np.log(p[1] * np.log(p[2] / p[1]) - p[0]) - np.log(p[1]) - np.log(p[2])
        ),
        [-0.3, 0.5, 1.1],
    ),
    "power": (
        PowerCone(0.3),
        lambda p: (
            -np.log(p[0] ** 0.6 * p[1] ** 1.4 - p[2] ** 2)
            - 0.7 * np.log(p[0])
            - 0.3 * np.log(p[1])
        ),
        [1.0, 0.6, -0.4],
    ),
}


def gradient(barrier, p):
    steps = 1e-30j * np.eye(p.size)
    return np.array([barrier(p + step).imag / 1e-30 for step in steps])


@pytest.mark.parametrize("case", BARRIERS.values(), ids=BARRIERS)
@pytest.mark.parametrize("mu", [1e-4, 0.1])
def test_is_the_derivative_of_the_central_path(case, mu):
    """`v = p + mu F'(p)` at a point chosen inside, so `D` is the inverse of `dv/dp`, by
    differences of complex steps. For the dual cone `-mu F'(p)` is the point at `-v`.
    """
    cone, barrier, point = case
    p = np.array(point)
    v = p + mu * gradient(barrier, p)
    h = 1e-5
    columns = [
        (gradient(barrier, p + step) - gradient(barrier, p - step)) / (2 * h)
        for step in h * np.eye(p.size)
    ]
    expected = np.linalg.inv(np.eye(p.size) + mu * np.stack(columns, axis=1))
    D = jax.jit(cone.smoothed_jacobian)(jnp.asarray(v), mu)
    np.testing.assert_allclose(D.as_matrix(), expected, rtol=0, atol=1e-7)
    assert np.all((D.eigenvalues > 0) & (D.eigenvalues < 1))
    dual = cone.dual().smoothed_jacobian(jnp.asarray(-v), mu)
    np.testing.assert_allclose(dual.as_matrix(), np.eye(p.size) - expected, atol=1e-7)


def test_tends_to_the_exact_derivative():
    dims = {"z": 1, "l": 3, "q": [3, 3], "s": [2], "ep": 2, "ed": 1, "p": [0.4, -0.7]}
    cone = ProductCone.from_dict(dims, "lower").dual()
    smoothed = jax.jit(lambda v, mu: cone.smoothed_jacobian(v, mu).as_matrix())
    exact = jax.jit(lambda v: cone.jacobian(v).as_matrix())
    v = jnp.zeros(cone.dim)
    for seed in range(10):
        v = jnp.asarray(np.random.default_rng(seed).normal(size=cone.dim))
        errors = [np.abs(smoothed(v, mu) - exact(v)).max() for mu in (1e-4, 1e-8)]
        # Of order mu, over the square of the distance to the nearest kink.
        assert errors[1] < 0.02 and errors[1] < 0.1 * errors[0] + 1e-5
    assert np.all(np.isfinite(smoothed(1e6 * v, 1e-10)))
    assert np.all(np.isfinite(smoothed(0 * v, 1e-10)))
    for trivial in (ZeroCone(2), FreeCone(2)):
        w = jnp.ones(2)
        same = trivial.smoothed_jacobian(w, 0.1).eigenvalues
        np.testing.assert_array_equal(same, trivial.jacobian(w).eigenvalues)


def test_a_vertex_has_a_gradient():
    """minimise c'x over the simplex. The exact derivative in `c` is zero; the smoothed
    one lowers the entry whose cost rises, as that of `softmax(-c)` does.
    """
    A = jnp.concatenate([jnp.ones((1, 3)), -jnp.eye(3)])
    b, c = jnp.asarray([1.0, 0.0, 0.0, 0.0]), jnp.asarray([0.3, 0.5, 0.6])
    structure = diffqcp.QCPStructureDense(jnp.zeros((3, 3)), A, {"z": 1, "l": 3})

    def jacobian(smoothing):
        solver = diffqcp.QCPSolver(structure, smoothing=smoothing)
        return jax.jacrev(lambda c: solver(jnp.zeros((3, 3)), A, c, b).x)(c)

    np.testing.assert_allclose(jacobian(0.0), 0, atol=1e-12)
    smooth = np.asarray(jacobian(0.1))
    assert np.all(np.diag(smooth) < -0.01)
    np.testing.assert_allclose(smooth, smooth.T, atol=1e-12)
    np.testing.assert_allclose(smooth.sum(axis=0), 0, atol=1e-12)


def test_qcp_takes_it_too():
    problem, solution = random_problem({"z": 1, "l": 4}, 2)
    qcp = host(problem, solution)
    rng = np.random.default_rng(0)
    g = [rng.normal(size=part.size) for part in solution]
    dP, dA = 0.1 * qcp.P, 0.2 * qcp.A
    tangents = qcp.jvp(dP, dA, qcp.q, qcp.b, smoothing=0.05)
    pulled = qcp.vjp(*g, smoothing=0.05)
    left, right = inner(g, tangents), inner(pulled, (dP, dA, qcp.q, qcp.b))
    assert left == pytest.approx(right, rel=1e-11)
    exact, tiny = qcp.vjp(*g, polish=False), qcp.vjp(*g, smoothing=1e-18)
    np.testing.assert_allclose(tiny[2], exact[2], atol=1e-9)
    assert np.abs(pulled[2] - exact[2]).max() > 1e-3
    again = qcp.derivative(smoothing=0.05).T.mv(g)
    np.testing.assert_allclose(again[2], pulled[2], atol=1e-12)
    with pytest.raises(ValueError, match="smoothing: expected"):
        qcp.vjp(*g, smoothing=-1.0)
