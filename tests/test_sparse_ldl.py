"""The sparse backend: its kernel, its assembly, and where it can be called."""

import gc
import resource
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

from diffqcp import HostQCP, LU, QCPStructureCPU, SparseLDL
from diffqcp.assembly import assemble
from diffqcp.linear_solve import sparse_ldl
from diffqcp.linear_solve._native import NativeFactorisation
from diffqcp.linear_solve._qdldl import QDLDLFactorisation
from diffqcp.linear_solve._quasidefinite import Tolerances

from .helpers import FAMILIES, host, without_calls
from .reference import project_dual, random_problem


FACTORISATIONS = {"compiled": NativeFactorisation, "qdldl": QDLDLFactorisation}
TOLERANCES = Tolerances(1e-15, 1e-16, 50)


def bcoo(matrix):
    matrix = sp.coo_array(matrix)
    index = jnp.asarray(np.stack([matrix.row, matrix.col], axis=1))
    return BCOO((jnp.asarray(matrix.data), index), shape=matrix.shape)


def sparse_qcp(dims, P, A, seed):
    """A QCP around a random solution, which is exact."""
    rng = np.random.default_rng(seed)
    m, n = A.shape
    x, v = rng.normal(size=n), rng.normal(size=m)
    y = project_dual(dims, v)
    upper, A = bcoo(sp.triu(P)), sp.csr_array(A)
    structure = QCPStructureCPU(upper, bcoo(A), dims)
    data = upper, bcoo(A), -(P @ x + A.T @ y), A @ x + y - v
    return HostQCP(*data, x, y, y - v, structure)


def cotangents(qcp, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=part.size)) for part in (qcp.x, qcp.y, qcp.s)]


def flat(gradient):
    return np.concatenate([np.asarray(getattr(part, "data", part)) for part in gradient])


# Patterns with one-column supernodes, wide ones, chains, forests and dense rows.
def graphs():
    rng = np.random.default_rng(0)
    yield "empty", sp.coo_array((3, 3))
    yield "diagonal", sp.coo_array(sp.eye_array(5))
    yield "dense", sp.coo_array(np.ones((130, 130)))
    yield "chain", sp.coo_array(sp.diags_array(np.ones(50), offsets=1, shape=(51, 51)))
    arrow = np.zeros((40, 40))
    arrow[0], arrow[20] = 1, 1
    yield "arrow", sp.coo_array(arrow)
    grid = sp.diags_array(np.ones(24), offsets=1, shape=(25, 25))
    yield "grid", sp.coo_array(sp.kronsum(grid, grid))
    for k, density in enumerate((0.01, 0.05, 0.3)):
        yield (
            f"random {k}",
            sp.coo_array(sp.random_array((80, 80), density=density, rng=rng)),
        )


def quasidefinite(pattern, seed):
    """Entries on the upper triangle of `pattern`, with a quasi-definite matrix."""
    rng = np.random.default_rng(seed)
    order = pattern.shape[0]
    upper = sp.coo_array(sp.triu(pattern + sp.eye_array(order)))
    rows, cols = upper.row, upper.col
    sign = np.where(rng.random(order) < 0.5, 1.0, -1.0)
    values = np.where(sign[rows] == sign[cols], 0.0, rng.normal(size=rows.size))
    values[rows == cols] = 0.1 * sign * rng.uniform(1, 2, order)
    matrix = sp.csc_array((values, (rows, cols)), shape=pattern.shape)
    return rows, cols, values, 1e-8 * sign, (matrix + sp.triu(matrix, 1).T).toarray()


@pytest.mark.parametrize("kind", FACTORISATIONS)
@pytest.mark.parametrize("name", dict(graphs()))
def test_factorisation(kind, name):
    """Against a dense solve."""
    rows, cols, values, shift, dense = quasidefinite(dict(graphs())[name], 1)
    factorisation = FACTORISATIONS[kind](dense.shape[0], rows, cols)
    factors, singular = factorisation.factorise(
        jnp.asarray(values), jnp.asarray(shift), adapt=True, well_posed=False
    )
    assert not singular
    vector = np.random.default_rng(2).normal(size=dense.shape[0])
    z, error, steps = factorisation.refined(
        factors, singular, jnp.asarray(vector), TOLERANCES
    )
    expected = np.linalg.solve(dense, vector)
    assert np.linalg.norm(z - expected) < 1e-12 * np.linalg.norm(expected)
    assert error < 1e-15 and 2 <= steps <= 4
    assert factorisation.fill >= dense.shape[0]


