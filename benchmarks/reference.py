"""Independent truth: no code and no formula of the package.

The optimality conditions are written without projections,

    P x + A'y + q = 0,    C(b - A x, y) = 0,

with the complementarity conditions `C` of `benchmarks.complementarity`. They are square
and have a nonsingular Jacobian `J` at a solution that is unique, with a unique dual and
strict complementarity. Newton's method polishes the solution of a solver, the implicit
function theorem gives the derivative. One sparse LU of `J`; residuals are computed in
extended precision, and every solve is refined against them.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, onenormest, splu

from .complementarity import conditions, margin
from .errors import worst
from .problems import Problem


Long = np.longdouble


class Data(NamedTuple):
    """Something for each stored entry of `P` (upper triangle), `A`, and for `q`, `b`."""

    P: np.ndarray
    A: np.ndarray
    q: np.ndarray
    b: np.ndarray


class Reference(NamedTuple):
    """The polished solution, the gradient of `c'x`, and a directional derivative.

    - `tangent`: how `(x, y, s)` move with the data in `direction`.
    - `residual`: the optimality conditions' at the polished solution, relative.
    - `margin`: of strict complementarity. `moved`: by polishing, relative.
    - `condition`: of the Jacobian, estimated.
    - `adjoint`: the violation of the adjoint identity between gradient and tangent.
    """

    x: np.ndarray
    y: np.ndarray
    s: np.ndarray
    cotangent: np.ndarray
    gradient: Data
    direction: Data
    tangent: tuple[np.ndarray, np.ndarray, np.ndarray]
    residual: float
    margin: float
    moved: float
    condition: float
    adjoint: float


def reference(problem: Problem, x: np.ndarray, y: np.ndarray, seed: int = 1) -> Reference:
    """The truth near the solution `(x, y)` of a solver.

    Raises `ArithmeticError` where the conditions are singular or Newton's method does
    not converge: the solution map has no derivative that this method can find.
    """
    rng = np.random.default_rng(seed)
    cotangent = rng.normal(size=problem.n)
    direction = random_direction(problem, rng)
    given = x, y
    x, y, residual = polish(problem, x, y)
    moved = worst([given[0], given[1]], [x.astype(float), y.astype(float)])
    if not moved < 0.01:
        raise ArithmeticError(f"Newton's method moved the solution by {moved:.0e}")
    s = problem.b - _long(problem.A) @ x
    C_s, C_y = conditions(problem.dims, s, y)[1:]
    solver = _Solver(_jacobian(problem, C_s, C_y))
    if not (condition := solver.condition()) < 1e15:
        raise ArithmeticError(f"singular: condition number {condition:.0e}")
    adjoint = solver.solve(_pad(cotangent, problem.m), "T")
    gradient = _gradient(problem, x, y, C_s, adjoint)
    tangent = _tangent(problem, x, y, C_s, solver, direction)
    forward = cotangent @ tangent[0]
    backward = sum(a @ b for a, b in zip(gradient, direction, strict=True))
    size = sum(abs(a) @ abs(b) for a, b in zip(gradient, direction, strict=True))
    return Reference(
        *(part.astype(float) for part in (x, y, s)),
        cotangent,
        Data(*(part.astype(float) for part in gradient)),
        direction,
        tuple(part.astype(float) for part in tangent),
        residual,
        margin(problem.dims, s.astype(float), y.astype(float)),
        moved,
        condition,
        float(abs(forward - backward) / size),
    )


def differences(problem: Problem, found: Reference) -> float:
    """How far `c'dx` is from fourth-order differences of polished solutions, relative.

    All problems of a difference are solved from `found`, and a step must not change
    which cones are active: steps become smaller until the two agree to 1e-8. The best
    agreement counts.
    """
    truth = found.cotangent @ found.tangent[0]
    reach = np.linalg.norm(found.cotangent) * np.linalg.norm(found.tangent[0])

    def at(step: float) -> Long:
        moved = shifted(problem, found.direction, step)
        return found.cotangent @ polish(moved, found.x, found.y)[0]

    best, failure = np.inf, None
    for h in (1e-4, 1e-6, 1e-8, 1e-10):
        try:
            slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        except ArithmeticError as error:
            failure = error
            continue
        best = min(best, float(abs(slope - truth) / reach))
        if best < 1e-8:
            break
    if best == np.inf:
        raise ArithmeticError(f"no step is small enough: {failure}")
    return best


def polish(
    problem: Problem, x: np.ndarray, y: np.ndarray, steps: int = 15
) -> tuple[np.ndarray, np.ndarray, float]:
    """Newton's method in extended precision; also the relative residual at the end."""
    P, A = _long(problem.full_P), _long(problem.A)
    x, y, last = x.astype(Long), y.astype(Long), np.inf
    for _ in range(steps):
        s = problem.b - A @ x
        complementarity, C_s, C_y = conditions(problem.dims, s, y)
        force = np.abs(problem.q).max(initial=1)
        residual = np.concatenate([P @ x + A.T @ y + problem.q, complementarity])
        size = float(np.abs(residual).max() / force)
        # As small as it gets: of a margin of 1e-8 the complementarity is the square.
        if size < 1e-13 and size >= last / 2:
            return x, y, size
        last = size
        step = _Solver(_jacobian(problem, C_s, C_y)).solve(-residual, steps=1)
        x, y = x + step[: problem.n], y + step[problem.n :]
    if size < 1e-13:
        return x, y, size
    raise ArithmeticError(f"Newton's method ended at a residual of {size:.0e}")


