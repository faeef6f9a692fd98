"""Eigenvectors of symmetric matrices.

On CPUs, JAX divides a batch of them into tasks for its threads and waits on one of these
threads. A program that computes two batches at the same time may wait forever (seen with
jaxlib 0.10.2 on two cores). The extension never waits for an idle thread, so on CPUs it
is called instead, if it is installed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._extension import extension, ffi_target


@jax.custom_jvp
def eigh(
    matrix: Float[Array, "size size"],
) -> tuple[Float[Array, " size"], Float[Array, "size size"]]:
    """As `jnp.linalg.eigh`: ascending eigenvalues, and eigenvectors in columns."""
    known = matrix.dtype in (np.float32, np.float64)
    on_cpu = jax.default_backend() == "cpu"
    if not (known and on_cpu and extension() is not None):
        return _eigh_of_jax(matrix)
    results = (
        jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype),
        jax.ShapeDtypeStruct(matrix.shape, matrix.dtype),
    )
    call = jax.ffi.ffi_call(ffi_target("eigh"), results, vmap_method="expand_dims")
    values, rows = call(matrix)
    return values, rows.T


@eigh.defjvp
def _derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple:
    return jax.jvp(_eigh_of_jax, primals, tangents)


def _eigh_of_jax(matrix: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors
