"""Whether the objective decreases along the active constraints in second order.

With the rows `B = L U'A` of `K` the curvature of the Lagrangian along the surface of the
constraints is that of

    S = P + sum_i B_i B_i' / (1 - lam_i)

on the null space of the rows with `lam_i = 1`. The sufficient condition of second order
is that it is positive there. Most often the factors that a derivative is computed with
show that. Else there are three ways to find out: by Cholesky's method, by the signs of
the pivots of a sparse factorisation, and by products alone.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from .._condition import compute_if
from .._lapack import cholesky, solve_lower
from .._structure_base import AbstractStructure
from ..kkt import KKTOperator
from ..linear_solve import Augmented, SparseLDL
from ..linear_solve._quasidefinite import QuasidefiniteState, Tolerances
from ..linear_solve.augmented import covers_all
from ..structure import AbstractQCPStructure


def is_saddle(
    structure: AbstractStructure, kkt: KKTOperator, wanted: Bool[Array, ""]
) -> Bool[Array, ""]:
    """Whether a direction along which the active constraints hold has negative curvature,
    as far as it is not below what rounding errors hide.

    **Arguments:**

    - `kkt`: `K`, for data in units of their own.
    - `wanted`: if False, it has none, and nothing is done.
    """

    def look(kkt: KKTOperator, wanted: Array) -> Bool[Array, ""]:
        if isinstance(structure, AbstractQCPStructure):
            if structure.P_pattern.full:
                return _fails_by_cholesky(kkt)
            if covers_all(kkt):
                suspect = wanted & _fails_by_pivots(kkt)
                return suspect & ~_search(kkt, suspect).done
        # There are only products, or so many entries in rows and cones that none is
        # squared.
        search = _search(kkt, wanted)
        return search.within & ~(search.curvature > 0)

    return compute_if(wanted, look, (kkt, wanted), jnp.zeros_like(wanted))


def _fails_by_cholesky(kkt: KKTOperator) -> Bool[Array, ""]:
    """Whether `S`, projected onto the null space, is not semidefinite.

    With the rows `E` for which `lam_i = 1` and a factor of `E E' = L L'` the projection
    is `I - W W'`, `W = (L^-1 E)'`. A small number is added to the diagonal, since rows
    may depend on others.
    """
    lam = kkt.jacobian.eigenvalues
    held, weights, shift = _weights(kkt)
    matrix = kkt.as_matrix()
    P, B = matrix[: kkt.n, : kkt.n], matrix[kkt.n :, : kkt.n]
    times = partial(jnp.matmul, precision="highest")
    S = P + times(B.T, weights[:, None] * B)
    E = jnp.where(held[:, None], B, 0)
    square = times(E, E.T)
    added = 100 * float(jnp.finfo(lam.dtype).eps) * jnp.max(jnp.abs(square), initial=0)
    factor = cholesky(square + jnp.diag(jnp.where(held, added, 1)))
    W = solve_lower(factor, E.T)
    rows = times(S, W).T
    mixed = times(W, rows)
    size = jnp.max(jnp.abs(S), initial=0)
    across = times(
        W, times(times(rows, W) + size * jnp.eye(lam.size, dtype=lam.dtype), W.T)
    )
    S = S - mixed - mixed.T + across + shift * jnp.eye(kkt.n, dtype=lam.dtype)
    return ~jnp.all(jnp.isfinite(cholesky(S)))


def _weights(
    kkt: KKTOperator,
) -> tuple[Bool[Array, " m"], Float[Array, " m"], Float[Array, ""]]:
    """Which rows have `lam_i = 1`, the weights of the others in `S`, and how far below
    zero curvature may be to count as zero.
    """
    n, lam = kkt.n, kkt.jacobian.eigenvalues
    eps = float(jnp.finfo(lam.dtype).eps)
    held = lam > 1 - eps**0.25
    weights = jnp.where(held, 0, 1 / jnp.where(held, 1, 1 - lam))
    size = jnp.max(kkt.P.row_sizes(jnp.ones_like(lam, shape=n)), initial=0)
    return held, weights, eps**0.375 * jnp.where(size > 0, size, 1)


def _fails_by_pivots(kkt: KKTOperator) -> Bool[Array, ""]:
    """Whether a solve with the factors of the augmented `K` is wrong: where a pivot has
    the wrong sign, the shift takes its place.
    """
    solver = SparseLDL(well_posed=True)
    augmented = Augmented(solver, weight=1e8).init(kkt, {}).augmented
    signs = np.where(np.arange(kkt.in_size()) < kkt.n, 1, -1)
    shift = jnp.asarray(1e-8 * signs, kkt.A.values.dtype)
    factors, _ = solver.factorise(augmented, shift)
    probe = _probe(signs.size, shift.dtype)
    once = Tolerances(tol=0.0, floor=0.0, max_steps=1, well_posed=True)
    state = QuasidefiniteState(factors, shift, jnp.asarray(False))
    z, _, _ = solver.refined(state, probe, once)
    left = augmented.mv(z) + shift * z - probe
    return ~jnp.all(jnp.abs(left) < 0.01)  # a largest number may hide a NaN


class _Search(NamedTuple):
    """Conjugate gradients in a null space.

    - `left`: the residual.
    - `direction`: the next one.
    - `curvature`: that of the last direction, but for its length.
    - `within`: whether that is in the null space.
    - `done`: whether there is no negative curvature.
    """

    step: Integer[Array, ""]
    left: Float[Array, " n"]
    direction: Float[Array, " n"]
    curvature: Float[Array, ""]
    within: Bool[Array, ""]
    done: Bool[Array, ""]


def _search(kkt: KKTOperator, wanted: Bool[Array, ""]) -> _Search:
    """Conjugate gradients on `S` in the null space, until they meet a direction of
    negative curvature (Gould, Hribar and Nocedal, "On the solution of equality
    constrained quadratic programming problems arising in optimization", 2001).

    They begin with a random vector. Its part along an eigenvector of negative curvature
    becomes no smaller as long as all directions have positive curvature, since the
    polynomial by which it is multiplied is one at zero and its roots are positive. So
    once the residual is smaller than that part of a random vector may be, there is none.

    They end without a result after a thousand steps, and where the active constraints are
    so badly conditioned (1e5 and more) that a projection onto their null space fails.

    **Arguments:**

    - `wanted`: if False, nothing is done.
    """
    n, lam, norm = kkt.n, kkt.jacobian.eigenvalues, jnp.linalg.norm
    eps = float(jnp.finfo(lam.dtype).eps)
    held, weights, shift = _weights(kkt)
    least = max(1e-4 / n**0.5, 10 * eps)

    def rows(vector: Array) -> Array:
        return kkt.from_dual(kkt.A.mv(vector))

    def transposed(vector: Array) -> Array:
        return kkt.A.transpose_mv(kkt.to_dual(vector))

    def S(vector: Array) -> Array:
        bent = transposed(weights * rows(vector))
        return kkt.P.mv(vector) + bent + shift * vector

    def outside(vector: Array) -> Array:
        return jnp.where(held, rows(vector), 0)

    def project(vector: Array) -> Array:
        def square(t: Array) -> Array:
            return outside(transposed(jnp.where(held, t, 0)))

        right = outside(vector)
        t, _ = jax.scipy.sparse.linalg.cg(square, right, tol=10 * eps, maxiter=_MOST)
        return vector - transposed(jnp.where(held, t, 0))

    def proceed(search: _Search) -> _Search:
        step, left, direction, *_ = search
        product = S(direction)
        curvature, before = jnp.vdot(direction, product), jnp.vdot(left, left)
        within = norm(outside(direction)) <= eps**0.5 * norm(direction)
        # The first step does no more than to project the vector that is begun with.
        curvature = jnp.where(step > 0, curvature, 1)
        left = project(left - before / curvature * product)
        direction = left + jnp.vdot(left, left) / before * direction
        done = within & (curvature > 0) & (norm(left) <= least)
        return _Search(step + 1, left, direction, curvature, within, done)

    def is_open(search: _Search) -> Array:
        proceeds = search.within & (search.curvature > 0) & ~search.done
        return wanted & proceeds & (search.step < _MOST)

    probe = _probe(n, lam.dtype)
    start = probe / norm(probe)
    one, yes = jnp.ones_like(lam, shape=()), jnp.asarray(True)
    search = _Search(jnp.asarray(0), start, 0 * start, one, yes, ~yes)
    return jax.lax.while_loop(is_open, proceed, search)


_MOST = 1000


def _probe(size: int, dtype: np.dtype) -> Float[Array, " N"]:
    return jnp.asarray(np.random.default_rng(0).normal(size=size), dtype)
