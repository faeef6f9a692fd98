"""Dense linear algebra.

On CPUs, JAX divides a batch of matrices into tasks for its threads and waits, on one of
these threads, until they are done. A program that makes two such calls at the same time,
or one on each of several devices, may wait for ever (seen with jaxlib 0.10.2, for
eigenvectors on two cores, and for Cholesky factorisations on four devices). The extension
never waits for an idle thread, so on CPUs it is called instead, if it is installed, but
for the derivatives of these functions themselves. Both call the same LAPACK.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jaxtyping import Array, Float, Integer

from ._extension import extension, ffi_target
from ._sharding import vary_together


def _calls_extension(*arrays: Array) -> bool:
    known = all(array.dtype in _KNOWN for array in arrays)
    fits = all(array.size < 2**31 for array in arrays)  # LAPACK's integers have 32 bits
    on_cpu = jax.default_backend() == "cpu"
    return known and fits and on_cpu and extension() is not None


_KNOWN = np.dtype(np.float32), np.dtype(np.float64)


def _call(name: str, results: Any, *arrays: Array, **attributes: bool) -> Any:
    arrays = vary_together(arrays)
    call = jax.ffi.ffi_call(ffi_target(name), results, vmap_method="expand_dims")
    return vary_together((call(*arrays, **attributes), arrays))[0]


def _like(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _as_of_jax(reference: Callable) -> Callable[[Callable], Callable]:
    """A decorator of functions that call the extension. Where it cannot be called,
    `reference` is, which has the same arguments and results. `reference` also gives the
    derivatives.
    """

    def decorate(function: Callable) -> Callable:
        @jax.custom_jvp
        @functools.wraps(function)
        def either(*arrays: Array) -> Any:
            return (function if _calls_extension(*arrays) else reference)(*arrays)

        @either.defjvp
        def _(primals: tuple, tangents: tuple) -> tuple:
            return jax.jvp(reference, primals, tangents)

        return either

    return decorate


def _eigh_of_jax(matrix: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@_as_of_jax(_eigh_of_jax)
def eigh(
    matrix: Float[Array, "d d"],
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """As `jnp.linalg.eigh`: ascending eigenvalues, and eigenvectors in columns."""
    values = jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype)
    values, rows = _call("eigh", (values, _like(matrix)), matrix)
    return values, rows.T


@_as_of_jax(functools.partial(lax.linalg.cholesky, symmetrize_input=False))
def cholesky(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """`L` of a symmetric matrix, of which the lower triangle counts. NaN if the matrix is
    not positive definite.
    """
    return _call("cholesky", _like(matrix), matrix)


_triangular_of_jax = functools.partial(
    lax.linalg.triangular_solve, left_side=False, lower=True
)


@_as_of_jax(functools.partial(_triangular_of_jax, transpose_a=True))
def solve_lower(
    factor: Float[Array, "d d"], rows: Float[Array, "k d"]
) -> Float[Array, "k d"]:
    """`L^-1 r` for each row `r`."""
    return _call("solve_triangular", _like(rows), factor, rows, transposed=False)


@_as_of_jax(functools.partial(_triangular_of_jax, transpose_a=False))
def solve_lower_transposed(
    factor: Float[Array, "d d"], rows: Float[Array, "k d"]
) -> Float[Array, "k d"]:
    """`L^-T r` for each row `r`."""
    return _call("solve_triangular", _like(rows), factor, rows, transposed=True)


def cho_solve(
    factor: Float[Array, "d d"], rows: Float[Array, "k d"]
) -> Float[Array, "k d"]:
    """`(L L')^-1 r` for each row `r`."""
    return solve_lower_transposed(factor, solve_lower(factor, rows))


def lu_factor(
    matrix: Float[Array, "d d"],
) -> tuple[Float[Array, "d d"], Integer[Array, " d"]]:
    """For `lu_solve`. Has no derivative."""
    matrix = lax.stop_gradient(matrix)
    if not _calls_extension(matrix):
        return jsl.lu_factor(matrix)
    pivots = jax.ShapeDtypeStruct(matrix.shape[:1], np.int32)
    return _call("lu_factor", (_like(matrix), pivots), matrix)


def lu_solve(
    factors: tuple[Float[Array, "d d"], Integer[Array, " d"]],
    vector: Float[Array, " d"],
) -> Float[Array, " d"]:
    """`A^-1 vector`, for what `lu_factor` has returned of `A`. Has no derivative."""
    if not _calls_extension(factors[0], vector):
        return jsl.lu_solve(factors, vector)
    return _call("lu_solve", _like(vector[None]), *factors, vector[None])[0]