@pytest.mark.parametrize("kind", FACTORISATIONS)
def test_rows_of_all_sizes(kind):
    """A small row beside a large one is not lost."""
    rng = np.random.default_rng(0)
    n, m = 12, 8
    order = n + m
    B = rng.normal(size=(m, n))
    P = np.diag(rng.uniform(1, 2, n))
    units = 10 ** rng.uniform(-5, 5, m)
    K = np.zeros((order, order))
    K[:n, :n], K[n:, :n] = P, units[:, None] * B
    K[:n, n:] = K[n:, :n].T
    rows, cols = np.nonzero(np.triu(np.ones_like(K)))
    sign = np.where(np.arange(order) < n, 1.0, -1.0)
    shift = 1.5e-8 * np.where(sign > 0, 2.0, -np.abs(K).max())
    factorisation = FACTORISATIONS[kind](order, rows, cols)
    factors, singular = factorisation.factorise(
        *(jnp.asarray(K[rows, cols]), jnp.asarray(shift)),
        adapt=True,
        well_posed=False,
    )
    assert not singular
    vector = K @ rng.normal(size=order)
    z, _, _ = factorisation.refined(
        factors, singular, jnp.asarray(vector), Tolerances(2e-14, 2e-16, 50)
    )
    scale = np.concatenate([np.ones(n), 1 / units])
    scaled = scale[:, None] * K * scale
    expected = scale * (np.linalg.pinv(scaled, rcond=1e-11) @ (scale * vector))
    error = np.linalg.norm((z - expected) / scale)
    assert error < 1e-9 * np.linalg.norm(expected / scale)


def test_work_and_memory_are_those_of_the_graph():
    """A chain has no fill, and a dense matrix is factorised at a third of a cube."""
    chain = sp.coo_array(sp.diags_array(np.ones(999), offsets=1, shape=(1000, 1000)))
    chain = NativeFactorisation(1000, *quasidefinite(chain, 0)[:2])
    assert chain.fill <= 5 * 1000 + 5 and chain.operations < 5 * 1000
    rows, cols = np.triu_indices(300)
    dense = NativeFactorisation(300, rows, cols)
    assert dense.operations == pytest.approx(300**3 / 6, rel=0.02)


def test_both_factorisations_give_the_same_numbers(monkeypatch):
    """Alone and in a batch; without the extension, which has its own."""
    qcp = host(*random_problem(FAMILIES["mixed"], 3))
    dense = qcp.vjp(*cotangents(qcp), "jax-lu")[2]
    compiled = flat(qcp.vjp(*cotangents(qcp), "ldl"))
    made = []

    def fallback(*pattern):
        made.append(QDLDLFactorisation(*pattern))
        return made[-1]

    without_calls(monkeypatch)
    monkeypatch.setattr(sparse_ldl, "factorisation", fallback)
    sparse_ldl.analyse.cache_clear()

    def gradient(qcp):
        dP, dA, dq, db = qcp.vjp(*cotangents(qcp), "ldl")
        return jnp.concatenate([dP.data, dA.data, dq, db])

    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), qcp)
    alone, batched = jax.jit(gradient)(qcp), jax.jit(jax.vmap(gradient))(batch)
    sparse_ldl.analyse.cache_clear()
    assert len(made) == 1
    np.testing.assert_allclose(alone, compiled, rtol=0, atol=1e-12)
    np.testing.assert_allclose(batched[1], compiled, rtol=0, atol=1e-12)
    start = qcp.P_values.size + qcp.A_values.size
    np.testing.assert_allclose(batched[1][start : start + qcp.q.size], dense, atol=1e-12)


