"""Dense systems with a positive definite `P`, from which `x` is eliminated.

With `P = L L'` and `V = A L^-T` all that a system with the blocks `P` and `A` needs is
the matrix `A P^-1 A' = V V'`. (Nocedal and Wright, "Numerical optimization", section
16.2, the Schur-complement method.) It depends on `P` and `A` alone, so that a forward
solver and the derivative at its solution share it: where one program makes it twice from
the same arrays, the compiler makes it once.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._lapack import cholesky, solve_lower
from .structure import AbstractQCPStructure


def is_dense(structure: AbstractQCPStructure) -> bool:
    """Whether `x` is to be eliminated where `P` is positive definite: all entries of `P`
    are stored and at least half of those of `A`, and the rows are not so many more than
    the variables that what is left takes longer than it saves.
    """
    n, m = structure.n, structure.m
    whole = structure.P_full.nnz == n * n
    return whole and 2 * structure.A_pattern.nnz >= m * n and 2 * m <= 5 * n


class Triangle(NamedTuple):
    """A lower triangular matrix `L`, and the inverses of its diagonal blocks: with them
    triangular solves are products, and `L` is read once, as it lies in memory.
    """

    matrix: Float[Array, "n n"]
    inverses: tuple[Float[Array, "b b"], ...]

    @classmethod
    def of(cls, matrix: Float[Array, "n n"]) -> "Triangle":
        """Of a lower triangular matrix."""
        blocks = [matrix[i:j, i:j] for i, j in _spans(matrix.shape[0])]
        return cls(matrix, tuple(_inverse(block) for block in blocks))

    def solve(self, vector: Float[Array, " n"]) -> Float[Array, " n"]:
        """`L^-1 vector`."""
        found = vector[:0]
        for (i, j), inverse in zip(_spans(vector.size), self.inverses, strict=True):
            left = vector[i:j] - _product(self.matrix[i:j, :i], found)
            found = jnp.concatenate([found, _product(inverse, left)])
        return found

    def solve_transposed(self, vector: Float[Array, " n"]) -> Float[Array, " n"]:
        """`L^-T vector`."""
        found = vector[:0]
        spans = zip(_spans(vector.size), self.inverses, strict=True)
        for (i, j), inverse in reversed(list(spans)):
            left = vector[i:j] - _product(found, self.matrix[j:, i:j])
            found = jnp.concatenate([_product(left, inverse), found])
        return found


def _spans(n: int) -> list[tuple[int, int]]:
    return [(i, min(i + _BLOCK, n)) for i in range(0, n, _BLOCK)]


_BLOCK = 128


def _inverse(block: Float[Array, "b b"]) -> Float[Array, "b b"]:
    one = jnp.eye(block.shape[0], dtype=block.dtype)
    return solve_lower(block, one).T


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision="highest")


class RangeSpace(NamedTuple):
    """What is left of `P` and `A` when `x` is eliminated.

    - `root`: `L`.
    - `rows`: `V`.
    - `gram`: `V V' = A P^-1 A'`.
    """

    root: Triangle
    rows: Float[Array, "m n"]
    gram: Float[Array, "m m"]

    @classmethod
    def of(cls, P: Float[Array, "n n"], A: Float[Array, "m n"]) -> "RangeSpace":
        """All of it is NaN if `P` is not positive definite."""
        root = cholesky(P)
        rows = solve_lower(root, A)
        gram = jnp.einsum("ik,jk->ij", rows, rows, precision="highest")
        return cls(Triangle.of(root), rows, gram)
