"""Problems of `tests.reference` as QCPs of the package."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO, BCSR

from diffqcp import (
    _differentiate,
    _newton,
    _scaling,
    _search,
    _unknowns,
    DeviceQCP,
    HostQCP,
    QCPSolver,
    QCPStructureCPU,
    QCPStructureDense,
    QCPStructureGPU,
)
from diffqcp.forward import _least_shift, _proximal

from .reference import Problem


# One family for each cone, sizes 0 and 1 included, and one of all cones mixed.
FAMILIES = {
    "zero": {"z": 3},
    "nonnegative": {"z": 2, "l": 7},
    "second-order": {"l": 2, "q": [3, 5, 3, 0, 1, 2]},
    "psd": {"z": 1, "s": [3, 1, 0, 2, 3]},
    "exponential": {"l": 2, "ep": 3},
    "dual exponential": {"l": 2, "ed": 3},
    "power": {"l": 2, "p": [0.3, 0.8, 0.5]},
    "dual power": {"l": 2, "p": [-0.3, -0.8]},
    "mixed": {"z": 2, "l": 3, "q": [4, 3], "s": [3], "ep": 2, "ed": 1, "p": [0.4, -0.7]},
}


def entries(matrix: np.ndarray, pattern: np.ndarray) -> BCOO:
    """The entries of `matrix` where `pattern` is not zero."""
    index = np.stack(np.nonzero(pattern), axis=1)
    values = jnp.asarray(matrix[index[:, 0], index[:, 1]])
    return BCOO((values, jnp.asarray(index)), shape=matrix.shape)


def csr(matrix: np.ndarray, pattern: np.ndarray) -> BCSR:
    """As `entries`, in BCSR."""
    scipy = sp.csr_array(pattern != 0)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(scipy.indptr))
    values = jnp.asarray(matrix[rows, scipy.indices])
    arrays = values, jnp.asarray(scipy.indices), jnp.asarray(scipy.indptr)
    return BCSR(arrays, shape=matrix.shape)


def host(problem: Problem, solution) -> HostQCP:
    P, A = host_data(problem, problem)[:2]
    structure = QCPStructureCPU(P, A, problem.dims, psd_order=problem.order)
    return HostQCP(P, A, problem.q, problem.b, *solution, structure)


def device(problem: Problem, solution) -> DeviceQCP:
    P, A = device_data(problem, problem)[:2]
    structure = QCPStructureGPU(P, A, problem.dims, psd_order=problem.order)
    return DeviceQCP(P, A, problem.q, problem.b, *solution, structure)


def host_data(problem: Problem, direction: Problem):
    """`(dP, dA, dq, db)` in HostQCP's formats."""
    dP = entries(direction.P, np.triu(problem.P))
    return dP, entries(direction.A, problem.A), direction.q, direction.b


def device_data(problem: Problem, direction: Problem):
    """`(dP, dA, dq, db)` in DeviceQCP's formats."""
    dP = csr(direction.P, problem.P)
    return dP, csr(direction.A, problem.A), direction.q, direction.b


def without_calls(monkeypatch: Any) -> None:
    """Programs do without the extension, but for the factorisation of `K`."""
    modules = _differentiate, _newton, _scaling, _search, _unknowns
    for module in (*modules, _proximal, _least_shift):
        monkeypatch.setattr(module, "in_programs", lambda *_: False)


def only(direction: Problem, name: str) -> Problem:
    """The perturbation of one part of the data alone."""
    zeros = {part: 0 * getattr(direction, part) for part in "PAqb" if part != name}
    return direction._replace(**zeros)


def inner(left, right) -> float:
    """The sum of inner products of two tuples of vectors or sparse matrices."""

    def values(item):
        return np.asarray(item.data if isinstance(item, (BCOO, BCSR)) else item)

    return float(sum(values(a) @ values(b) for a, b in zip(left, right, strict=True)))


def worst(got, expected) -> float:
    """The largest relative error among the parts.

    A part that does not change at all is measured against the others.
    """
    total = np.linalg.norm(np.concatenate(expected))
    sizes = [np.linalg.norm(part) for part in expected]
    return max(
        float(np.linalg.norm(a - b) / (size if size > 1e-9 * total else total))
        for a, b, size in zip(got, expected, sizes, strict=True)
    )


def gradient_of_solve(
    problem: Problem, A: np.ndarray, dims: dict[str, Any], **options: Any
) -> Any:
    """A function of data and a start: the sum of the sines of the solution and all that
    was found, and the gradient of the former with respect to the data.
    """
    structure = QCPStructureDense(problem.P, A, dims, psd_order=problem.order)
    solver = QCPSolver(structure, **options)

    def loss(P: Any, A: Any, q: Any, b: Any, start: Any) -> Any:
        found = solver(P, A, q, b, start=start)
        return jnp.sum(jnp.sin(found.x)), found

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
