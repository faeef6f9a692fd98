"""Iterations in the place of a factorisation: see `_WORTH` in `diffqcp._compiled`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

from diffqcp import _compiled, HostQCP, QCPStructureCPU
from diffqcp._extension import extension

from . import agreement
from .helpers import FAMILIES, host
from .reference import random_problem
from .test_degenerate import CASES


pytestmark = pytest.mark.skipif(extension() is None, reason="no compiled extension")


@pytest.fixture
def always(monkeypatch):
    """Iterations are tried for every problem."""
    monkeypatch.setattr(_compiled, "_WORTH", 0.0)
    _compiled._known_options.cache_clear()
    yield
    _compiled._known_options.cache_clear()


def products(qcp, method):
    """The numbers of a VJP and of a JVP."""
    rng = np.random.default_rng(0)
    cotangents = [rng.normal(size=part.shape) for part in (qcp.x, qcp.y, qcp.s)]
    dP, dA, dq, db = qcp.vjp(*cotangents, solve_method=method)
    change = qcp.jvp(dP, dA, dq, db, solve_method=method)
    parts = dP.data, dA.data, dq, db, *change
    return np.concatenate([np.ravel(part) for part in parts])


def assert_same(found, expected, tolerance):
    size = np.max(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("name", FAMILIES)
def test_same_as_by_factorisation(name, always):
    """Also at a solution that Newton steps have to correct."""
    for seed in range(4):
        problem, solution = random_problem(FAMILIES[name], seed)
        qcp = host(problem, [part * (1 + 1e-7) for part in solution])
        found, expected = products(qcp, "auto"), products(qcp, "ldl")
        assert_same(found, expected, 1e-10)
        assert np.any(found != expected)


@pytest.mark.parametrize("name", CASES)
def test_singular(name, always):
    """The least-squares solution of least norm, whether or not the system has one."""
    qcp = host(*CASES[name]())
    assert_same(products(qcp, "auto"), products(qcp, "ldl"), 1e-11)


@pytest.mark.parametrize("family", ["nonnegative", "second-order"])
def test_units_and_dependent_rows(family, always, monkeypatch):
    """Where a small residual need not be that of a small error, `K` is factorised."""
    monkeypatch.setattr(agreement, "METHODS", ("ldl", "auto"))
    kinds = "units", "dependent"
    found = agreement.compare(family, range(16), np.float64, 1e-10, 0, kinds)
    assert found.wrong == []
    assert min(found.found.values()) >= 30  # of 32


def nearest_correlation(size):
    """The correlation matrix nearest to one of half the rank, as a QCP."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(size, size // 2))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    basis = np.linalg.qr(factor, mode="complete")[0][:, size // 2 :]
    dual = (basis * rng.uniform(0.5, 1.5, basis.shape[1])) @ basis.T
    cols, rows = np.tril_indices(size)
    scale = np.where(rows == cols, 1, np.sqrt(2))
    x, z = (factor @ factor.T)[rows, cols] * scale, rng.normal(size=size)
    s, y = np.append(np.zeros(size), x), np.append(z, dual[rows, cols] * scale)
    eye = sp.eye_array(x.size).tocsr()
    A = sp.vstack([eye[rows == cols], -eye])
    data = -(x + A.T @ y), A @ x + s
    P, A = BCOO.from_scipy_sparse(eye), BCOO.from_scipy_sparse(A)
    structure = QCPStructureCPU(P, A, {"z": size, "s": [size]}, psd_order="upper")
    return HostQCP(P, A, *data, x, y, s, structure)


def test_large_semidefinite_cone():
    """By default: eagerly, in programs, in a batch, and where an item is not finite."""
    qcp = nearest_correlation(32)
    expected = products(qcp, "ldl")
    found = products(qcp, "auto")
    assert np.any(found != expected)
    assert_same(found, expected, 1e-11)
    dx = np.random.default_rng(1).normal(size=(3, qcp.x.size))
    dx[1] = np.nan
    zero = jnp.zeros(qcp.b.size)
    batched = jax.jit(jax.vmap(lambda dx: qcp.vjp(dx, zero, zero, throw=False)[2]))(dx)
    assert np.all(np.isnan(batched[1]))
    for item in (0, 2):
        alone = qcp.vjp(dx[item], zero, zero, solve_method="ldl")[2]
        assert_same(batched[item], alone, 1e-11)
