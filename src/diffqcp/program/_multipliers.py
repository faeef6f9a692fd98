import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float

from .._scaling import block_max
from .._structure_base import AbstractStructure, LocalData
from ..kkt import KKTOperator
from ..sparsity import SparseMatrix, SparsityPattern


def estimate_multipliers(
    structure: AbstractStructure,
    data: LocalData,
    x: Float[Array, " n"],
    s: Float[Array, " m"],
    solver: lx.AbstractLinearSolver,
) -> tuple[Float[Array, " m"], Bool[Array, ""]]:
    """The multipliers that leave least of the gradient, among those of what is active.

    What is active is a face of `K*`: single rows, the ray opposite to `s` in a
    second-order cone, the positive semidefinite matrices on the null space of `s`. The
    projection onto `K*`, smoothed, says so in all cones: at `-s` its derivative has
    eigenvalues near 1/2 in the span of the face and near zero outside of it. With these
    eigenvectors `U` for rows that are active, `y = U t` minimises `|g + A'U t|`, which is
    the system of [`diffqcp.kkt.KKTOperator`][] with the identity for `P`,

        w + A'U t = -g,    U'A w = 0.

    Signs are not restricted: a wrong one tells that the point is no solution.

    **Arguments:**

    - `data`: of the local QCP with `y = 0`, so that `g = P x + q`.
    - `x`, `s`: the point. `s` counts as active within a distance of about 1e-5 of `x`.
    - `solver`: of this system, which may be singular.

    **Returns:** the multipliers, and whether the system was solved.
    """
    P, A, q, _ = data
    gradient = structure.P_mv(P, x) + q
    A_matrix = structure.A_matrix(A)
    sizes = block_max(structure, A_matrix.row_sizes(jnp.ones_like(x)))
    near = _NEAR * (1 + jnp.max(jnp.abs(x), initial=0))
    scaled = s / jnp.where(sizes > 0, sizes, 1)
    face = structure.dual_cone.smoothed_jacobian(-scaled, near**2)
    face = face.map(lambda lam: jnp.where(lam > _ACTIVE, 1, 0).astype(x.dtype))
    diagonal = np.arange(structure.n, dtype=np.int32)
    pattern = SparsityPattern(diagonal, diagonal, (structure.n, structure.n))
    kkt = KKTOperator(SparseMatrix(jnp.ones_like(x), pattern), A_matrix, face)
    return kkt.solve(-gradient, jnp.zeros_like(s), solver, solver.init(kkt, {}))[1:]


# The smoothed projection of zero has the derivative 1/2, that of -1.5 times the square
# root of its parameter 1/5.
_NEAR, _ACTIVE = 1e-5, 0.2
