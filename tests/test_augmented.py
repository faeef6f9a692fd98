"""Systems whose `P` is positive definite along the active constraints only."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from diffqcp import Augmented, AutoSolver
from diffqcp.cones import ProductCone
from diffqcp.kkt import KKTOperator
from diffqcp.sparsity import SparseMatrix, SparsityPattern


DIMS = {"z": 2, "l": 4, "q": [3, 4, 3]}


def operator(*, dense: bool, least: float) -> KKTOperator:
    """`K` at a point where all cones are partly active, with `P` less `least` times a row
    of `A` that is.
    """
    rng = np.random.default_rng(4)
    cone = ProductCone.from_dict(DIMS).dual()
    n, m = 12, cone.dim
    v = rng.normal(size=m)
    A = rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.6)
    root = rng.normal(size=(n, n))
    P = root @ root.T / n + np.eye(n) / 10 - least * np.outer(A[0], A[0])
    if not dense:  # an entry that is not stored: it is no longer a full pattern
        P[0, -1] = P[-1, 0] = 0
    rows, cols = np.indices(P.shape).reshape(2, -1) if dense else np.nonzero(P)
    matrix = SparseMatrix(jnp.asarray(P[rows, cols]), SparsityPattern(rows, cols, (n, n)))
    rows, cols = np.nonzero(A)
    pattern = SparsityPattern(rows, cols, (m, n))
    constraints = SparseMatrix(jnp.asarray(A[rows, cols]), pattern)
    return KKTOperator(matrix, constraints, cone.jacobian(jnp.asarray(v)))


@pytest.mark.parametrize("dense", [True, False])
def test_indefinite_systems_are_solved(dense):
    kkt = operator(dense=dense, least=3.0)
    n, K = kkt.n, np.asarray(kkt.as_matrix())
    lowest = np.linalg.eigvalsh(K[:n, :n])[0]
    signs = np.linalg.eigvalsh(K)
    assert lowest < -1 and (signs > 0).sum() == n  # as where the solution is a minimum
    vectors = np.random.default_rng(5).normal(size=(2, len(K)))
    solver = Augmented(AutoSolver(well_posed=True))

    @jax.jit
    def solve(vectors):
        state = solver.init(kkt, {})
        return jax.vmap(
            lambda vector: lx.linear_solve(kkt, vector, solver, state=state).value
        )(vectors)

    expected = np.linalg.solve(K, vectors.T).T
    np.testing.assert_allclose(solve(vectors), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dense", [True, False])
def test_factors_show_a_minimum_where_there_is_one(dense):
    """`P` less a multiple of the identity, next to the multiple from which on there is a
    direction of negative curvature. Where that is small the shift hides it from the
    pivots.
    """
    kkt = operator(dense=dense, least=3.0)
    solver = Augmented()
    pattern = kkt.P.pattern

    def moved(less: float) -> KKTOperator:
        diagonal = pattern.rows == pattern.cols
        values = jnp.where(diagonal, kkt.P.values - less, kkt.P.values)
        return KKTOperator(SparseMatrix(values, pattern), kkt.A, kkt.jacobian)

    def is_minimum(less: float) -> bool:
        return (np.linalg.eigvalsh(moved(less).as_matrix()) > 0).sum() == kkt.n

    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_minimum(middle) else (low, middle)

    @jax.jit
    def shows(less):
        return solver.shows_minimum(solver.init(moved(less), {}))

    assert is_minimum(0) and low > 0.01
    for part in (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2, 1.0):
        assert not shows(low * (1 + part))
    assert all(shows(low * (1 - part)) for part in (0.1, 0.5, 1.0))


def test_a_singular_indefinite_system_fails():
    """Least squares are for convex problems: here the solution would have no meaning."""
    kkt = operator(dense=True, least=3.0)
    P = kkt.P.as_matrix()
    P = P.at[0].set(0).at[:, 0].set(0)
    A = jnp.where(kkt.A.pattern.cols == 0, 0, kkt.A.values)
    kkt = KKTOperator(
        SparseMatrix(P.ravel(), kkt.P.pattern),
        SparseMatrix(A, kkt.A.pattern),
        kkt.jacobian,
    )
    right = jnp.ones(kkt.in_size())
    result = lx.linear_solve(kkt, right, Augmented(), throw=False).result
    assert result != lx.RESULTS.successful
