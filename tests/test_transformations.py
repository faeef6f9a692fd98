"""Backends x transformations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.experimental.sparse import BCOO, BCSR

from diffqcp import AutoSolver, DeviceQCP, HostQCP, LSMR, LU, QCPStructureCPU, SparseLDL
from diffqcp.linear_solve import auto
from diffqcp.linear_solve._quasidefinite import AbstractQuasidefiniteSolver

from .helpers import (
    device,
    device_data,
    entries,
    FAMILIES,
    host,
    host_data,
    inner,
    worst,
)
from .reference import random_direction, random_problem


SOLVERS = {"lu": LU(), "lsmr": LSMR(), "ldl": SparseLDL()}
DIMS = {"z": 1, "l": 3, "q": [3], "ep": 1}


def forms(*names):
    """Pairs of a form and a solver: each with each would compile the same again."""
    pairs = [name.split("-") for name in ("host-ldl", "device-ldl", *names)]
    makers = {"host": host, "device": device}
    pairs = [(makers[form], SOLVERS[solver]) for form, solver in pairs]
    return pytest.mark.parametrize(
        ("make", "solver"), pairs, ids=["host-ldl", "device-ldl", *names]
    )


@pytest.fixture(scope="module", params=SOLVERS)
def solver(request):
    return SOLVERS[request.param]


@pytest.fixture(scope="module")
def case():
    problem, solution = random_problem(DIMS, 4)
    rng = np.random.default_rng(5)
    cotangents = [jnp.asarray(rng.normal(size=part.size)) for part in solution]
    return problem, solution, random_direction(problem, 6), cotangents


def flat(parts):
    values = [part.data if isinstance(part, (BCOO, BCSR)) else part for part in parts]
    return np.concatenate([np.asarray(value) for value in values])


def test_linear(case, solver):
    """No shortcut for small right-hand sides: 1e-12 is not zero, and zero is zero."""
    problem, solution, direction, cotangents = case
    qcp = host(problem, solution)
    dP, dA, dq, db = host_data(problem, direction)
    large = flat(qcp.jvp(dP, dA, dq, db, solver=solver))
    small = flat(qcp.jvp(1e-12 * dP, 1e-12 * dA, 1e-12 * dq, 1e-12 * db, solver=solver))
    np.testing.assert_allclose(1e12 * small, large, rtol=0, atol=1e-9)
    zero = flat(qcp.jvp(0 * dP, 0 * dA, 0 * dq, 0 * db, solver=solver))
    assert np.all(zero == 0)
    gradient = flat(qcp.vjp(*cotangents, solver=solver))
    tiny = flat(qcp.vjp(*(1e-12 * part for part in cotangents), solver=solver))
    np.testing.assert_allclose(1e12 * tiny, gradient, rtol=0, atol=1e-9)


@forms("host-lu")
def test_jit(case, make, solver):
    """A QCP can be an argument of a compiled function, or be built inside it."""
    problem, solution, _, cotangents = case
    qcp = make(problem, solution)
    eager = qcp.vjp(*cotangents, solver=solver)

    @eqx.filter_jit
    def as_argument(qcp, cotangents):
        return qcp.vjp(*cotangents, solver=solver)

    @jax.jit
    def built_inside(P, A, q, b, x, y, s, cotangents):
        inside = type(qcp)(P, A, q, b, x, y, s, qcp.problem_structure)
        return inside.vjp(*cotangents, solver=solver)

    arrays = (qcp.P, qcp.A, qcp.q, qcp.b, qcp.x, qcp.y, qcp.s)
    for compiled in (as_argument(qcp, cotangents), built_inside(*arrays, cotangents)):
        assert type(compiled[0]) is type(eager[0]) and type(compiled[1]) is type(eager[1])
        np.testing.assert_allclose(flat(compiled), flat(eager), rtol=0, atol=1e-11)
        np.testing.assert_array_equal(compiled[0].indices, eager[0].indices)


@forms("device-lsmr")
def test_vmap(case, make, solver):
    """Over values that share one structure; each item as it is alone."""
    problem, solution, _, cotangents = case
    scale = np.linspace(0.5, 1.5, 4)
    # (P, q, y, s) and (b, x, s) scale together: the solution stays one.
    items = [
        make(
            problem._replace(P=k * problem.P, q=k * problem.q),
            (solution[0], k * solution[1], solution[2]),
        )
        for k in scale
    ]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)

    def vjp(qcp):
        return qcp.vjp(*cotangents, solver=solver)

    batched = jax.vmap(vjp)(batch)
    filtered = eqx.filter_vmap(lambda qcp: vjp(qcp)[2])(batch)
    for k, item in enumerate(items):
        alone = vjp(item)
        one = [part.data[k] if hasattr(part, "data") else part[k] for part in batched[:2]]
        one += [part[k] for part in batched[2:]]
        np.testing.assert_allclose(flat(one), flat(alone), rtol=0, atol=1e-10)
        np.testing.assert_allclose(filtered[k], alone[2], rtol=0, atol=1e-10)


def test_vmap_over_sparse_matrices(case):
    """BCOO arguments with a batch dimension, as jax.vmap passes them."""
    problem, solution, _, cotangents = case
    qcp = host(problem, solution)
    rest = (qcp.q, qcp.b, qcp.x, qcp.y, qcp.s)

    def vjp(P, A):
        inside = HostQCP(P, A, *rest, qcp.problem_structure)
        return inside.vjp(*cotangents)[:2]

    def stack(matrix):
        values, index = matrix.data, matrix.indices
        return BCOO(
            (jnp.stack([values] * 2), jnp.stack([index] * 2)), shape=(2, *matrix.shape)
        )

    dP, dA = jax.vmap(vjp)(stack(qcp.P), stack(qcp.A))
    alone = vjp(qcp.P, qcp.A)
    np.testing.assert_allclose(dP.data[1], alone[0].data, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dA.data[1], alone[1].data, rtol=0, atol=1e-10)


def test_one_bad_item_is_nan_alone(case, solver):
    problem, solution, _, cotangents = case
    item = host(problem, solution)
    bad = {
        name: eqx.tree_at(
            lambda qcp, name=name: getattr(qcp, name),
            item,
            getattr(item, name).at[0].set(jnp.nan),
        )
        for name in ("P_values", "A_values", "q", "y", "s")
    }
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), item, *bad.values(), item)

    @jax.jit
    @jax.vmap
    def vjp(qcp):
        dP, dA, dq, db = qcp.vjp(*cotangents, solver=solver, throw=False)
        return jnp.concatenate([dP.data, dA.data, dq, db])

    out = np.asarray(vjp(batch))
    assert np.all(np.isnan(out[1:-1]))
    same = jax.tree.map(lambda leaf: jnp.stack([leaf] * (len(bad) + 2)), item)
    np.testing.assert_array_equal(out[0], vjp(same)[0])
    np.testing.assert_array_equal(out[0], out[-1])


def test_throw(case, solver):
    problem, solution, _, cotangents = case
    qcp = eqx.tree_at(
        lambda qcp: qcp.y, host(problem, solution), replace_fn=lambda y: y * jnp.nan
    )
    with pytest.raises(Exception, match="was not solved"):
        jax.block_until_ready(qcp.vjp(*cotangents, solver=solver)[2])
    with pytest.raises(Exception, match="was not solved"):
        good = host(problem, solution)
        jax.block_until_ready(good.vjp(cotangents[0] * jnp.nan, *cotangents[1:])[2])


def test_gradient_through_vjp_and_jvp(case, solver):
    """Both are linear, so JAX's derivative of one is the other."""
    problem, solution, direction, cotangents = case
    qcp = host(problem, solution)
    derivative = qcp.derivative(solver=solver)
    data = tuple(
        jnp.asarray(part.data if isinstance(part, BCOO) else part)
        for part in host_data(problem, direction)
    )

    def loss(data):
        return sum(a @ b for a, b in zip(derivative.mv(data), cotangents, strict=True))

    got = jax.grad(loss)(data)
    expected = derivative.T.mv(tuple(cotangents))
    np.testing.assert_allclose(flat(got), flat(expected), rtol=0, atol=1e-9)
    _, tangents = jax.jvp(derivative.mv, (data,), (data,))
    np.testing.assert_allclose(flat(tangents), flat(derivative.mv(data)), atol=1e-9)


