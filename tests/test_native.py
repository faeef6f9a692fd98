"""Sizes past 32 bits, and what the compiled extension refuses."""

import ctypes
import importlib.machinery
import importlib.util
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from scipy.linalg import cython_blas, cython_lapack

from diffqcp import _ldl, HostQCP, QCPStructureCPU
from diffqcp._extension import ffi_target
from diffqcp._static import as_indices
from diffqcp.assembly import Assembly
from diffqcp.cones import ProductCone
from diffqcp.linear_solve._native import NativeFactorisation
from diffqcp.linear_solve._qdldl import QDLDLFactorisation
from diffqcp.linear_solve._quasidefinite import Tolerances
from diffqcp.sparsity import SparsityPattern


def diagonal(values):
    place = np.arange(values.size)
    index = jnp.asarray(np.stack([place, place], axis=1))
    return BCOO((jnp.asarray(values), index), shape=(values.size, values.size))


def test_more_cones_times_variables_than_32_bits():
    """One variable for each cone: the derivative is that of 50,000 systems of order 4."""
    rng = np.random.default_rng(0)
    n = 50_000
    P, x = rng.uniform(1, 2, n), rng.normal(size=n)
    # Not nearly tangent to a cone, so that the systems are well conditioned.
    A = np.array([-1.0, 0.25, 0.25]) + rng.uniform(-0.1, 0.1, (n, 3))
    # Points v outside of both cones, where the projection has the derivative D.
    z = rng.normal(size=(n, 2))
    length = np.linalg.norm(z, axis=1)
    unit, slope = z / length[:, None], rng.uniform(-0.9, 0.9, n)
    t = slope * length
    y = 0.5 * (t + length)[:, None] * np.column_stack([np.ones(n), unit])
    s = y - np.column_stack([t, z])
    D = np.empty((n, 3, 3))
    D[:, 0, 0], D[:, 0, 1:], D[:, 1:, 0] = 0.5, unit / 2, unit / 2
    across = slope[:, None, None] * unit[:, :, None] * unit[:, None, :]
    D[:, 1:, 1:] = ((1 + slope)[:, None, None] * np.eye(2) - across) / 2
    # P dx + A' D dv = -dq and A dx + (D - I) dv = db.
    system = np.zeros((n, 4, 4))
    system[:, 0, 0], system[:, 1:, 0] = P, A
    system[:, 0, 1:] = np.einsum("ki,kij->kj", A, D)
    system[:, 1:, 1:] = D - np.eye(3)
    cotangent = np.zeros((n, 4, 1))
    cotangent[:, 0, 0] = rng.normal(size=n)
    expected = np.linalg.solve(system.transpose(0, 2, 1), cotangent)[:, :, 0]

    index = np.stack([np.arange(3 * n), np.repeat(np.arange(n), 3)], axis=1)
    matrices = (
        diagonal(P),
        BCOO((jnp.asarray(A.ravel()), jnp.asarray(index)), shape=(3 * n, n)),
    )
    vectors = -(P * x + np.sum(A * y, axis=1)), (A * x[:, None] + s).ravel()
    structure = QCPStructureCPU(*matrices, {"q": [3] * n})
    qcp = HostQCP(
        *matrices, *map(jnp.asarray, (*vectors, x, y.ravel(), s.ravel())), structure
    )
    zero = jnp.zeros(3 * n)
    _, _, dq, db = qcp.vjp(jnp.asarray(cotangent[:, 0, 0]), zero, zero, "ldl")
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(-dq, expected[:, 0], rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(db, expected[:, 1:].ravel(), rtol=0, atol=1e-12 * scale)


def assembled(dims, n, rows, cols):
    """The assembly of a `K` with an empty `P`, and an `A` with these entries."""
    cone = ProductCone.from_dict(dims, "lower")
    shape = jax.ShapeDtypeStruct((cone.dim,), jnp.float64)
    eigenvectors = jax.eval_shape(cone.jacobian, shape).eigenvectors
    empty = np.zeros(0, np.int32)
    return Assembly(
        SparsityPattern(empty, empty, (n, n)),
        SparsityPattern(rows, cols, (cone.dim, n)),
        eigenvectors,
    )


@pytest.mark.parametrize("dims", [{"ep": 50_000}, {"s": [2] * 50_000}])
def test_places_in_small_cones(dims):
    """All rows of a cone get the one column that occurs in it."""
    n = count = 50_000
    rng = np.random.default_rng(0)
    rows = 3 * np.arange(count) + rng.integers(0, 3, count)
    cols = rng.permutation(n)
    assembly = assembled(dims, n, rows, cols)
    expected = np.stack([n + np.arange(3 * count), np.repeat(cols, 3)])
    corner = n + np.arange(3 * count)
    expected = np.concatenate([np.stack([corner, corner]), expected], axis=1)
    got = np.stack([assembly.rows, assembly.cols])
    np.testing.assert_array_equal(
        got[:, np.lexsort(got)], expected[:, np.lexsort(expected)]
    )


def test_places_in_expanded_cones():
    """Fewer cones, more variables: two rows of each cone get its columns, and `tau`."""
    n, count, size = 600_000, 4000, 15
    cols = np.random.default_rng(0).permutation(n)[: count * size]
    assembly = assembled({"q": [size] * count}, n, np.arange(count * size), cols)
    assert assembly.expanded
    start = np.repeat(n + size * np.arange(count), size)
    tau = n + count * size + np.arange(count * size)
    expected = [np.stack([rows, cols]) for rows in (start, start + 1, tau)]
    got = np.stack([assembly.rows, assembly.cols])
    got, expected = got[:, assembly.cols < n], np.concatenate(expected, axis=1)
    np.testing.assert_array_equal(
        got[:, np.lexsort(got)], expected[:, np.lexsort(expected)]
    )


def test_sizes_that_are_too_large():
    """Said before the memory is taken."""
    size, n = 300, 50_000
    rows = np.arange(n) % (size * (size + 1) // 2)
    with pytest.raises(MemoryError, match="2257545150 entries"):
        assembled({"s": [size]}, n, rows, np.arange(n))
    with pytest.raises(ValueError, match=r"rows: .* 32 bits, got 0 to 4294967296"):
        SparsityPattern(np.array([0, 2**32]), np.array([0, 0]), (2**33, 1))
    with pytest.raises(TypeError, match="cols: expected integers, got dtype float64"):
        as_indices("cols", np.array([0.5]))
    with pytest.raises(ValueError, match=r"rows: .* 32 bits"):
        NativeFactorisation(2, np.array([0, 2**32 + 1]), np.array([0, 1]))


I32 = np.int32
GOOD = np.array([0, 1, 2], I32)
WRONG_PATTERNS = {
    "row above": (3, np.array([0, 3, 2], I32), GOOD, ValueError, "rows: .* got 3 at"),
    "row below": (3, np.array([0, 1, -1], I32), GOOD, ValueError, "rows: .* got -1 at"),
    "col above": (3, GOOD, np.array([0, 1, 2**31 - 1], I32), ValueError, "cols: .* got"),
    "col below": (3, GOOD, np.array([0, 1, -(2**31)], I32), ValueError, "cols: .* got"),
    "no rows at all": (0, GOOD, GOOD, ValueError, "rows: .* got 0 at place 0"),
    "lengths": (3, GOOD, GOOD[:2], ValueError, "expected one length, got 3 and 2"),
    "no cols": (3, GOOD, GOOD[:0], ValueError, "expected one length, got 3 and 0"),
    "int64": (3, GOOD.astype(np.int64), GOOD, TypeError, "rows: .* the format"),
    "floats": (3, GOOD, GOOD.astype(np.float32), TypeError, "cols: .* format 'f'"),
    "other byte order": (3, GOOD.astype(">i4"), GOOD, TypeError, "format '>i'"),
    "two axes": (3, GOOD[None], GOOD, TypeError, "rows: .* 2 dimensions"),
    "a list": (3, [0, 1, 2], GOOD, TypeError, "rows: .* got <class 'list'>"),
    "None": (3, GOOD, None, TypeError, "cols: .* got <class 'NoneType'>"),
    "bytes": (3, GOOD.tobytes(), GOOD, TypeError, "rows: .* format 'B'"),
    "negative order": (-1, GOOD[:0], GOOD[:0], ValueError, "order: .* got -1"),
    "order of 2^30": (2**30, GOOD, GOOD, MemoryError, "order 1073741824"),
    "order of 2^100": (2**100, GOOD, GOOD, MemoryError, "the limit is 2\\^30"),
    "fractional order": (2.5, GOOD, GOOD, TypeError, "order: .* got 2.5"),
}


@pytest.mark.parametrize("name", WRONG_PATTERNS)
def test_patterns_that_are_none(name):
    order, rows, cols, error, message = WRONG_PATTERNS[name]
    with pytest.raises(error, match=message):
        _ldl.analyse(order, rows, cols)


def test_strided_indices():
    """Those of a transposed or reversed array."""
    both = np.stack([GOOD, GOOD[::-1]], axis=1)
    expected = _ldl.analyse(3, GOOD, GOOD[::-1].copy())
    assert _ldl.analyse(3, both[:, 0], both[:, 1]) == expected


@pytest.mark.parametrize("kind", [NativeFactorisation, QDLDLFactorisation])
@pytest.mark.parametrize("pattern", ["pair", "star", "random"])
def test_entries_at_the_same_place(kind, pattern):
    """In either triangle and more of them than there are rows, without a diagonal
    somewhere: they add up.
    """
    rng = np.random.default_rng(0)
    n, count = 12, 300
    sign = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    rows, cols = {
        "pair": (np.full(count, 3), np.full(count, 8)),
        "star": (np.full(count, 5), rng.integers(0, n, count)),
        "random": (rng.integers(0, n, count), rng.integers(0, n, count)),
    }[pattern]
    swap = rng.random(count) < 0.5
    rows, cols = np.where(swap, cols, rows), np.where(swap, rows, cols)
    # Zero between rows of one sign, so that the sum is quasi-definite.
    values = np.where(sign[rows] == sign[cols], 0.0, rng.normal(size=count))
    rows = np.concatenate([rows, np.arange(n), np.arange(n)])
    cols = np.concatenate([cols, np.arange(n), np.arange(n)])
    values = np.concatenate([values, sign, sign])
    dense = np.zeros((n, n))
    np.add.at(dense, (rows, cols), values)
    dense = dense + dense.T - np.diag(np.diag(dense))
    factorisation = kind(n, rows, cols)
    factors, singular = factorisation.factorise(
        jnp.asarray(values), jnp.asarray(1e-8 * sign), adapt=True, well_posed=False
    )
    right = rng.normal(size=n)
    z, _, _ = factorisation.refined(
        factors, singular, jnp.asarray(right), Tolerances(1e-15, 1e-16, 50)
    )
    np.testing.assert_allclose(z, np.linalg.solve(dense, right), rtol=0, atol=1e-13)


# A chain of four, whose last row has no entry on the diagonal.
ROWS, COLS = np.array([0, 1, 2, 1, 2, 3], I32), np.array([0, 1, 2, 0, 1, 2], I32)
PLAN_BYTES, SOURCE, FILL, _ = _ldl.analyse(4, ROWS, COLS)
GROUPS = np.arange(4, dtype=I32)
PLAN = np.frombuffer(PLAN_BYTES, I32)
VALUES = np.array([1.0, -1.0, 1.0, 0.5, 0.5, 0.5])
SHIFT = 1e-8 * np.array([1.0, -1.0, 1.0, -1.0])


def changed(place, value):
    plan = PLAN.copy()
    plan[place] = value
    return plan


def factorise(
    plan=PLAN,
    groups=GROUPS,
    values=VALUES,
    shift=SHIFT,
    words=(2 * FILL,),
    singular=(),
):
    results = (
        jax.ShapeDtypeStruct(words, jnp.uint32),
        jax.ShapeDtypeStruct(singular, jnp.bool),
    )
    call = jax.ffi.ffi_call(ffi_target("factorise"), results)
    arguments = plan, groups, values, shift
    return jax.block_until_ready(call(*arguments, adapt=True, well_posed=False))


def solve(
    plan=PLAN,
    values=VALUES,
    words=None,
    singular=False,
    vector=SHIFT,
    solution=(4,),
    error=(),
    steps=(),
    dtype=jnp.float64,
):
    results = (
        jax.ShapeDtypeStruct(solution, dtype),
        jax.ShapeDtypeStruct(error, jnp.float32),
        jax.ShapeDtypeStruct(steps, jnp.int32),
    )
    call = jax.ffi.ffi_call(ffi_target("solve"), results)
    options = {"tolerance": 1e-14, "floor": 1e-16, "well_posed": False}
    words = np.zeros(2 * FILL, np.uint32) if words is None else words
    return jax.block_until_ready(
        call(
            *(plan, values, words, np.asarray(singular), vector),
            **options,
            max_steps=I32(50),
        )
    )


WRONG_PLANS = {
    "empty": PLAN[:0],
    "short": PLAN[:-1],
    "header only": PLAN[:5],
    "long": np.append(PLAN, I32(0)),
    "zeros": np.zeros_like(PLAN),
    "random": np.random.default_rng(0).integers(0, 4, PLAN.size).astype(I32),
    "larger order": changed(1, 5),
    "negative count": changed(3, -1),
    "more entries, fewer rows": changed(3, 7),
    "pivot outside": changed(5, 1000),
    "target outside": changed(-3, 1000),
    "two": np.stack([PLAN, PLAN]),
}


@pytest.mark.parametrize("call", [factorise, solve])
@pytest.mark.parametrize("name", WRONG_PLANS)
def test_plans_that_are_none(call, name):
    with pytest.raises(jax.errors.JaxRuntimeError, match="plan: expected what analyse"):
        call(plan=WRONG_PLANS[name])


TWO = np.stack([SHIFT, SHIFT])
# A batch of two, and what does not belong to it.
BATCH = {"words": (2, 2 * FILL), "singular": (2,)}
WRONG_ARRAYS = {
    "factorise": [
        ("groups", {"groups": GROUPS[:-1]}),
        ("groups", {"groups": GROUPS + I32(1)}),
        ("groups", {"groups": GROUPS - I32(1)}),
        ("values", {"values": VALUES[:-1]}),
        ("values", {"values": VALUES.astype(np.int64)}),
        ("values", {"values": np.ones((3, 6)), **BATCH}),
        ("shift", {"shift": np.append(SHIFT, 1.0)}),
        ("shift", {"shift": SHIFT.astype(np.float16)}),
        ("shift", {"values": np.ones((2, 6)), **BATCH}),
        ("words", {"words": (2 * FILL - 2,)}),
        ("singular", {"singular": (1,)}),
    ],
    "solve": [
        ("values", {"values": np.ones(1)}),
        ("words", {"words": np.zeros(2, np.uint32)}),
        ("singular", {"singular": [False, False]}),
        ("vector", {"vector": SHIFT[:3]}),
        ("vector", {"vector": TWO}),
        ("vector", {"vector": SHIFT.astype(complex)}),
        ("solution", {"solution": (5,)}),
        ("solution", {"dtype": jnp.int32}),
        ("error", {"error": (2,)}),
        ("steps", {"steps": (1, 1)}),
    ],
}


@pytest.mark.parametrize("call", [factorise, solve])
def test_arrays_of_other_shapes(call):
    """The argument is named."""
    for name, arguments in WRONG_ARRAYS[call.__name__]:
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"{name}: expected"):
            call(**arguments)


def test_arrays_that_fit():
    """The calls of the tests above are right but for what they change. An empty batch is
    a batch.
    """
    ordered = VALUES[np.frombuffer(SOURCE, I32)]
    words, singular = factorise(values=ordered)
    dense = np.zeros((4, 4))
    dense[ROWS, COLS] = dense[COLS, ROWS] = VALUES
    vector = np.arange(1.0, 5.0)
    z, _, _ = solve(values=ordered, words=words, singular=singular, vector=vector)
    expected = np.linalg.solve(dense, vector)
    np.testing.assert_allclose(z, expected, rtol=0, atol=1e-12)
    none, _ = factorise(
        values=VALUES[None], shift=TWO[:1], words=(0, 2 * FILL), singular=(0,)
    )
    assert none.shape == (0, 2 * FILL)
    z, _, _ = solve(
        values=VALUES[None],
        words=none,
        singular=np.zeros(0, bool),
        vector=TWO[:0],
        solution=(0, 4),
        error=(0,),
        steps=(0,),
    )
    assert z.shape == (0, 4)


def capsule(original, name):
    """The function of another capsule under this name, which must live on."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    pointer = api.PyCapsule_GetPointer(original, api.PyCapsule_GetName(original))
    return api.PyCapsule_New(pointer, name, None)


@pytest.fixture
def load(tmp_path):
    """Loads the extension once more, from a copy."""

    def load_copy():
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.so"
        shutil.copy(_ldl.__file__, path)
        loader = importlib.machinery.ExtensionFileLoader("_ldl", str(path))
        spec = importlib.util.spec_from_file_location("_ldl", path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module

    return load_copy


LONG = b"void (char *, char *, long *, long *, long *, double *, double *, long *, "
FEWER = b"void (char *, char *, int *, int *, int *, double *)"
SINGLE = b"void (char *, char *, int *, int *, int *, float *, float *, int *, float *, "
SIGNATURES = {
    "64-bit integers": LONG + b"double *, long *, double *, double *, long *)",
    "fewer": FEWER,
    "single precision": SINGLE + b"int *, float *, float *, int *)",
    "empty": b"",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_other_routines_than_scipy_has(name, load, monkeypatch):
    """They are not called."""
    routine = capsule(cython_blas.__pyx_capi__["dgemm"], SIGNATURES[name])
    module = types.ModuleType("cython_blas")
    module.__dict__["__pyx_capi__"] = {"dgemm": routine}
    monkeypatch.setitem(sys.modules, "scipy.linalg.cython_blas", module)
    with pytest.raises(ImportError, match=r"cython_blas\.dgemm: expected .* 32-bit"):
        load()


def test_scipy_routines(load, monkeypatch):
    """Those of SciPy are taken, and so are doubles by their own name."""
    assert load().analyse(3, GOOD, GOOD) == _ldl.analyse(3, GOOD, GOOD)
    lapack = dict(cython_lapack.__pyx_capi__)
    plain = b"void (char *, char *, int *, double *, int *, double *, double *, int *, "
    plain += b"int *, int *, int *)"
    lapack["dsyevd"] = capsule(lapack["dsyevd"], plain)
    module = types.ModuleType("cython_lapack")
    module.__dict__["__pyx_capi__"] = lapack
    monkeypatch.setitem(sys.modules, "scipy.linalg.cython_lapack", module)
    assert "factorise" in load().handlers()
    swapped = plain.replace(b"int *, int *)", b"int *, long *)")
    lapack["dsyevd"] = capsule(lapack["dsyevd"], swapped)
    with pytest.raises(ImportError, match="cython_lapack"):
        load()