def test_assembled_matrix_is_K():
    """Every cone, in one product; P with entries off the diagonal."""
    problem, solution = random_problem(FAMILIES["mixed"], 1)
    kkt = host(problem, solution).derivative("ldl").kkt
    assembly = assemble(kkt)
    order = assembly.order
    dense = np.zeros((order, order))
    np.add.at(dense, (assembly.rows, assembly.cols), np.asarray(assembly.values(kkt)))
    dense = dense + dense.T - np.diag(np.diag(dense))
    assert not assembly.expanded
    np.testing.assert_allclose(dense, kkt.as_matrix(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("state", ["boundary", "interior", "polar", "mixed"])
def test_large_second_order_cones_stay_sparse(state):
    """Cones over sparse rows are expanded; the derivative is the dense one."""
    rng = np.random.default_rng(0)
    size, count = 60, 3
    dims = {"z": 2, "q": [size] * count}
    n = count * size
    A = sp.vstack([sp.random_array((2, n), density=0.1, rng=rng), -sp.eye_array(n)])
    P = sp.diags_array(rng.uniform(1, 2, n))
    qcp = sparse_qcp(dims, P, A, 1)
    shift = {"boundary": 0.0, "interior": 50.0, "polar": -50.0, "mixed": None}[state]
    v = np.array(qcp.y - qcp.s)
    for k in range(count):
        v[2 + k * size] = (-50.0, 0.0, 50.0)[k] if shift is None else shift
    y = project_dual(dims, v)
    A = sp.csr_array(A)
    qcp = eqx.tree_at(
        lambda qcp: (qcp.q, qcp.b, qcp.y, qcp.s),
        qcp,
        (
            jnp.asarray(-(P @ np.asarray(qcp.x) + A.T @ y)),
            jnp.asarray(A @ np.asarray(qcp.x) + y - v),
            jnp.asarray(y),
            jnp.asarray(y - v),
        ),
    )
    derivative = qcp.derivative("ldl")
    assembly = assemble(derivative.kkt)
    assert assembly.expanded
    assert assembly.rows.size < 12 * n  # a dense block alone has size^2 / 2 per cone
    got, expected = qcp.vjp(*cotangents(qcp), "ldl"), qcp.vjp(*cotangents(qcp), "jax-lu")
    np.testing.assert_allclose(flat(got), flat(expected), rtol=0, atol=1e-11)


def test_singular_system_with_an_expanded_cone():
    """K^+ commutes with the expansion."""
    rng = np.random.default_rng(0)
    size = 40
    half = -sp.eye_array(size)
    A = sp.vstack([sp.csr_array(np.ones((2, size))), half])  # two equal rows
    qcp = sparse_qcp({"z": 2, "q": [size]}, sp.eye_array(size), A, 2)
    kkt = qcp.derivative("ldl").kkt
    assert assemble(kkt).expanded
    matrix = np.asarray(kkt.as_matrix())
    inverse = np.linalg.pinv(matrix, rcond=1e-10)
    vector = rng.normal(size=matrix.shape[0])
    solution = lx.linear_solve(kkt, jnp.asarray(vector), SparseLDL())
    np.testing.assert_allclose(solution.value, inverse @ vector, rtol=0, atol=1e-11)


@pytest.fixture(scope="module")
def qp():
    """A QP of order 400 with banded data."""
    rng = np.random.default_rng(3)
    n = 200
    A = sp.diags_array(rng.normal(size=(3, n)), offsets=[-1, 0, 2], shape=(n, n))
    P = sp.diags_array([rng.uniform(1, 2, n), np.full(n - 1, 0.2)], offsets=[0, 1])
    return sparse_qcp({"z": 30, "l": n - 30}, P + sp.triu(P, 1).T, A, 4)


def test_scan_and_vmap_share_the_symbolic_phase(qp, monkeypatch):
    calls = []
    monkeypatch.setattr(
        sparse_ldl,
        "factorisation",
        lambda *arguments: calls.append(arguments) or NativeFactorisation(*arguments),
    )
    sparse_ldl.analyse.cache_clear()
    scales = jnp.asarray([1.0, 0.5, 2.0])
    values = cotangents(qp)

    def scaled(k):
        """The solution stays one when the objective is scaled."""
        parts = (qp.P_values * k, qp.q * k, qp.y * k)
        return eqx.tree_at(lambda qcp: (qcp.P_values, qcp.q, qcp.y), qp, parts)

    def gradient(k):
        return scaled(k).vjp(*values, "ldl")[2]

    batched = jax.jit(jax.vmap(gradient))(scales)
    scanned = jax.jit(lambda: jax.lax.scan(lambda _, k: (0, gradient(k)), 0, scales)[1])()
    for k, one, other in zip(scales, batched, scanned, strict=True):
        alone = scaled(k).vjp(*values, "jax-lu")[2]
        np.testing.assert_allclose(one, alone, rtol=0, atol=1e-11)
        np.testing.assert_allclose(other, alone, rtol=0, atol=1e-11)
    assert len(calls) == 1
    sparse_ldl.analyse.cache_clear()


def test_many_right_hand_sides(qp):
    """One factorisation, in groups of 4, 2 and 1."""
    derivative, dense = qp.derivative("ldl"), qp.derivative("jax-lu")
    rng = np.random.default_rng(5)
    vectors = tuple(
        jnp.asarray(rng.normal(size=(7, part.size)))
        for part in derivative.out_structure()
    )
    got = jax.jit(jax.vmap(derivative.T.mv))(vectors)
    expected = jax.vmap(dense.T.mv)(vectors)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * jnp.abs(b).max())


def test_nested_batches(qp):
    values = cotangents(qp)
    factors = np.array([[1.0, 1.1, 1.2], [1.3, 1.4, 1.5]])
    P = jnp.asarray(np.multiply.outer(factors, np.asarray(qp.P_values)))

    def gradient(P, scale):
        qcp = eqx.tree_at(lambda qcp: qcp.P_values, qp, P)
        return qcp.vjp(scale * values[0], *values[1:], "ldl", polish=False)[2]

    over = jax.vmap(jax.vmap(gradient, (0, None)), (0, 0))(P, jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(over[1, 2], gradient(P[1, 2], 2.0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(over[0, 1], gradient(P[0, 1], 1.0), rtol=0, atol=1e-12)


def test_a_bad_item_of_a_batch_harms_no_other(qp):
    values = cotangents(qp)
    bad = qp.A_values.at[3].set(jnp.nan)
    batch = jnp.stack([qp.A_values, bad, qp.A_values])

    def gradient(A):
        qcp = eqx.tree_at(lambda qcp: qcp.A_values, qp, A)
        return qcp.vjp(*values, "ldl", throw=False)[2]

    out = np.asarray(jax.vmap(gradient)(batch))
    assert np.all(np.isnan(out[1]))
    np.testing.assert_array_equal(out[0], out[2])
    assert np.all(np.isfinite(out[0]))


FLOAT32 = """
import jax, jax.numpy as jnp, numpy as np
from jax.experimental.sparse import BCOO
from diffqcp import HostQCP, QCPStructureCPU
assert not jax.config.jax_enable_x64
n = 8
eye = jnp.stack([jnp.arange(n)] * 2, axis=1)
# minimise 1/2 x'Px + q'x, x = b: condition number 1e5.
P = BCOO((jnp.logspace(0, 5, n), eye), shape=(n, n))
A = BCOO((jnp.ones(n), eye), shape=(n, n))
b = jnp.linspace(-1, 1, n)
y = -P.data * b
structure = QCPStructureCPU(P, A, {"z": n})
qcp = HostQCP(P, A, jnp.zeros(n), b, b, y, jnp.zeros(n), structure)
dP, dA, dq, db = qcp.vjp(jnp.zeros(n), jnp.ones(n), jnp.zeros(n), "ldl")
assert db.dtype == jnp.float32
np.testing.assert_allclose(db, -P.data, rtol=1e-6)
"""


def test_float64_inside_where_jax_has_float32_only():
    subprocess.run([sys.executable, "-c", FLOAT32], check=True)


def test_errors(qp):
    with pytest.raises(TypeError, match="KKTOperator"):
        SparseLDL().init(lx.MatrixLinearOperator(jnp.eye(2)), {})
    bad = eqx.tree_at(lambda qcp: qcp.q, qp, qp.q * jnp.nan)
    with pytest.raises(RuntimeError, match="was not solved"):
        bad.vjp(*cotangents(qp), "ldl")


def test_thousands_of_calls_keep_memory_flat(qp):
    """Jitted and eager; neither hangs, and what one takes it gives back."""
    small = jax.jit(lambda *g: qp.vjp(*g, "ldl"))
    values = cotangents(qp)

    def run(count):
        for _ in range(count):
            out = small(*values)
        jax.block_until_ready(out)
        qp.vjp(*values, "ldl")
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = run(1000)
    after = run(10_000)
    # A leak of one gradient, 8 kB, a call would be 80 MB.
    assert after - before < 8


def test_default_on_cpus(qp):
    expected = flat(qp.vjp(*cotangents(qp), solver=LU()))
    error = np.linalg.norm(flat(qp.vjp(*cotangents(qp))) - expected)
    assert error < 1e-13 * np.linalg.norm(expected)
    derivative = qp.derivative()
    assert isinstance(derivative.solver.choice(derivative.kkt), SparseLDL)
