from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp


class Problem(NamedTuple):
    """A conic QP in the conventions of Clarabel, its rows in the order of SCS.

    Rows come in the order z, l, q, s, ep, ed, p of the keys of `dims`. PSD matrices are
    upper triangles by columns; an exponential cone is `y exp(x/y) <= z`, a power cone
    `x^alpha y^(1-alpha) >= |z|`.

    - `P`: the upper triangle, CSC. `A`: CSC. Both sorted and without explicit zeros.
    - `exact`: the solution `(x, y, s)`, where the problem was made around one.
    """

    P: sp.csc_array
    q: np.ndarray
    A: sp.csc_array
    b: np.ndarray
    dims: dict[str, Any]
    exact: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    name: str = ""
    family: str = ""

    @property
    def n(self) -> int:
        """The number of variables."""
        return self.q.size

    @property
    def m(self) -> int:
        """The number of rows of `A`."""
        return self.b.size

    @property
    def full_P(self) -> sp.csc_array:
        """Both triangles of `P`."""
        return sp.csc_array(self.P + sp.triu(self.P, 1).T)

    @property
    def is_qp(self) -> bool:
        """Whether there are equalities and inequalities only."""
        return self.dims.get("z", 0) + self.dims.get("l", 0) == self.m


def canonical(matrix: sp.sparray) -> sp.csc_array:
    """CSC, sorted, without duplicates and explicit zeros, 32-bit indices."""
    csc = sp.csc_array(matrix, dtype=float)
    csc.sum_duplicates()
    csc.eliminate_zeros()
    csc.sort_indices()
    csc.indices, csc.indptr = csc.indices.astype(np.int32), csc.indptr.astype(np.int32)
    return csc


def around(
    P: sp.sparray,
    A: sp.sparray,
    dims: dict[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    s: np.ndarray,
) -> Problem:
    """The problem with these matrices and cones whose solution is `(x, y, s)`.

    `P` is all of the matrix. The optimality conditions give `q` and `b`.
    """
    q, b = -(P @ x + A.T @ y), A @ x + s
    return Problem(canonical(sp.triu(P)), q, canonical(A), b, dims, (x, y, s))
