"""What is accepted, and what the errors say about the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO, BCSR

from diffqcp import DeviceQCP, HostQCP, QCPStructureCPU, QCPStructureGPU

from .helpers import csr, device, entries, host, host_data, inner
from .reference import random_direction, random_problem


DIMS = {"z": 1, "l": 3}


@pytest.fixture(scope="module")
def case():
    return random_problem(DIMS, 0)


def bcoo(rows, cols, shape):
    index = jnp.asarray(np.stack([rows, cols], axis=1).reshape(-1, 2))
    return BCOO((jnp.ones(len(rows)), index), shape=shape)


def test_order_of_entries_and_explicit_zeros(case):
    """The gradient has the entries in the order given, zeros included."""
    problem, solution = case
    qcp = host(problem, solution)
    rng = np.random.default_rng(0)
    cotangents = [rng.normal(size=part.size) for part in solution]
    dP, dA, dq, db = qcp.vjp(*cotangents)

    def shuffled(matrix):
        index = np.asarray(matrix.indices)
        order = rng.permutation(len(index))
        return BCOO((matrix.data[order], matrix.indices[order]), shape=matrix.shape)

    P, full_A = shuffled(qcp.P), entries(problem.A, np.ones_like(problem.A))
    A = shuffled(full_A)
    structure = QCPStructureCPU(P, A, DIMS)
    other = HostQCP(P, A, problem.q, problem.b, *solution, structure)
    other_dP, other_dA, other_dq, _ = other.vjp(*cotangents)
    np.testing.assert_array_equal(other_dP.indices, P.indices)
    np.testing.assert_array_equal(other_dA.indices, A.indices)
    np.testing.assert_allclose(other_dP.todense(), dP.todense(), atol=1e-12)
    where = problem.A != 0
    np.testing.assert_allclose(
        other_dA.todense()[where], dA.todense()[where], rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(other_dq, dq, rtol=0, atol=1e-12)
    # A stored zero has a gradient: moving it moves the solution.
    assert np.all(np.asarray(other_dA.todense())[~where] != 0)


def test_onto_dual(case):
    """`onto_dual=False` says that the dictionary describes K*."""
    problem, (x, y, s) = random_problem({"ep": 2}, 0)
    P, A, _, _ = host_data(problem, problem)
    direct = QCPStructureCPU(P, A, {"ep": 2})
    dual = QCPStructureCPU(P, A, {"ed": 2}, onto_dual=False)
    assert direct != dual
    results = [
        HostQCP(P, A, problem.q, problem.b, x, y, s, structure).vjp(x, y, s)[2]
        for structure in (direct, dual)
    ]
    np.testing.assert_allclose(*results, rtol=0, atol=1e-11)


def test_equality_and_hash(case):
    problem, _ = case
    P, A, _, _ = host_data(problem, problem)
    first, second = QCPStructureCPU(P, A, DIMS), QCPStructureCPU(P, A, {**DIMS, "q": []})
    assert first == second and hash(first) == hash(second)
    assert first != QCPStructureCPU(P, A, {"z": 2, "l": 2})
    assert first != "structure"
    assert "n=6, m=4" in repr(first)
    assert jax.tree.leaves(first) == []


def test_adjoint_on_nonsymmetric_device_perturbation(case):
    """vjp is the transpose of jvp on the stored entries, whatever these are."""
    problem, solution = case
    qcp = device(problem, solution)
    direction = random_direction(problem, 1)
    rng = np.random.default_rng(2)
    dP = csr(np.where(problem.P != 0, rng.normal(size=problem.P.shape), 0), problem.P)
    data = (dP, csr(direction.A, problem.A), direction.q, direction.b)
    cotangents = [rng.normal(size=part.size) for part in solution]
    forward, backward = qcp.jvp(*data), qcp.vjp(*cotangents)
    np.testing.assert_allclose(
        inner(forward, cotangents), inner(backward, data), rtol=1e-11
    )


SQUARE, TALL = (2, 2), (3, 2)
OK_P, OK_A = bcoo([0, 0, 1], [0, 1, 1], SQUARE), bcoo([0, 1, 2], [0, 1, 1], TALL)


@pytest.mark.parametrize(
    ("P", "A", "dims", "error", "message"),
    [
        (np.eye(2), OK_A, {"l": 3}, TypeError, "P: expected a BCOO"),
        (OK_P, jnp.ones(TALL), {"l": 3}, TypeError, "A: expected a BCOO"),
        (bcoo([0], [0], (2, 3)), OK_A, {"l": 3}, ValueError, "P: expected shape"),
        (bcoo([0], [0], (3, 3)), OK_A, {"l": 3}, ValueError, "P: expected shape"),
        (bcoo([1], [0], SQUARE), OK_A, {"l": 3}, ValueError, "P: .*below the diagonal"),
        (bcoo([0, 0], [1, 1], SQUARE), OK_A, {"l": 3}, ValueError, "P: .*more than once"),
        (OK_P, bcoo([2, 2], [1, 1], TALL), {"l": 3}, ValueError, "A: .*more than once"),
        (OK_P, bcoo([3], [0], TALL), {"l": 3}, ValueError, "A: .*outside"),
        (OK_P, OK_A, {"l": 2}, ValueError, "cone_dims: the cones take 2 rows"),
        (OK_P, OK_A, {"x": 3}, ValueError, "unknown cone"),
    ],
)
def test_bad_structures(P, A, dims, error, message):
    with pytest.raises(error, match=message):
        QCPStructureCPU(P, A, dims)


def test_bad_device_structures():
    A = csr(np.ones(TALL), np.ones(TALL))
    one_sided = np.array([[1.0, 1.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="P: .*not symmetric"):
        QCPStructureGPU(csr(one_sided, one_sided), A, {"l": 3})
    with pytest.raises(TypeError, match="P: expected a BCSR"):
        QCPStructureGPU(OK_P, A, {"l": 3})
    batch = BCSR.fromdense(jnp.ones((2, 2, 2, 2)), n_batch=2)
    with pytest.raises(ValueError, match="P: .*batch"):
        QCPStructureGPU(batch, A, {"l": 3})
    batch = BCSR.fromdense(jnp.stack([jnp.eye(2), jnp.eye(2)[::-1]]), n_batch=1)
    with pytest.raises(ValueError, match="P: .*same pattern in all items"):
        QCPStructureGPU(batch, A, {"l": 3})


def test_a_batch_has_the_structure_of_an_item():
    P, A = jnp.ones((4, 2, 2)), jnp.ones((4, 3, 2))
    on_device = QCPStructureGPU(
        BCSR.fromdense(P, n_batch=1), BCSR.fromdense(A, n_batch=1), {"l": 3}
    )
    item = QCPStructureGPU(BCSR.fromdense(P[0]), BCSR.fromdense(A[0]), {"l": 3})
    assert on_device == item
    P = jnp.triu(P)
    on_host = QCPStructureCPU(
        BCOO.fromdense(P, n_batch=1), BCOO.fromdense(A, n_batch=1), {"l": 3}
    )
    shared = BCOO.fromdense(P, n_batch=1)
    shared = BCOO((shared.data, shared.indices[:1]), shape=shared.shape)
    assert QCPStructureCPU(shared, BCOO.fromdense(A[0]), {"l": 3}) == on_host
    assert on_host == QCPStructureCPU(
        BCOO.fromdense(P[0]), BCOO.fromdense(A[0]), {"l": 3}
    )


def test_traced_patterns_are_refused():
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda P: QCPStructureCPU(P, OK_A, {"l": 3}).n)(OK_P)


def arguments(**replaced):
    structure = QCPStructureCPU(OK_P, OK_A, {"l": 3})
    given = {
        "P": OK_P,
        "A": OK_A,
        "q": np.ones(2),
        "b": np.ones(3),
        "x": np.ones(2),
        "y": np.ones(3),
        "s": np.zeros(3),
        "problem_structure": structure,
    }
    return {**given, **replaced}


# Annotations are checked at run time in these tests, so some errors come from there;
# both name the argument.
@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"q": np.ones(3)}, "q"),
        ({"b": np.ones((3, 1))}, "b"),
        ({"x": np.array([1.0, np.nan])}, "x: expected finite values, got nan at entry 1"),
        ({"y": np.array([1.0, np.inf, 0.0])}, "y: expected finite"),
        ({"s": np.ones(3) * 1j}, "s"),
        ({"P": bcoo([0, 1, 1], [0, 0, 1], SQUARE)}, "P: its entries are not where"),
        ({"P": bcoo([0], [0], SQUARE)}, "P: expected 3 stored entries"),
        ({"A": bcoo([0, 1, 2], [0, 1, 1], (4, 2)), "b": np.ones(4)}, "A: expected|y"),
        ({"A": OK_A * jnp.nan}, "A: expected finite"),
        ({"A": np.ones(TALL)}, "A"),
        ({"problem_structure": None}, "problem_structure"),
    ],
)
def test_bad_data(replaced, message):
    with pytest.raises(Exception, match=message):
        HostQCP(**arguments(**replaced))


def test_structures_are_not_mixed_up():
    with pytest.raises(Exception, match="problem_structure"):
        DeviceQCP(**arguments())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q: q.vjp(np.ones(3), np.ones(3), np.ones(3)), ValueError, "dx: expected"),
        (lambda q: q.jvp(OK_P, OK_A, np.ones(2), np.ones(2)), ValueError, "db: expected"),
        (
            lambda q: q.jvp(bcoo([0], [0], SQUARE), OK_A, np.ones(2), np.ones(3)),
            ValueError,
            "dP: expected 3 stored",
        ),
        (lambda q: q.derivative("jax-qr"), ValueError, "solve_method: expected one of"),
        (lambda q: q.derivative(solver="jax-lu"), Exception, "solver"),
        (
            lambda q: q.derivative().mv((OK_P, OK_A, np.ones(2), np.ones(3))),
            Exception,
            "dP: expected a vector|vector",
        ),
        (lambda q: q.derivative().mv((np.ones(3),)), TypeError, "expected a tuple"),
        (
            lambda q: q.derivative().T.mv((np.ones(2), np.ones(2), np.ones(3))),
            ValueError,
            "dy: expected shape",
        ),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call(HostQCP(**arguments()))


def test_other_formats_are_named(case):
    problem, solution = case
    qcp = device(problem, solution)
    with pytest.raises(Exception, match="dP"):
        qcp.jvp(*host_data(problem, problem))
