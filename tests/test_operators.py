"""lineax accepts the operators: every query is answered, and truthfully."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from diffqcp import LSMR, LU

from .helpers import device, FAMILIES, host
from .reference import random_problem


@pytest.fixture(scope="module")
def derivative():
    return host(*random_problem(FAMILIES["second-order"], 0)).derivative("jax-lu")


@pytest.fixture(params=["kkt", "derivative", "adjoint", "cone"])
def operator(request, derivative):
    return {
        "kkt": derivative.kkt,
        "derivative": derivative,
        "adjoint": derivative.T,
        "cone": derivative.kkt.jacobian,
    }[request.param]


QUERIES = {
    lx.is_symmetric: lambda matrix: (
        np.array_equal(matrix.shape, matrix.shape[::-1]) and np.allclose(matrix, matrix.T)
    ),
    lx.is_positive_semidefinite: lambda matrix: np.all(
        np.linalg.eigvalsh(matrix) > -1e-12
    ),
    lx.is_negative_semidefinite: lambda matrix: np.all(
        np.linalg.eigvalsh(matrix) < 1e-12
    ),
    lx.is_diagonal: lambda matrix: np.allclose(matrix, np.diag(np.diag(matrix))),
    lx.is_tridiagonal: lambda matrix: np.allclose(np.triu(matrix, 2), 0),
    lx.is_lower_triangular: lambda matrix: np.allclose(np.triu(matrix, 1), 0),
    lx.is_upper_triangular: lambda matrix: np.allclose(np.tril(matrix, -1), 0),
    lx.has_unit_diagonal: lambda matrix: np.allclose(np.diag(matrix), 1),
}


def test_queries(operator):
    """An answer may be a cautious False, never a wrong True."""
    matrix = np.asarray(operator.as_matrix())
    for query, truth in QUERIES.items():
        assert not query(operator) or truth(matrix), query
    np.testing.assert_allclose(lx.diagonal(operator), np.diagonal(matrix), atol=1e-12)
    main, lower, upper = lx.tridiagonal(operator)
    np.testing.assert_allclose(main, np.diagonal(matrix), atol=1e-12)
    np.testing.assert_allclose(lower, np.diagonal(matrix, -1), atol=1e-12)
    np.testing.assert_allclose(upper, np.diagonal(matrix, 1), atol=1e-12)
    assert lx.linearise(operator) is operator and lx.conj(operator) is operator
    materialised = lx.materialise(operator)
    np.testing.assert_allclose(materialised.as_matrix(), matrix, atol=1e-9)
    assert eqx.tree_equal(materialised.in_structure(), operator.in_structure())


def test_symmetric_operators(derivative):
    assert lx.is_symmetric(derivative.kkt) and derivative.kkt.T is derivative.kkt
    assert not lx.is_symmetric(derivative)


@pytest.mark.parametrize("make", [host, device])
def test_kkt_matrix_is_its_product(make):
    qcp = make(*random_problem(FAMILIES["mixed"], 0))
    kkt = qcp.derivative(solver=LSMR(), polish=False).kkt
    matrix = np.asarray(kkt.as_matrix())
    vector = jnp.asarray(np.random.default_rng(0).normal(size=matrix.shape[0]))
    np.testing.assert_allclose(kkt.mv(vector), matrix @ vector, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-14)


def test_composes_with_lineax(derivative):
    """An ordinary operator: K K^-1 = I, sums, multiples."""
    kkt = derivative.kkt
    vector = jnp.asarray(np.random.default_rng(0).normal(size=kkt.in_size()))
    inverse = lx.invert(kkt, LU())
    np.testing.assert_allclose((kkt @ inverse).mv(vector), vector, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        (2.0 * kkt - kkt).mv(vector), kkt.mv(vector), rtol=0, atol=1e-12
    )


def test_lu_takes_only_kkt_systems():
    with pytest.raises(TypeError, match="expected a KKTOperator"):
        lx.linear_solve(lx.MatrixLinearOperator(np.eye(2)), np.ones(2), LU())


def test_solver_options(derivative):
    """Each does what it says."""
    kkt = derivative.kkt
    vector = jnp.asarray(np.random.default_rng(0).normal(size=kkt.in_size()))
    exact = np.linalg.solve(kkt.as_matrix(), vector)

    def solve(solver):
        return lx.linear_solve(kkt, vector, solver, throw=False)

    def error(solver):
        return np.linalg.norm(solve(solver).value - exact) / np.linalg.norm(exact)

    assert error(LU()) < 1e-12
    one = solve(LU(regularisation=1e-3, max_steps=1))
    assert one.result == lx.RESULTS.max_steps_reached
    assert error(LU(regularisation=1e-3)) < 1e-12
    assert error(LU(regularisation=1e-3, tol=1e-3)) > 1e-8
    assert int(solve(LU()).stats["num_steps"]) <= 4
    assert solve(LSMR(max_steps=2)).result != lx.RESULTS.successful
    assert error(LSMR()) < 1e-9
    assert 1e-9 < error(LSMR(rtol=1e-5)) < 1e-2
    assert 1e-9 < error(LSMR(rtol=0.0, atol=1e-5)) < 1e-2


def test_linear_transpose(derivative):
    """In JAX's own hands: without the derivative's own transpose, in a batch, twice."""
    rng = np.random.default_rng(1)
    data, cotangents = (
        tuple(jnp.asarray(rng.normal(size=part.shape)) for part in structure)
        for structure in (derivative.in_structure(), derivative.out_structure())
    )
    transposed = jax.linear_transpose(derivative.mv, data)
    expected = derivative.T.mv(cotangents)
    batch = jax.tree.map(lambda part: jnp.stack([part, 2 * part]), cotangents)
    (got,) = jax.jit(jax.vmap(transposed))(batch)
    twice = jax.linear_transpose(derivative.T.mv, cotangents)(data)[0]
    pairs = [(part[1] / 2, truth) for part, truth in zip(got, expected, strict=True)]
    pairs += zip(twice, derivative.mv(data), strict=True)
    for part, truth in pairs:
        np.testing.assert_allclose(part, truth, rtol=0, atol=1e-11)


def test_derivatives_of_kkt_leaves():
    """Also at eigenvalues of zero, whose roots have no derivative: the solution has one.
    One-sided there, since eigenvalues are not negative.
    """
    derivative = host(*random_problem(FAMILIES["nonnegative"], 0)).derivative("jax-lu")
    kkt = derivative.kkt
    vector = jnp.asarray(np.random.default_rng(0).normal(size=kkt.in_size()))
    eigenvalues = np.asarray(kkt.jacobian.eigenvalues)
    assert 0 < np.sum(eigenvalues == 0) < eigenvalues.size

    @jax.jit
    def loss(kkt):
        state = LU().init(jax.lax.stop_gradient(kkt), {})
        right = vector[: kkt.n], vector[kkt.n :]
        w, u, _ = kkt.solve_for_jax(*right, LU(), state, lambda value, solved: value)
        return jnp.sum(w**2) + jnp.sum(u**3)

    gradient = jax.grad(loss)(kkt)
    rng = np.random.default_rng(1)
    inwards = np.where(eigenvalues < 0.5, 1, -1) * rng.uniform(0.5, 1, eigenvalues.size)
    moves = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), kkt)
    moves = eqx.tree_at(lambda kkt: kkt.jacobian.eigenvalues, moves, jnp.asarray(inwards))

    def at(step):
        return loss(jax.tree.map(lambda leaf, move: leaf + step * move, kkt, moves))

    h = 1e-5
    expected = (-3 * at(0.0) + 4 * at(h) - at(2 * h)) / (2 * h)
    got = sum(map(jnp.vdot, jax.tree.leaves(gradient), jax.tree.leaves(moves)))
    # The differences are of second order, over a step that the solution limits.
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    of_product = jax.grad(lambda kkt: jnp.sum(kkt.mv(vector) ** 2))(kkt)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(of_product))
