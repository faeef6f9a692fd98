"""The scheme around cuDSS, without a GPU: SciPy stands in for it behind the interfaces of
spineax and nvmath-python. Tests marked `gpu` need the real ones.
"""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spl

from diffqcp import CuDSS, DeviceQCP, LU
from diffqcp.linear_solve import cudss

from .helpers import device, FAMILIES
from .reference import random_problem
from .test_degenerate import duplicated_constraints


def full(values, indices, indptr):
    """All of a symmetric matrix whose upper triangle is given in CSR."""
    order = indptr.size - 1
    upper = sp.csr_array((values, indices, indptr), shape=(order, order))
    assert upper.has_canonical_format and sp.tril(upper, -1).nnz == 0
    return sp.csc_array(upper + sp.triu(upper, 1).T)


class DirectSolver:
    """The part of nvmath-python's that is used; refuses what that refuses."""

    made: list["DirectSolver"]

    def __init__(self, a, b, *, options):
        assert options == {"sparse_system_type": "S", "sparse_system_view": "U"}
        assert isinstance(a, sp.csr_array) and a.dtype == b.dtype
        assert a.indices.dtype == a.indptr.dtype == np.int32
        self.a, self.b, self.planned, self.factors, self.counts = (
            a,
            b,
            False,
            None,
            [0, 0],
        )
        self.made.append(self)

    def reset_operands(self, *, a=None, b=None):
        assert not (a is None and b is None)
        if a is not None:
            assert a.shape == self.a.shape and a.nnz == self.a.nnz
            np.testing.assert_array_equal(a.indices, self.a.indices)
            self.a, self.factors = a, None
        if b is not None:
            assert b.shape == self.b.shape and b.dtype == self.b.dtype
            self.b = b

    def plan(self):
        self.planned = True
        self.counts[0] += 1

    def factorize(self):
        assert self.planned
        self.factors = spl.splu(full(self.a.data, self.a.indices, self.a.indptr))
        self.counts[1] += 1

    def solve(self):
        return self.factors.solve(self.b)

    def free(self):
        self.factors = None


class Token(NamedTuple):
    values: jax.Array
    offsets: jax.Array
    columns: jax.Array


class Factors(NamedTuple):
    token: Token


def analyze(values, offsets, columns, *, mtype_id, mview_id):
    assert (mtype_id, mview_id) == ("symmetric", "upper")
    assert offsets.dtype == columns.dtype == np.int32
    return Token(values, offsets, columns)


def factorize(token, values):
    return Factors(token._replace(values=values))


def solve(factors, vector):
    def run(values, offsets, columns, right):
        values, right = np.asarray(values), np.asarray(right)
        assert np.all(np.isfinite(values)) and np.all(np.isfinite(right))
        return spl.splu(full(values, np.asarray(columns), np.asarray(offsets))).solve(
            right
        )

    token = factors.token
    return jax.pure_callback(
        *(run, vector, token.values, token.offsets, token.columns, vector),
        vmap_method="sequential",
    )


def modules():
    spineax = SimpleNamespace(analyze=analyze, factorize=factorize, solve=solve)
    advanced = SimpleNamespace(
        DirectSolver=DirectSolver,
        DirectSolverMatrixType=SimpleNamespace(SYMMETRIC="S"),
        DirectSolverMatrixViewType=SimpleNamespace(UPPER="U"),
    )
    return {
        "spineax": {"spineax": {"cudss": spineax}},
        "nvmath": {
            "nvmath": {},
            "nvmath.sparse": {},
            "nvmath.sparse.advanced": vars(advanced),
        },
    }


@pytest.fixture(params=["spineax", "nvmath"])
def interface(request, monkeypatch):
    """One of the packages installed, and a GPU, as far as diffqcp can see."""
    install(monkeypatch, request.param)
    yield request.param
    forget()


def install(monkeypatch, *packages):
    forget()
    DirectSolver.made = []
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if name in packages else None
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for package in packages:
        for name, members in modules()[package].items():
            module = ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)


def forget():
    jax.clear_caches()  # what is compiled calls the package that was there
    cudss._analyse.cache_clear()
    for name in ("_spineax", "_nvmath"):
        sys.modules.pop(f"diffqcp.linear_solve.{name}", None)


def flat(gradient):
    return np.concatenate([np.asarray(getattr(part, "data", part)) for part in gradient])


def cotangents(qcp):
    rng = np.random.default_rng(3)
    return [jnp.asarray(rng.normal(size=part.size)) for part in (qcp.x, qcp.y, qcp.s)]


def test_gradient(interface):
    """By name, in both precisions."""
    qcp = device(*random_problem({"z": 1, "l": 3, "q": [3], "s": [2]}, 1))
    got = flat(qcp.vjp(*cotangents(qcp), "nvmath-direct"))
    expected = flat(qcp.vjp(*cotangents(qcp), solver=LU()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), qcp)
    small = flat(single.vjp(*cotangents(single), "nvmath-direct"))
    assert small.dtype == np.float32
    assert np.linalg.norm(small - expected) < 1e-4 * np.linalg.norm(expected)


