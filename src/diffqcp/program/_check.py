"""Whether a point is a local solution of a program."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from .._accuracy import all_finite, scaled_error
from .._lapack import cholesky
from .._scaling import equilibrate
from .._structure_base import AbstractStructure
from ..derivative import Solution
from ..forward import Status
from ..kkt import KKTOperator
from ..linear_solve import Augmented, SparseLDL
from ..linear_solve._quasidefinite import QuasidefiniteState, Tolerances
from ..linear_solve.augmented import covers_all
from ..structure import AbstractQCPStructure
from ._model import Local


def judge(
    structure: AbstractStructure, local: Local, solution: Solution, tol: float
) -> tuple[Integer[Array, ""], Float[Array, ""]]:
    """The [`diffqcp.Status`][] of a point, and its error.

    **Arguments:**

    - `local`: the local QCP there.
    - `solution`: `(x, y, s)`.
    - `tol`: the largest error of what counts as a solution: that of
        `diffqcp._accuracy.scaled_error`, for the local QCP in units of its own.
    """
    # `q` and `b` have products with `P` and `A`, so what is not finite there is so here.
    finite = all_finite((local.data[2:], solution))
    data, (x, y, s) = jax.tree.map(
        lambda part: jnp.where(finite, part, jnp.zeros_like(part)),
        (local.data, solution),
    )
    scaling = equilibrate(structure, data)
    data, (x, y, s) = scaling.data(structure, data), scaling.scale((x, y, s))
    P, A, q, b = data
    kkt = KKTOperator(
        structure.P_matrix(P),
        structure.A_matrix(A),
        structure.dual_cone.jacobian(y - s),
    )
    projected = kkt.jacobian.mv(y - s)
    point = x, projected, projected - (y - s)
    dual = kkt.P.mv(x) + kkt.A.transpose_mv(projected) + q
    error = scaled_error(structure, data, point, (dual, kkt.A.mv(x) + point[2] - b))
    outside = jnp.max(jnp.abs(y - structure.dual_cone.project(y)), initial=0)
    outside = outside / (1 + jnp.max(jnp.abs(y), initial=0))

    verdicts = [  # the first that applies
        (~finite, Status.NOT_FINITE),
        (local.missing > _MISSING, Status.WRONG_PATTERN),
        (outside > tol, Status.WRONG_SIGN),
        (~(error <= tol), Status.INACCURATE),
        (is_saddle(structure, kkt), Status.SADDLE_POINT),
    ]
    status = jnp.asarray(int(Status.SOLVED), jnp.int32)
    for applies, verdict in reversed(verdicts):
        status = jnp.where(applies, jnp.int32(int(verdict)), status)
    return status, jnp.where(finite, error, jnp.inf)


_MISSING = 1e-6


def is_saddle(structure: AbstractStructure, kkt: KKTOperator) -> Bool[Array, ""]:
    """Whether a direction along which the active constraints hold has negative curvature.

    With the rows `B = L U'A` of `K` the curvature of the Lagrangian along the surface of
    the constraints is that of

        S = P + sum_i B_i B_i' / (1 - lam_i)

    on the null space of the rows with `lam_i = 1`. These get a large weight instead, and
    then `S` is positive definite exactly if the second-order condition holds, as long as
    negative curvature is not below what rounding errors hide. A sparse `S` is that of
    [`diffqcp.Augmented`][], and what tells is whether its `K` has an LDL' factorisation
    with pivots of the right signs. (It is not looked at where some row or cone has so
    many entries that its square is not formed, nor where there are only products.)
    """
    n = structure.n
    if not isinstance(structure, AbstractQCPStructure):
        return jnp.asarray(False)
    if not structure.P_pattern.full:
        return _is_indefinite(kkt) if covers_all(kkt) else jnp.asarray(False)
    matrix = kkt.as_matrix()
    P, B = matrix[:n, :n], matrix[n:, :n]
    size = jnp.max(jnp.abs(P), initial=0)
    rows = jnp.max(jnp.sum(B**2, axis=1), initial=0)
    size, rows = (jnp.where(part > 0, part, 1) for part in (size, rows))
    root = float(jnp.finfo(P.dtype).eps) ** 0.5
    least = root * rows / size
    weights = 1 / (1 - kkt.jacobian.eigenvalues + least)
    shift = 10 * n * root * size
    S = P + jnp.matmul(B.T, weights[:, None] * B, precision="highest")
    return jnp.isnan(cholesky(S + shift * jnp.eye(n, dtype=P.dtype))).any()


def _is_indefinite(kkt: KKTOperator) -> Bool[Array, ""]:
    """Whether a solve with the factors of the augmented `K` is wrong: where a pivot has
    the wrong sign, the shift takes its place. The data are in units of their own.
    """
    solver = SparseLDL(well_posed=True)
    augmented = Augmented(solver, weight=1e8).init(kkt, {}).augmented
    signs = np.where(np.arange(kkt.in_size()) < kkt.n, 1, -1)
    shift = jnp.asarray(1e-8 * signs, kkt.A.values.dtype)
    factors, _ = solver.factorise(augmented, shift)
    probe = np.random.default_rng(0).normal(size=signs.size)
    probe = jnp.asarray(probe, shift.dtype)
    once = Tolerances(tol=0.0, floor=0.0, max_steps=1, well_posed=True)
    state = QuasidefiniteState(factors, shift, jnp.asarray(False))
    z, _, _ = solver.refined(state, probe, once)
    left = augmented.mv(z) + shift * z - probe
    return ~jnp.all(jnp.abs(left) < 0.01)  # a largest number may hide a NaN
