from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float

from .._static import as_indices
from ..cones._base import IdentityEigenvectors
from ..cones.product import ProductEigenvectors
from ..kkt import KKTOperator
from ..sparsity import flat_places, SparseMatrix, SparsityPattern
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
            convex = _is_semidefinite(operator.P.as_matrix(), size)
            gamma = jnp.where(convex, 0, gamma)
        else:
            gamma = jnp.where(_straight(operator), gamma, 0)
        kappa = 1 - (1 - lam) * gamma
        alpha = 1 / jnp.sqrt(kappa**2 * lam + 1 - lam)
        weights = lam * gamma * (2 - gamma * (1 - lam))
        P = _dense(operator, weights) if dense else _sparse(operator, weights)
        jacobian = operator.jacobian.map(lambda lam: (alpha * kappa) ** 2 * lam)
        augmented = KKTOperator(P, operator.A, jacobian)
        state = self.inner.init(augmented, options)
        return AugmentedState(operator, augmented, gamma, alpha, convex, state)

    def compute(
        self, state: AugmentedState, vector: Float[Array, " N"], options: dict[str, Any]
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        """Solves the new system, twice, since weights cost digits; then the residual of
        the old one counts.
        """
        operator, n = state.operator, state.operator.n

        def improve(_: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
            z, _ = found
            residual = vector - operator.mv(z)
            upper, lower = residual[:n], residual[n:]
            pulled = operator.A.transpose_mv(operator.to_dual(state.gamma * lower))
            right = jnp.concatenate([upper + pulled, state.alpha * lower])
            step, result, _ = self.inner.compute(state.inner, right, options)
            x, t = step[:n], step[n:]
            moved = operator.from_dual(operator.A.mv(x))
            back = jnp.concatenate([x, state.alpha * t + state.gamma * moved])
            return z + back, result == lx.RESULTS.successful

        start = jnp.zeros_like(vector), jnp.asarray(True)
        z, solved = jax.lax.fori_loop(0, 2, improve, start)
        left = jnp.abs(operator.mv(z) - vector)
        size = jnp.max(jnp.abs(vector), initial=0)
        right = jnp.all(left <= float(jnp.finfo(vector.dtype).eps) ** 0.5 * size)
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


def _is_semidefinite(P: Float[Array, "n n"], size: Float[Array, ""]) -> Bool[Array, ""]:
    """Up to rounding errors."""
    n = P.shape[0]
    shift = 100 * n * float(jnp.finfo(P.dtype).eps) * jnp.where(size > 0, size, 1)
    factor = jnp.linalg.cholesky(P + shift * jnp.eye(n, dtype=P.dtype))
    return jnp.all(jnp.isfinite(factor))


def _dense(operator: KKTOperator, weights: Float[Array, " m"]) -> SparseMatrix:
    """`P + A'U diag(weights) U'A`."""
    A, weighted = operator.A.as_matrix(), operator.jacobian.map(lambda _: weights)
    columns = jax.vmap(weighted.mv, in_axes=1, out_axes=1)(A)
    matrix = operator.P.as_matrix() + jnp.matmul(A.T, columns, precision="highest")
    return SparseMatrix(matrix.ravel(), operator.P.pattern)


def _straight(operator: KKTOperator) -> np.ndarray:
    """Which eigenvectors are unit vectors of the rows of `A` that `_sparse` squares."""
    product, A = operator.jacobian.eigenvectors, operator.A.pattern
    straight = np.zeros(A.shape[0], bool)
    if not isinstance(product, ProductEigenvectors) or _squares(A) > _MOST_SQUARES:
        return straight
    ends = np.cumsum([0, *product.dims])
    for block, start, end in zip(product.blocks, ends, ends[1:], strict=False):
        straight[start:end] = isinstance(block, IdentityEigenvectors)
    return straight


_MOST_SQUARES = 20_000_000


def _squares(A: SparsityPattern) -> int:
    """How many pairs of entries of `A` share a row."""
    counts = np.bincount(A.rows, minlength=A.shape[0]).astype(np.int64)
    return int(counts @ counts)


def _sparse(operator: KKTOperator, weights: Float[Array, " m"]) -> SparseMatrix:
    """As `_dense`, for weights in rows that are `_straight`."""
    P, A = operator.P, operator.A
    coordinates = np.flatnonzero(_straight(operator))
    rows: Any = getattr(operator.jacobian.eigenvectors, "rows", None)
    order = np.arange(A.pattern.shape[0]) if rows is None else rows.value
    coordinate = np.full(A.pattern.shape[0], -1, np.int32)
    coordinate[order[coordinates]] = coordinates
    first, second = _pairs(A.pattern, coordinate >= 0)
    n, cols = P.pattern.shape[0], A.pattern.cols
    places = np.concatenate(
        [
            flat_places(P.pattern.rows, P.pattern.cols, n),
            flat_places(cols[first], cols[second], n),
        ]
    )
    unique, target = np.unique(places, return_inverse=True)
    target = as_indices("P", target)
    terms = weights[coordinate[A.pattern.rows[first]]] * A.values[first]
    values = jnp.concatenate([P.values, terms * A.values[second]])
    pattern = SparsityPattern(*np.divmod(unique, n), (n, n))
    summed = jnp.zeros(unique.size, values.dtype).at[target].add(values)
    return SparseMatrix(summed, pattern)


def _pairs(A: SparsityPattern, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of entries in one row, for the rows that are wanted."""
    entries = np.argsort(A.rows, kind="stable")
    entries = entries[wanted[A.rows[entries]]]
    counts = np.bincount(A.rows[entries], minlength=A.shape[0])
    starts = np.cumsum(counts) - counts
    repeats = counts[A.rows[entries]]
    first = np.repeat(entries, repeats)
    within = np.arange(first.size) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    second = entries[np.repeat(starts[A.rows[entries]], repeats) + within]
    return as_indices("A", first), as_indices("A", second)