def test_singular_system(interface):
    qcp = device(*duplicated_constraints())
    derivative = qcp.derivative("nvmath-direct")
    matrix = np.asarray(derivative.kkt.as_matrix())
    vector = np.random.default_rng(0).normal(size=matrix.shape[0])
    solution = lx.linear_solve(derivative.kkt, jnp.asarray(vector), CuDSS())
    expected = np.linalg.pinv(matrix, rcond=1e-10) @ vector
    np.testing.assert_allclose(solution.value, expected, rtol=0, atol=1e-11)


def test_nvmath_analyses_once_for_a_structure(monkeypatch):
    """And factorises once for values, in both directions, whatever comes between."""
    install(monkeypatch, "nvmath")
    problem, solution = random_problem({"z": 1, "l": 3}, 1)
    qcp = device(problem, solution)
    other = eqx.tree_at(lambda qcp: (qcp.P_values, qcp.q, qcp.y), qcp, replace_fn=double)
    derivative = qcp.derivative("nvmath-direct", polish=False)
    data = [np.ones(part.shape) for part in derivative.in_structure()]
    for _ in range(2):
        tangents = derivative.mv(data)
        gradient = derivative.T.mv(cotangents(qcp))
    (solver,) = DirectSolver.made
    assert solver.counts == [1, 1]
    forward = sum(a @ b for a, b in zip(cotangents(qcp), tangents, strict=True))
    backward = sum(a @ b for a, b in zip(gradient, data, strict=True))
    np.testing.assert_allclose(forward, backward, rtol=1e-11)
    changed = other.derivative("nvmath-direct", polish=False)
    expected = other.derivative(solver=LU(), polish=False)
    for which, truth in ((changed, expected), (derivative, qcp.derivative(solver=LU()))):
        for a, b in zip(which.mv(data), truth.mv(data), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
    assert len(DirectSolver.made) == 1 and solver.counts == [1, 3]
    forget()


def double(values):
    return 2 * values


def test_spineax_in_a_batch(monkeypatch):
    """Under jit and vmap; an item with NaN is kept out of the matrix of the batch."""
    install(monkeypatch, "spineax")
    qcp = device(*random_problem({"z": 1, "l": 3, "q": [3]}, 1))
    bad = eqx.tree_at(lambda qcp: qcp.A_values, qcp, qcp.A_values.at[0].set(jnp.nan))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), qcp, bad, qcp)

    @jax.jit
    @jax.vmap
    def gradient(qcp):
        return qcp.vjp(*cotangents(qcp), "nvmath-direct", throw=False)[2]

    out = gradient(batch)
    expected = qcp.vjp(*cotangents(qcp), solver=LU())[2]
    np.testing.assert_allclose(out[0], expected, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(out[0], out[2])
    assert np.all(np.isnan(out[1]))
    forget()


def test_errors(monkeypatch):
    qcp = device(*random_problem({"z": 1, "l": 3}, 1))
    with pytest.raises(RuntimeError, match=r"NVIDIA GPU.*platform 'cpu'.*ldl"):
        qcp.vjp(*cotangents(qcp), "nvmath-direct")
    install(monkeypatch)
    with pytest.raises(ImportError, match=r"spineax or nvmath.*diffqcp\[gpu\]"):
        qcp.derivative("nvmath-direct")
    with pytest.raises(ImportError, match="expected spineax, which"):
        qcp.derivative(solver=CuDSS(interface="spineax"))
    install(monkeypatch, "nvmath")
    with pytest.raises(TypeError, match=r"inside jit, vmap.*Install spineax"):
        jax.jit(lambda qcp: qcp.vjp(*cotangents(qcp), "nvmath-direct")[2])(qcp)
    install(monkeypatch, "spineax", "nvmath")
    assert CuDSS()._interface() == "spineax"
    assert CuDSS(interface="nvmath")._interface() == "nvmath"
    forget()


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_on_a_gpu(name):
    """Against the CPU, eager and compiled; no dense matrix in the program."""
    problem, solution = random_problem(FAMILIES[name], 1)
    with jax.default_device(jax.devices("cpu")[0]):
        on_cpu = device(problem, solution)
        expected = flat(on_cpu.vjp(*cotangents(on_cpu), "ldl"))
    qcp = device(problem, solution)
    got = flat(qcp.vjp(*cotangents(qcp), "nvmath-direct"))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)
    if CuDSS()._interface() == "nvmath":
        return

    def gradient(qcp: DeviceQCP):
        return qcp.vjp(*cotangents(qcp), "nvmath-direct")

    compiled = jax.jit(gradient).lower(qcp).compile()
    np.testing.assert_allclose(flat(compiled(qcp)), expected, rtol=0, atol=1e-8)
    order = problem.q.size + problem.b.size
    assert f"[{order},{order}]" not in compiled.as_text()
