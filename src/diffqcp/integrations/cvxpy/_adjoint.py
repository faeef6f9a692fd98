"""The adjoint of what CVXPY's reductions do to the leaves of a problem."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp


def pull_through(
    push: Callable[[Mapping[int, Any]], Mapping[int, Any]],
    leaves: Iterable[Any],
    cotangents: Mapping[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """The adjoint of `push`, a linear map between values of leaves.

    CVXPY's reductions take symmetric matrices for triangles, diagonal and sparse ones for
    vectors, complex numbers for pairs, and numbers for their logarithms. So each real
    number in a result of `push` is a multiple of one real number in its argument, and
    two arguments tell which number and what multiple: ones, and the places of the
    numbers. That is exact for every kind of leaf; the adjoints that the reductions
    themselves have leave out half of the imaginary part of a Hermitian variable.

    **Arguments:**

    - `push`: takes and returns values by the identifiers of leaves.
    - `leaves`: those whose values it takes.
    - `cotangents`: of leaves whose values it returns, in the inner product `Re <u, v>`
        over all entries.

    **Returns:** the cotangents of `leaves`, complex for complex ones.

    **Raises:** `NotImplementedError` if a result is no multiple of one number.
    """
    leaves = list(leaves)
    starts = np.cumsum([0, *(leaf.size for leaf in leaves)])
    total = int(starts[-1])

    def values(numbers: np.ndarray) -> dict[int, np.ndarray]:
        """Of vectors of all real parts and, after them, all imaginary ones."""
        real, imaginary = np.split(numbers, 2)
        return {
            leaf.id: (
                real[start : start + leaf.size]
                + (1j * imaginary[start : start + leaf.size] if leaf.is_complex() else 0)
            ).reshape(leaf.shape)
            for leaf, start in zip(leaves, starts[:-1], strict=True)
        }

    multiples = push(values(np.ones(2 * total)))
    weighted = push(values(np.arange(1.0, 1 + 2 * total)))
    pulled = np.zeros(2 * total)
    for identifier in cotangents.keys() & multiples.keys():
        arrays = multiples[identifier], weighted[identifier], cotangents[identifier]
        for part in (np.real, np.imag):
            factor, marked, cotangent = (part(dense(array)).ravel() for array in arrays)
            used = np.flatnonzero(factor)
            ratio = marked[used] / factor[used]
            place = np.rint(ratio).astype(int) - 1
            if not np.allclose(ratio - 1, place, rtol=0, atol=1e-3):
                raise NotImplementedError(
                    "problem: CVXPY reduces it in a way whose adjoint is not known"
                )
            np.add.at(pulled, place, factor[used] * cotangent[used])
    return values(pulled)


def dense(value: Any) -> np.ndarray:
    """What may be a SciPy matrix as an array."""
    return value.toarray() if sp.issparse(value) else np.asarray(value)