def test_factorises_once(case):
    """However often the operator is applied, in either direction."""

    class Counting(AbstractQuasidefiniteSolver):
        regularisation: float | None = None
        tol: float | None = None
        max_steps: int = 50
        well_posed: bool = False

        def default_shift(self, dtype):
            return LU().default_shift(dtype)

        def factorise(self, operator, shift):
            calls.append(operator)
            return LU().factorise(operator, shift)

        def refined(self, state, vector, tolerances):
            return LU().refined(state, vector, tolerances)

    calls = []
    problem, solution, direction, cotangents = case
    derivative = host(problem, solution).derivative(solver=Counting())
    data = [getattr(part, "data", part) for part in host_data(problem, direction)]
    data = [np.asarray(part) for part in data]
    tangents = derivative.mv(data)
    gradient = derivative.T.mv(cotangents)
    np.testing.assert_allclose(
        inner(cotangents, tangents), inner(gradient, data), rtol=1e-12
    )
    derivative.as_matrix()
    assert len(calls) == 1


@forms("host-lu")
def test_float32(case, make, solver):
    problem, solution, direction, cotangents = case
    double = make(problem, solution)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), double)
    data = (host_data if make is host else device_data)(problem, direction)
    for method in ("jvp", "vjp"):
        arguments = data if method == "jvp" else cotangents
        expected = getattr(double, method)(*arguments, solver=solver)
        got = getattr(single, method)(*arguments, solver=solver)
        for a, b in zip(got, expected, strict=True):
            a = np.asarray(getattr(a, "data", a))
            b = np.asarray(getattr(b, "data", b))
            assert a.dtype == np.float32
            # The condition number of K, about 1e2, times the machine epsilon.
            assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)


