"""Whether a point is a local solution of a program."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from .._accuracy import all_finite, scaled_error
from .._scaling import equilibrate
from .._structure_base import AbstractStructure
from ..derivative import Solution
from ..forward import Status
from ..kkt import KKTOperator
from ._curvature import is_saddle
from ._model import Local


def judge(
    structure: AbstractStructure,
    local: Local,
    solution: Solution,
    tol: float,
    minimum: Bool[Array, ""],
) -> tuple[Integer[Array, ""], Float[Array, ""]]:
    """The [`diffqcp.Status`][] of a point, and its error.

    **Arguments:**

    - `local`: the local QCP there.
    - `solution`: `(x, y, s)`.
    - `tol`: the largest error of what counts as a solution: that of
        `diffqcp._accuracy.scaled_error`, for the local QCP in units of its own.
    - `minimum`: whether it is known that a solution is no saddle point.
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
        (is_saddle(structure, kkt, ~minimum), Status.SADDLE_POINT),
    ]
    status = jnp.asarray(int(Status.SOLVED), jnp.int32)
    for applies, verdict in reversed(verdicts):
        status = jnp.where(applies, jnp.int32(int(verdict)), status)
    return status, jnp.where(finite, error, jnp.inf)


_MISSING = 1e-6
