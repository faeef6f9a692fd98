import abc
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from ..problems import Problem


class Prepared(NamedTuple):
    """A rival that has solved the problem.

    - `x`: its solution. `forward`: solves it once more.
    - `backward`: from the solution to the gradient.
    - `before`: what had to be done before that, in seconds.
    - `collect`: from what `backward` returns to the gradient with respect to `q` and
      `b`, and to the stored values `P` and `A` where there is one.
    """

    x: np.ndarray
    forward: Callable[[], Any]
    backward: Callable[[], Any]
    collect: Callable[[Any], dict[str, np.ndarray]]
    before: float = 0.0


class Rival(abc.ABC):
    """Another package, run as its documentation recommends.

    - `package`: its name. `modules`: what it imports, before anything is timed.
    - `note`: what a reader of its times should know.
    - `largest`: the largest `n + m` that it is tried with, if it is for dense QPs.
    """

    name: str
    package: str
    modules: tuple[str, ...]
    note: str
    largest: int = 2500

    def installed(self) -> bool:
        """Whether all that it imports is there."""
        packages = {module.partition(".")[0] for module in self.modules}
        return all(importlib.util.find_spec(package) for package in packages)

    def version(self) -> str:
        """That of its distribution, which may have another name."""
        found = importlib.metadata.packages_distributions().get(self.package)
        return importlib.metadata.version(found[0] if found else self.package)

    @abc.abstractmethod
    def refuses(self, problem: Problem) -> str | None:
        """Why it cannot take this problem, or None if it can."""

    @abc.abstractmethod
    def prepare(self, problem: Problem, cotangent: np.ndarray) -> Prepared:
        """Solves the problem, and is ready for the gradient of `cotangent'x`."""


class DenseQP(NamedTuple):
    """`min x'Qx/2 + q'x` subject to `A x = b`, `G x <= h`, dense."""

    Q: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray


def dense_qp(problem: Problem) -> DenseQP:
    """A QP with dense matrices."""
    equal, A = problem.dims.get("z", 0), problem.A.toarray()
    b = problem.b
    parts = (A[:equal], b[:equal], A[equal:], b[equal:])
    return DenseQP(problem.full_P.toarray(), problem.q, *parts)


def gradient(problem: Problem, parts: DenseQP) -> dict[str, np.ndarray]:
    """From gradients with respect to dense data, with a batch axis or without, to those
    with respect to `q`, `b` and the stored entries.
    """
    n, m, equal = problem.n, problem.m, problem.dims.get("z", 0)
    shapes = [(n, n), (n,), (equal, n), (equal,), (m - equal, n), (m - equal,)]
    pairs = zip(parts, shapes, strict=True)
    dQ, dq, dA, db, dG, dh = (np.asarray(part).reshape(shape) for part, shape in pairs)
    rows, cols = entries(problem.P)
    dP = np.where(rows == cols, dQ[rows, cols], dQ[rows, cols] + dQ[cols, rows])
    rows, cols = entries(problem.A)
    dA = np.concatenate([dA, dG])[rows, cols]
    return {"q": dq, "b": np.concatenate([db, dh]), "P": dP, "A": dA}


def entries(matrix: sp.csc_array) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the stored entries, in their order."""
    cols = np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))
    return matrix.indices.copy(), cols


def only_small_qps(problem: Problem, limit: int) -> str | None:
    """Why a package for dense QPs up to this order refuses."""
    if not problem.is_qp:
        return "QPs only"
    if problem.n + problem.m > limit:
        return f"dense: tried up to n + m = {limit}"
    return None
