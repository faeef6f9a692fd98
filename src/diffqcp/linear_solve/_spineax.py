"""cuDSS as calls of XLA, by spineax. Needs the extra `gpu`."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
from spineax import cudss  # pyright: ignore[reportMissingImports]

from ..csr import CompressedRows
from ._factorisation import AbstractInverse


class SpineaxFactorisation(AbstractInverse):
    """LDL' by cuDSS on the GPU, inside compiled programs: everything stays on the device.

    A batch is one block-diagonal matrix. cuDSS analyses the pattern in each execution of
    a program that factorises, since spineax ties an analysis to the factors it is for;
    later solves with these factors repeat nothing.
    """

    def analyse(self) -> None:
        """The pattern in CSR."""
        rows, cols = self._pattern.rows, self._pattern.cols
        self._rows = CompressedRows(self.order, rows, cols, "upper")

    def factor(self, values: Float[Array, " entries"], shift: Float[Array, " N"]) -> Any:
        """spineax's token."""
        matrix = self._rows.values(values, shift)
        # What is not finite stays out of the matrix of a batch: the identity takes the
        # place of that item, whose residuals will be NaN all the same.
        identity = self._rows.values(jnp.zeros_like(values), jnp.ones_like(shift))
        matrix = jnp.where(jnp.all(jnp.isfinite(matrix)), matrix, identity)
        token = cudss.analyze(
            matrix,
            jnp.asarray(self._rows.indptr),
            jnp.asarray(self._rows.indices),
            mtype_id="symmetric",
            mview_id="upper",
        )
        return cudss.factorize(token, matrix)

    def solve(self, factor: Any, vector: Float[Array, " N"]) -> Float[Array, " N"]:
        """`spineax.cudss.solve`."""
        finite = jnp.all(jnp.isfinite(vector))
        solution = cudss.solve(factor, jnp.where(finite, vector, 0))
        return jnp.where(finite, solution, jnp.nan)