def test_mixed_dtypes_are_promoted(case):
    problem, solution, _, _ = case
    x, y, s = solution
    qcp = host(problem, (x.astype(np.float32), y, s))
    assert {leaf.dtype for leaf in jax.tree.leaves(qcp)} == {jnp.dtype("float64")}


def test_compiles_once(case):
    """Equal structures share one program, also if they are different objects."""
    problem, solution, _, cotangents = case
    traces = []

    @eqx.filter_jit
    def vjp(qcp):
        traces.append(qcp)
        return qcp.vjp(*cotangents)

    first, second = host(problem, solution), host(problem, solution)
    assert first.problem_structure is not second.problem_structure
    assert first.problem_structure == second.problem_structure
    vjp(first)
    vjp(second)
    assert len(traces) == 1


def test_auto_chooses_by_platform_and_size(case, monkeypatch):
    problem, solution, _, _ = case
    kkt = host(problem, solution).derivative().kkt
    for platform, compiled, small, large in [
        ("cpu", True, SparseLDL, SparseLDL),
        ("cpu", False, LU, SparseLDL),
        ("gpu", True, LU, LSMR),
    ]:
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        there = object() if compiled else None
        monkeypatch.setattr(auto, "extension", lambda there=there: there)
        assert isinstance(AutoSolver().choice(kkt), small)
        assert isinstance(AutoSolver(max_dense=5).choice(kkt), large)


def test_any_lineax_solver(case):
    problem, solution, _, cotangents = case
    qcp = host(problem, solution)
    expected = flat(qcp.vjp(*cotangents))
    for solver in (lx.LU(), lx.QR(), lx.SVD(), lx.GMRES(rtol=1e-12, atol=1e-12)):
        got = qcp.vjp(*cotangents, solver=solver)
        np.testing.assert_allclose(flat(got), expected, rtol=0, atol=1e-8)


def test_no_constraints_and_no_objective():
    """m = 0, and an LP whose P has no entries."""
    P = jnp.asarray([[2.0, 0.5], [0.5, 1.0]])
    x = jnp.asarray([0.3, -0.4])
    empty = BCOO((jnp.zeros(0), jnp.zeros((0, 2), int)), shape=(0, 2))
    upper = entries(np.asarray(P), np.triu(P))
    structure = QCPStructureCPU(upper, empty, {})
    none = jnp.zeros(0)
    qcp = HostQCP(upper, empty, -P @ x, none, x, none, none, structure)
    _, _, dq, _ = qcp.vjp(jnp.ones(2), none, none)
    np.testing.assert_allclose(dq, -np.linalg.solve(P, np.ones(2)), rtol=1e-13)

    # minimise x1 + 2 x2 s.t. x1 + x2 = 1, x >= 0: x = (1, 0), a vertex.
    none = BCOO((jnp.zeros(0), jnp.zeros((0, 2), int)), shape=(2, 2))
    A = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    structure = QCPStructureCPU(none, entries(A, A), {"z": 1, "l": 2})
    lp = HostQCP(
        *(none, entries(A, A), np.array([1.0, 2.0]), np.array([1.0, 0.0, 0.0])),
        *(np.array([1.0, 0.0]), np.array([-1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])),
        structure,
    )
    for solver in SOLVERS.values():
        _, _, dq, db = lp.vjp(jnp.ones(2), jnp.zeros(3), jnp.zeros(3), solver=solver)
        np.testing.assert_allclose(dq, [0, 0], atol=1e-12)
        np.testing.assert_allclose(db, [1, 0, 0], atol=1e-12)


def test_attributes_are_what_was_given(case):
    problem, solution, _, _ = case
    for make, kind in ((host, BCOO), (device, BCSR)):
        qcp = make(problem, solution)
        assert isinstance(qcp.P, kind) and isinstance(qcp.A, kind)
        np.testing.assert_array_equal(qcp.A.todense(), problem.A)
        full = problem.P if isinstance(qcp, DeviceQCP) else np.triu(problem.P)
        np.testing.assert_array_equal(qcp.P.todense(), full)


def test_families_are_regular():
    """The problems of these tests are regular: their tolerances mean something."""
    for dims in FAMILIES.values():
        problem, solution = random_problem(dims, 1)
        kkt = host(problem, solution).derivative("ldl").kkt
        assert np.linalg.cond(jax.jit(lambda kkt: kkt.as_matrix())(kkt)) < 1e4
    assert worst([np.ones(2)], [np.ones(2)]) == 0
