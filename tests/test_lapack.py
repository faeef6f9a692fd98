"""Dense linear algebra, against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffqcp._lapack import (
    cho_solve,
    cholesky,
    eigh,
    lu_factor,
    lu_solve,
    solve_lower,
    solve_lower_transposed,
)


def definite(rng, count, size, dtype):
    matrix = rng.normal(size=(count, size, size))
    return (matrix @ matrix.swapaxes(1, 2) + np.eye(size)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 30])
def test_factorisations(size, dtype):
    """Of batches, for rows that all matrices share or that are their own, and for a
    matrix that all rows share.
    """
    rng = np.random.default_rng(size)
    definites = definite(rng, 5, size, dtype)
    factors = jax.jit(jax.vmap(cholesky))(definites)
    assert factors.dtype == dtype
    close = {"rtol": 0, "atol": 3e4 * np.finfo(dtype).eps}
    np.testing.assert_allclose(factors, np.linalg.cholesky(definites), **close)
    rows = rng.normal(size=(5, 3, size)).astype(dtype)
    general = definites + np.triu(np.ones((size, size), dtype))
    solved = {
        solve_lower: factors,
        solve_lower_transposed: factors.swapaxes(1, 2),
        cho_solve: definites,
    }
    for solve, matrices in solved.items():
        for axes in ((0, 0), (0, None), (None, 0)):
            arguments = [
                part if axis == 0 else part[0]
                for part, axis in zip((factors, rows), axes, strict=True)
            ]
            got = jax.jit(jax.vmap(solve, in_axes=axes))(*arguments)
            assert got.dtype == dtype
            own = [
                part if axis == 0 else part[:1]
                for part, axis in zip((matrices, rows), axes, strict=True)
            ]
            back = np.einsum("bij,bkj->bki", np.broadcast_to(own[0], matrices.shape), got)
            np.testing.assert_allclose(back, np.broadcast_to(own[1], back.shape), **close)
    kept = jax.vmap(lu_factor)(jnp.asarray(general))
    each = jax.vmap(lu_solve, in_axes=(None, 0))
    got = jax.vmap(each)(kept, rows)
    back = np.einsum("bij,bkj->bki", general, got)
    np.testing.assert_allclose(back, rows, **close)


def test_derivatives():
    """Of `L L' = A` and of solves, by products."""
    rng = np.random.default_rng(0)
    matrix, change = definite(rng, 2, 6, np.float64)
    rows, moved = rng.normal(size=(2, 3, 6))
    factor, slope = jax.jvp(cholesky, (matrix,), (change,))
    np.testing.assert_allclose(slope @ factor.T + factor @ slope.T, change, atol=1e-13)
    solved, slope = jax.jvp(solve_lower, (factor, rows), (jnp.tril(change), moved))
    left = slope @ factor.T + solved @ jnp.tril(change).T
    np.testing.assert_allclose(left, moved, atol=1e-13)
    solved, slope = jax.jvp(
        solve_lower_transposed, (factor, rows), (jnp.tril(change), moved)
    )
    left = slope @ factor + solved @ jnp.tril(change)
    np.testing.assert_allclose(left, moved, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_cannot_be_factorised(dtype):
    """A matrix that is not definite, or not finite, is NaN and is alone."""
    matrices = definite(np.random.default_rng(0), 5, 13, dtype)
    matrices[1] *= -1
    matrices[2, 5, 4] = np.nan
    wrong = np.isnan(jax.vmap(cholesky)(matrices)).any(axis=(1, 2))
    assert (wrong == [False, True, True, False, False]).all()
    matrices[3, :, 7] = 0  # singular
    solutions = jax.vmap(lu_solve)(jax.vmap(lu_factor)(matrices), matrices[0, :5])
    wrong = ~np.isfinite(solutions).all(axis=1)
    assert (wrong == [False, False, True, True, False]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eigenvectors(dtype):
    """As those of JAX, in batches of any size; a matrix that is not finite is alone."""
    rng, close = np.random.default_rng(0), 100 * np.finfo(dtype).eps
    for size in (0, 1, 2, 7, 30):
        matrix = rng.normal(size=(5, size, size)).astype(dtype)
        matrix += matrix.swapaxes(1, 2)
        values, basis = jax.jit(jax.vmap(eigh))(matrix)
        assert values.dtype == basis.dtype == dtype
        expected = np.linalg.eigvalsh(matrix.astype(np.float64))
        limit = close * max(size, 1)
        np.testing.assert_allclose(values, expected, rtol=0, atol=limit)
        left = matrix @ np.asarray(basis) - basis * values[:, None, :]
        assert np.abs(left).max(initial=0) < limit
    first, change = jnp.asarray(matrix[0]), jnp.eye(30, dtype=dtype)
    slope = jax.jvp(lambda matrix: eigh(matrix)[0], (first,), (change,))[1]
    np.testing.assert_allclose(slope, np.ones(30), atol=close)
    matrix[3, 4, 5] = np.nan
    wrong = [np.isnan(part).any(axis=-1) for part in jax.vmap(eigh)(matrix)]
    assert (wrong[0] == (np.arange(5) == 3)).all()
    assert (wrong[1].any(axis=-1) == (np.arange(5) == 3)).all()
    assert jax.vmap(eigh)(matrix[:0])[1].shape == (0, 30, 30)
