import functools
import importlib
from typing import Any

from .._extension import extension
from ..assembly import Assembly
from ._factorisation import AbstractFactorisation
from ._native import NativeFactorisation
from ._sparse import AbstractSparseSolver


def factorisation(*pattern: Any) -> AbstractFactorisation:
    """Of symmetric matrices with a pattern, which is given as for `NativeFactorisation`:
    by the compiled extension, or by QDLDL where there is none.
    """
    if extension() is not None:
        return NativeFactorisation(*pattern)
    # QDLDL takes a while to import.
    return importlib.import_module("diffqcp.linear_solve._qdldl").QDLDLFactorisation(
        *pattern
    )


@functools.lru_cache(maxsize=32)
def analyse(assembly: Assembly) -> AbstractFactorisation:
    """The symbolic phase: ordering and pattern of the factor. It is kept."""
    return factorisation(assembly.order, assembly.rows, assembly.cols, assembly.groups)


class SparseLDL(AbstractSparseSolver):
    """Sparse LDL' of the regularised `K` on the CPU, refined: `solve_method="ldl"`.

    The ordering and the pattern of the factor depend on the structure of the QCP alone,
    and are found once, when a program is compiled for it. After that the cost is one
    numeric factorisation, and two triangular solves with a product for each step of
    refinement. Returns `K^+ r` where `K` is singular.

    Where this does not get there, since `K` has eigenvalues of all sizes, the compiled
    extension decomposes `K` into its eigenvectors. Eigenvalues below 1e-11 of the
    largest are taken for zero, with rows and columns scaled to one size. That takes a
    second for 1500 coupled rows and columns, half a minute for 4000, and with more the
    solve fails.

    The linear algebra is in float64, whatever the dtype of the data, also where JAX is
    restricted to float32.

    **Arguments:**

    - `regularisation`: the shift added before factorising, relative to the largest
        entries of `P` and `A`; at most 1. By default 1.5e-8 (2e-5 if the data are in
        float32): without pivoting, the error of the factorisation grows as the shift
        falls. Where `K` has eigenvalues of about that size or less, smaller shifts are
        tried, where the factors are not accurate, larger ones, up to 6e-5, and where
        rows are of very different sizes, one that follows them.
    - `tol`: the estimated relative error at which refinement ends. By default a
        hundred times the machine epsilon.
    - `max_steps`: the most refinement steps. Two or three are usual.
    - `well_posed`: whether to take `K` for regular, and spend nothing on null spaces. A
        solve with one that is singular, or nearly so, then fails at once.
    """

    regularisation: float | None = None
    tol: float | None = None
    max_steps: int = 50
    well_posed: bool = False

    def analyse(self, assembly: Assembly) -> AbstractFactorisation:
        """By the compiled extension, or QDLDL where there is none."""
        return analyse(assembly)