def random_direction(problem: Problem, rng: np.random.Generator) -> Data:
    """A random perturbation of the stored entries."""
    sizes = problem.P.nnz, problem.A.nnz, problem.n, problem.m
    return Data(*(rng.normal(size=size) for size in sizes))


def shifted(problem: Problem, direction: Data, step: float) -> Problem:
    """The problem with its data moved, in extended precision."""
    step = Long(step)
    return problem._replace(
        P=_with_values(problem.P, problem.P.data + step * direction.P),
        A=_with_values(problem.A, problem.A.data + step * direction.A),
        q=problem.q + step * direction.q,
        b=problem.b + step * direction.b,
    )


def _jacobian(problem: Problem, C_s: sp.sparray, C_y: sp.sparray) -> sp.csc_array:
    return sp.block_array(
        [[problem.full_P, problem.A.T], [-C_s @ problem.A, C_y]], format="csc"
    )


class _Solver:
    """Solves with `J` and its transpose, refined in extended precision."""

    def __init__(self, J: sp.csc_array):
        try:
            self.lu = splu(J.astype(float), **_ordering(J))
        except RuntimeError as error:
            raise ArithmeticError("singular: no LU") from error
        exact = _long(J)
        self.matrices = {"N": exact, "T": exact.T}

    def solve(self, right: np.ndarray, trans: str = "N", steps: int = 3) -> np.ndarray:
        """`J^-1 right`, or with the transpose for `trans="T"`."""
        solution = self.lu.solve(right.astype(float), trans).astype(Long)
        for _ in range(steps):
            error = (right - self.matrices[trans] @ solution).astype(float)
            solution += self.lu.solve(error, trans)
        return solution

    def condition(self) -> float:
        """An estimate of the condition number in the 1-norm."""
        inverse = LinearOperator(
            self.lu.shape,
            matvec=self.lu.solve,
            rmatvec=lambda vector: self.lu.solve(vector, "T"),
            dtype=float,
        )
        size = np.abs(self.matrices["N"]).sum(axis=0).max()
        return float(size * onenormest(inverse))


def _ordering(J: sp.csc_array) -> dict[str, Any]:
    """COLAMD orders for `J'J` without its longest rows: bad where others are long."""
    counts = np.diff(J.tocsr().indptr).astype(float)
    counts = counts[counts < 10 * np.sqrt(counts.size)]
    if counts @ counts < 50 * J.nnz:
        return {"permc_spec": "COLAMD"}
    return {
        "permc_spec": "MMD_AT_PLUS_A",
        "diag_pivot_thresh": 0.01,
        "options": {"SymmetricMode": True},
    }


def _gradient(
    problem: Problem, x: np.ndarray, y: np.ndarray, C_s: sp.sparray, adjoint: np.ndarray
) -> Data:
    """`-adjoint' dF` for every entry of the data, `F` the optimality conditions."""
    w, t = adjoint[: problem.n], -(_long(C_s).T @ adjoint[problem.n :])
    rows, cols = _entries(problem.P)
    both = np.where(rows == cols, 1, 2)  # an entry off the diagonal stands for two
    dP = -both * (w[rows] * x[cols] + x[rows] * w[cols]) / 2
    rows, cols = _entries(problem.A)
    return Data(dP, -y[rows] * w[cols] - t[rows] * x[cols], -w, t)


def _tangent(
    problem: Problem,
    x: np.ndarray,
    y: np.ndarray,
    C_s: sp.sparray,
    solver: _Solver,
    direction: Data,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    moved = problem._replace(
        P=_with_values(problem.P, direction.P), A=_with_values(problem.A, direction.A)
    )
    dA = _long(moved.A)
    upper = _long(moved.full_P) @ x + dA.T @ y + direction.q
    slack = direction.b - dA @ x
    step = solver.solve(-np.concatenate([upper, _long(C_s) @ slack]))
    dx, dy = step[: problem.n], step[problem.n :]
    return dx, dy, slack - _long(problem.A) @ dx


def _with_values(matrix: sp.csc_array, values: np.ndarray) -> sp.csc_array:
    return sp.csc_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)


def _entries(matrix: sp.csc_array) -> tuple[np.ndarray, np.ndarray]:
    return matrix.indices, np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))


def _long(matrix: sp.sparray) -> sp.csr_array:
    return sp.csr_array(matrix).astype(Long)


def _pad(cotangent: np.ndarray, m: int) -> np.ndarray:
    return np.concatenate([cotangent, np.zeros(m)])
