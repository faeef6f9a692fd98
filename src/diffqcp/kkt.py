"""The linear system behind the derivative.

At a solution put `v = y - s` and `D = DPi_K*(v) = U diag(lam) U'`. Differentiating

    P x + A'y + q = 0,   A x + s = b,   y = Pi_K*(v),   s = Pi_K*(v) - v

gives, with `r1 = sym(dP) x + dA'y + dq` and `r2 = db - dA x`,

    P dx + A'dy = -r1,   ds = r2 - A dx,   dy = D dv,   ds = (D - I) dv.

With `L = sqrt(lam)` and `dy = U L t` this is the symmetric system

    K [dx; t] = [-r1; L U'r2],     K = [[P, A'U L], [L U'A, -(I - lam)]].

The upper left block is positive semidefinite. The lower right one is diagonal and
negative semidefinite, and a row with `lam = 0` (an inactive constraint) decouples. The
transposed map has the same matrix.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from ._linear_map import LinearMap
from ._operators import register_queries
from .cones import ConeJacobian
from .sparsity import SparseMatrix


Check: TypeAlias = Callable[[Any, Bool[Array, ""]], Any]
Bend: TypeAlias = Callable[[Float[Array, " m"]], Float[Array, " m"]]
_Matrix = TypeVar("_Matrix", bound=SparseMatrix | LinearMap)


class KKTOperator(lx.AbstractLinearOperator, Generic[_Matrix]):
    """The symmetric matrix `K` of order `n + m`, matrix-free.

    **Arguments:**

    - `P`, `A`: all of the objective matrix, `(n, n)`, and the constraint matrix,
        `(m, n)`. With stored entries any solver takes `K`; where only products
        are known, [`diffqcp.LSMR`][] does.
    - `jacobian`: the derivative `D` of the projection onto `K*` at `y - s`.
    """

    P: _Matrix
    A: _Matrix
    jacobian: ConeJacobian

    @property
    def n(self) -> int:
        """The order of the upper left block."""
        return self.P.shape[0]

    def to_dual(self, t: Float[Array, " m"]) -> Float[Array, " m"]:
        """`U L t`, from the lower unknowns of the system to `dy`."""
        scaled = _root(self.jacobian.eigenvalues) * t
        return self.jacobian.eigenvectors.mv(scaled)

    def from_dual(self, vector: Float[Array, " m"]) -> Float[Array, " m"]:
        """`L U' vector`, the transpose of `to_dual`."""
        rotated = self.jacobian.eigenvectors.transpose_mv(vector)
        return _root(self.jacobian.eigenvalues) * rotated

    def mv(self, vector: Float[Array, " N"]) -> Float[Array, " N"]:
        """`K @ vector`."""
        x, t = vector[: self.n], vector[self.n :]
        upper = self.P.mv(x) + self.A.transpose_mv(self.to_dual(t))
        lower = self.from_dual(self.A.mv(x)) - (1 - self.jacobian.eigenvalues) * t
        return jnp.concatenate([upper, lower])

    def solve(
        self,
        upper: Float[Array, " n"],
        dual: Float[Array, " m"],
        solver: lx.AbstractLinearSolver,
        state: Any,
    ) -> tuple[Float[Array, " n"], Float[Array, " m"], Bool[Array, ""]]:
        """Solves `K [w; t] = [upper; L U'dual]`.

        **Returns:**

        `w` and `U L t`, which are NaN if the solve fails, and whether it has succeeded.
        """
        vector = jnp.concatenate([upper, self.from_dual(dual)])
        solution = lx.linear_solve(self, vector, solver, state=state, throw=False)
        solved = solution.result == lx.RESULTS.successful
        value = jnp.where(solved, solution.value, jnp.nan)
        return value[: self.n], self.to_dual(value[self.n :]), solved

    def solve_for_jax(
        self,
        upper: Float[Array, " n"],
        dual: Float[Array, " m"],
        solver: lx.AbstractLinearSolver,
        state: Any,
        check: Check,
        *,
        bend: Bend | None = None,
    ) -> tuple[Float[Array, " n"], Float[Array, " m"], Bool[Array, ""]]:
        """As `solve`, for JAX to transpose and to differentiate.

        For it `w` and `u = U L t` are the solution of

            P w + A'u = a,    A w + u - h = c,    D h - u = e

        at `a = upper`, `c = dual`, `e = 0`, which is symmetric, has no roots of
        eigenvalues, and is linear in the right-hand side, also where a failed solve is
        replaced. In general

            K [w; t] = [a + A'e; L U'(c + e)],    u = U L t - e,    h = u - c + A w.

        **Arguments:**

        - `check`: what is done with the solution, given whether the solve has succeeded.
        - `bend`: `D` as a function, if its own one is not differentiable in where `D` is
            taken; see [`diffqcp.cones.AbstractCone.differential`][].

        **Returns:**

        `w` and `U L t`, which are NaN if the solve fails, and whether it has succeeded.
        """
        constant = jax.lax.stop_gradient(self)
        bend = self.jacobian.mv if bend is None else bend

        def split(vector):
            return jnp.split(vector, (self.n, self.n + dual.size))

        def multiply(unknowns):
            w, u, h = split(unknowns)
            upper = self.P.mv(w) + self.A.transpose_mv(u)
            return jnp.concatenate([upper, self.A.mv(w) + u - h, bend(h) - u])

        def reduced(upper, dual):
            w, u, solved = constant.solve(upper, dual, solver, state)
            w, u = check((w, u), solved)
            return w, u, solved

        def solve(_, right):
            a, c, e = split(right)
            w, u, solved = reduced(a + constant.A.transpose_mv(e), c + e)
            u = u - e
            unknowns = jnp.concatenate([w, u, u - c + constant.A.mv(w)])
            # Zero has the solution zero, also where the matrix is not even finite.
            return jnp.where(jnp.any(right != 0), unknowns, 0), solved

        # One vector: JAX wants all of a right-hand side to be linear, and not a part.
        right = jnp.concatenate([upper, dual, jnp.zeros_like(dual)])
        unknowns, solved = jax.lax.custom_linear_solve(
            multiply, right, solve, solve, symmetric=True, has_aux=True
        )
        w, u, _ = split(unknowns)
        return w, u, solved

    def as_matrix(self) -> Float[Array, "N N"]:
        """`K` as a dense matrix."""
        coupling = jax.vmap(self.from_dual, in_axes=1, out_axes=1)(self.A.as_matrix())
        corner = jnp.diag(self.jacobian.eigenvalues - 1)
        return jnp.block([[self.P.as_matrix(), coupling.T], [coupling, corner]])

    def diagonal(self) -> Float[Array, " N"]:
        """The diagonal of `K`."""
        return jnp.concatenate([self.P.diagonal(), self.jacobian.eigenvalues - 1])

    def transpose(self) -> "KKTOperator":
        """`K` is symmetric."""
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Vectors `[dx; t]` of length `n + m`."""
        eigenvalues = self.jacobian.eigenvalues
        if not isinstance(eigenvalues, Tracer):
            size = self.n + eigenvalues.size
            return jax.ShapeDtypeStruct((size,), eigenvalues.dtype)
        # Under shard_map, arrays have shardings, which lineax compares too.
        return jax.eval_shape(self.diagonal)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """The same as `in_structure`."""
        return self.in_structure()


def _root(eigenvalues: Float[Array, " m"]) -> Float[Array, " m"]:
    """Their square roots. At zero the derivative, which is infinite, is left out."""
    positive = eigenvalues > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, eigenvalues, 1)), 0)


register_queries(KKTOperator, symmetric=True)
lx.diagonal.register(KKTOperator, KKTOperator.diagonal)
