from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from .._definite import is_semidefinite
from .._sharding import vary_together
from .._static import as_indices
from ..assembly import row_groups
from ..kkt import KKTOperator
from ..sparsity import flat_places, SparseMatrix, SparsityPattern
from ._sparse import AbstractSparseSolver
from .auto import AutoSolver


class AugmentedState(NamedTuple):
    """`K`, what takes its place, and how to go from one to the other.

    - `gamma`, `alpha`: see `Augmented`.
    - `convex`: whether `P` is known to be positive semidefinite, and `K` is as it was.
    - `inner`: the state of the inner solver.
    """

    operator: KKTOperator
    augmented: KKTOperator
    gamma: Float[Array, " m"]
    alpha: Float[Array, " m"]
    convex: Bool[Array, ""]
    inner: Any


class _Found(NamedTuple):
    """A solution so far.

    - `residual`: `r - K z`.
    - `solved`: whether the inner solver has succeeded.
    """

    z: Float[Array, " N"]
    residual: Float[Array, " N"]
    solved: Bool[Array, ""]
    steps: Integer[Array, ""]


class Augmented(lx.AbstractLinearSolver[AugmentedState]):
    """Solves `K z = r` where `P` is not positive semidefinite, as in programs that are
    convex only along their active constraints.

    With `B = L U'A`, `t = alpha t' + gamma B x` and the second row of the system times
    `alpha`, `K` becomes

        [[P + B'(2 gamma - gamma^2 (1 - lam)) B, B' kappa alpha],
         [alpha kappa B, -alpha^2 (1 - lam)]],         kappa = 1 - (1 - lam) gamma,

    for any diagonal `gamma` and `alpha`. With `alpha^2 = 1 / (kappa^2 lam + 1 - lam)` it
    is the matrix of the same form with `lam' = (alpha kappa)^2 lam` for `lam`. Where a
    constraint is active, `lam = 1`, `P` gets `2 gamma B'B`, as in the augmented
    Lagrangian; where `lam < 1`, `gamma = 0.9 / (1 - lam)` moves most of the curvature of
    the cone into `P`. So the new `P` is positive definite, if weights are large enough,
    exactly where the second-order conditions hold, and then the methods for convex
    programs apply. (Where it is not, they say so, or decompose `K`.)

    A sparse `P` gets the squares of the rows and cones that are small enough for it to
    stay sparse; the others stay as they are.

    Where `P` is dense and positive semidefinite nothing is changed, and a singular `K` is
    solved in the sense of least squares. In all other cases what is found has to satisfy
    the system.

    **Arguments:**

    - `inner`: the solver of the new system; [`diffqcp.AutoSolver`][] by default.
    - `weight`: that of active constraints, relative to the sizes of `P` and `A`.
    """

    inner: lx.AbstractLinearSolver = AutoSolver()
    weight: float = 1e3

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> AugmentedState:
        """Makes the new matrix, and factorises it."""
        if not isinstance(operator, KKTOperator):
            raise TypeError(f"Augmented: expected a KKTOperator, got {type(operator)}")
        lam = operator.jacobian.eigenvalues
        size = jnp.max(jnp.abs(operator.P.values), initial=0)
        rows = jnp.max(jnp.abs(operator.A.values), initial=0) ** 2
        most = self.weight / 2 * size / jnp.where(rows > 0, rows, 1)
        bent = lam < 1
        gamma = jnp.minimum(most, 0.9 / jnp.where(bent, 1 - lam, 0.9))
        gamma = jnp.where(bent, gamma, most)
        convex, dense = jnp.asarray(False), operator.P.pattern.full
        if dense:
            convex = is_semidefinite(operator.P.as_matrix(), jnp.where(size > 0, size, 1))
            gamma = jnp.where(convex, 0, gamma)
        else:
            gamma = jnp.where(_blocks(operator).covered, gamma, 0)
        kappa = 1 - (1 - lam) * gamma
        alpha = 1 / jnp.sqrt(kappa**2 * lam + 1 - lam)
        weights = lam * gamma * (2 - gamma * (1 - lam))
        P = _dense(operator, weights) if dense else _sparse(operator, weights)
        jacobian = operator.jacobian.map(lambda lam: (alpha * kappa) ** 2 * lam)
        augmented = KKTOperator(P, operator.A, jacobian)
        state = self.inner.init(augmented, options)
        return AugmentedState(operator, augmented, gamma, alpha, convex, state)

    def shows_minimum(self, state: AugmentedState) -> Bool[Array, ""]:
        """Whether the factors show that the new `P` is positive definite in the null
        space of the constraints that are active, so that there is no saddle point. False
        if they do not tell.
        """
        inner = self.inner
        if isinstance(inner, AutoSolver):
            inner = inner.choice(state.augmented)
        if isinstance(inner, AbstractSparseSolver):
            return inner.has_signs_of_shift(state.inner)
        return jnp.asarray(False)

    def compute(
        self, state: AugmentedState, vector: Float[Array, " N"], options: dict[str, Any]
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        """Solves the new system, and a second time for the residual, where large weights
        have cost digits. Whether that has succeeded is told by the residual of `K z = r`.
        """
        operator, n = state.operator, state.operator.n
        size = jnp.max(jnp.abs(vector), initial=0)
        eps = float(jnp.finfo(vector.dtype).eps)

        def length(residual: Array) -> Array:
            return jnp.max(jnp.abs(residual), initial=0)

        def unfinished(found: _Found) -> Bool[Array, ""]:
            return (found.steps < 2) & (length(found.residual) > eps**0.8 * size)

        def improve(found: _Found) -> _Found:
            upper, lower = found.residual[:n], found.residual[n:]
            pulled = operator.A.transpose_mv(operator.to_dual(state.gamma * lower))
            right = jnp.concatenate([upper + pulled, state.alpha * lower])
            step, result, _ = self.inner.compute(state.inner, right, options)
            x, t = step[:n], step[n:]
            moved = operator.from_dual(operator.A.mv(x))
            back = jnp.concatenate([x, state.alpha * t + state.gamma * moved])
            z, solved = found.z + back, result == lx.RESULTS.successful
            return _Found(z, vector - operator.mv(z), solved, found.steps + 1)

        start = _Found(jnp.zeros_like(vector), vector, jnp.asarray(True), jnp.asarray(0))
        start = vary_together((start, state))[0]
        # Most often one step is enough, and a loop costs as much as half of it.
        found = jax.lax.while_loop(unfinished, improve, improve(start))
        z, residual, solved, _ = found
        right = jnp.all(jnp.abs(residual) <= eps**0.5 * size)
        fine = jnp.where(state.convex, solved, right)
        # (A solution with NaN is left to lineax, which looks for it.)
        result = lx.RESULTS.where(fine, lx.RESULTS.successful, lx.RESULTS.singular)
        return z, result, {}

    def transpose(
        self, state: AugmentedState, options: dict[str, Any]
    ) -> tuple[AugmentedState, dict[str, Any]]:
        """`K` is symmetric."""
        return state, options

    def conj(
        self, state: AugmentedState, options: dict[str, Any]
    ) -> tuple[AugmentedState, dict[str, Any]]:
        """`K` is real."""
        return state, options

    def assume_full_rank(self) -> bool:
        """As the inner solver."""
        return self.inner.assume_full_rank()


def _dense(operator: KKTOperator, weights: Float[Array, " m"]) -> SparseMatrix:
    """`P + A'U diag(weights) U'A`."""
    A, weighted = operator.A.as_matrix(), operator.jacobian.map(lambda _: weights)
    columns = jax.vmap(weighted.mv, in_axes=1, out_axes=1)(A)
    matrix = operator.P.as_matrix() + jnp.matmul(A.T, columns, precision="highest")
    return SparseMatrix(matrix.ravel(), operator.P.pattern)


class _Blocks(NamedTuple):
    """The cones, as blocks of rows of `A`.

    - `block`, `within`: of each row the number of its block, and its place there.
    - `covered`: of each coordinate in the basis of eigenvectors whether `_sparse` squares
        its block.
    - `rows`: the same for each row.
    """

    block: np.ndarray
    within: np.ndarray
    covered: np.ndarray
    rows: np.ndarray


def _blocks(operator: KKTOperator) -> _Blocks:
    """Squaring a block couples all variables in its rows. Small ones are squared, as long
    as that does not make the matrix many times fuller.
    """
    A, product = operator.A.pattern, operator.jacobian.eigenvectors
    m = A.shape[0]
    # The coordinates of one cone follow each other.
    _, sizes = np.unique(row_groups(operator)[operator.n :], return_counts=True)
    block = np.repeat(np.arange(sizes.size), sizes)
    within = np.arange(m) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows: Any = getattr(product, "rows", None)
    order = np.arange(m) if rows is None else rows.value
    by_row, place = np.empty(m, np.int32), np.empty(m, np.int32)
    by_row[order], place[order] = block, within
    pairs = np.bincount(by_row[A.rows], minlength=sizes.size).astype(np.int64) ** 2
    smallest = np.argsort(pairs, kind="stable")
    most = _FULLER * (operator.P.pattern.nnz + A.nnz + sum(A.shape))
    covered = np.zeros(sizes.size, bool)
    covered[smallest] = np.cumsum(pairs[smallest]) <= most
    return _Blocks(by_row, place, covered[block], covered[by_row])


_FULLER = 8


def covers_all(operator: KKTOperator) -> bool:
    """Whether `Augmented` moves all curvature into `P`."""
    return operator.P.pattern.full or bool(np.all(_blocks(operator).covered))


def _sparse(operator: KKTOperator, weights: Float[Array, " m"]) -> SparseMatrix:
    """As `_dense`, for weights in blocks that are covered."""
    P, A, blocks = operator.P, operator.A, _blocks(operator)
    n = A.pattern.shape[1]
    first, second = _pairs(blocks.block[A.pattern.rows], blocks.rows[A.pattern.rows])
    cols, rows = A.pattern.cols, A.pattern.rows
    places = np.concatenate(
        [
            flat_places(P.pattern.rows, P.pattern.cols, n),
            flat_places(cols[first], cols[second], n),
        ]
    )
    unique, target = np.unique(places, return_inverse=True)
    # With ones in one place of each block, the k-th column of all of them.
    places = np.arange(blocks.within[blocks.rows].max(initial=0) + 1)
    ones = (blocks.within[None, :] == places[:, None]) & blocks.rows[None, :]
    weighted = operator.jacobian.map(lambda _: weights)
    columns = jax.vmap(weighted.mv)(jnp.asarray(ones, A.values.dtype))
    middle = columns[blocks.within[rows[second]], rows[first]]
    values = jnp.concatenate([P.values, A.values[first] * middle * A.values[second]])
    summed = jnp.zeros(unique.size, values.dtype)
    summed = summed.at[as_indices("P", target)].add(values)
    return SparseMatrix(summed, SparsityPattern(*np.divmod(unique, n), (n, n)))


def _pairs(block: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of entries in one block, of the entries that are wanted."""
    entries = np.argsort(block, kind="stable")
    entries = entries[wanted[entries]]
    counts = np.bincount(block[entries], minlength=block.max(initial=-1) + 1)
    starts, repeats = np.cumsum(counts) - counts, counts[block[entries]]
    first = np.repeat(entries, repeats)
    within = np.arange(first.size) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    second = entries[np.repeat(starts[block[entries]], repeats) + within]
    return as_indices("A", first), as_indices("A", second)
