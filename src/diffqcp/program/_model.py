"""A program as functions of flat vectors, and its local QCP.

With the Lagrangian `L = f + y'c` the first-order conditions of

    minimise f(x)    subject to    c(x) + s = 0,  s in K,

are `grad L = 0`, `c + s = 0` and `y = Pi_K*(y - s)`. At a point `(x, y)` they are, up to
first order, those of the QCP with

    P = hess L,    A = Dc,    q = grad f - P x,    b = A x - c,

so that its residuals, its Newton step and the matrix `K` of its derivative are those of
the program. (BPQP's backward QP is this one with the active constraints as equalities:
Pan et al., "BPQP: A Differentiable Convex Optimization Framework for Efficient End-to-End
Learning", NeurIPS 2024.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._structure_base import AbstractStructure, LocalData
from ..structure import AbstractQCPStructure
from ._compression import Compression
from ._layout import Layout
from ._products import Products


class Local(NamedTuple):
    """The local QCP.

    - `data`: `(P, A, q, b)`, with the stored values of `P` and `A`, or the maps.
    - `missing`: how much the patterns leave out, relative to what they have.
    """

    data: LocalData
    missing: Float[Array, ""]


@dataclass(frozen=True)
class Model:
    """The functions, with all that is static. It hashes and compares by value, functions
    by identity.

    - `objective`, `constraints`: as they were given; `constraints` may be None.
    - `layout`: that of `x`.
    - `structure`: of the local QCP.
    - `hessian`, `jacobian`: how `P` and `A` come from products. They are `Products` where
        the structure is a `MatrixFreeStructure`.
    """

    objective: Callable[..., Any]
    constraints: Callable[..., Any] | None
    layout: Layout
    structure: AbstractStructure
    hessian: Compression | Products
    jacobian: Compression | Products

    def f(self, x: Float[Array, " n"], theta: Any) -> Float[Array, ""]:
        """The objective."""
        return jnp.asarray(self.objective(self.layout.unravel(x), theta)).astype(x.dtype)

    def c(self, x: Float[Array, " n"], theta: Any) -> Float[Array, " m"]:
        """The constraints, those of a PyTree one after the other."""
        if self.constraints is None:
            return jnp.zeros(0, x.dtype)
        return ravel_constraints(self.constraints(self.layout.unravel(x), theta), x.dtype)

    def slope(
        self, x: Float[Array, " n"], y: Float[Array, " m"], theta: Any
    ) -> Float[Array, " n"]:
        """The gradient of the Lagrangian with respect to `x`."""

        def lagrangian(x: Array) -> Array:
            return self.f(x, theta) + jnp.vdot(y, self.c(x, theta))

        return jax.grad(lagrangian)(x)

    def local(self, x: Float[Array, " n"], y: Float[Array, " m"], theta: Any) -> Local:
        """The local QCP. It is differentiable."""
        slope, by_hessian = jax.linearize(lambda x: self.slope(x, y, theta), x)
        constraints, by_jacobian = jax.linearize(lambda x: self.c(x, theta), x)
        P, outside_P = self.hessian.values(by_hessian, x)
        A, outside_A = self.jacobian.values(by_jacobian, x)
        A_matrix = self.structure.A_matrix(A)
        q = slope - A_matrix.transpose_mv(y) - self.structure.P_mv(P, x)
        data = P, A, q, A_matrix.mv(x) - constraints
        return Local(data, jnp.maximum(outside_P, outside_A))

    def change(
        self, x: Float[Array, " n"], y: Float[Array, " m"], theta: Any, dtheta: Any
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """`r1` and `r2` of `diffqcp.kkt`: how the conditions change with `theta`."""

        def conditions(theta: Any) -> tuple[Array, Array]:
            return self.slope(x, y, theta), -self.c(x, theta)

        return jax.jvp(conditions, (theta,), (dtheta,))[1]


def stored(method: Any, model: Model) -> AbstractQCPStructure:
    """The structure of the local QCP, for a method that takes its entries.

    **Raises:** `ValueError` if there are only products.
    """
    if not isinstance(model.structure, AbstractQCPStructure):
        name = type(method).__name__
        raise ValueError(
            f"method: {name} takes the entries of second derivatives, and without "
            "patterns this program has only products with them: give hessian_pattern "
            "and jacobian_pattern, a solve_method other than 'jax-lsmr' for dense "
            "derivatives ('ldl'), or method=diffqcp.program.SciPy('trust-constr')"
        )
    return model.structure


def ravel_constraints(values: Any, dtype: Any) -> Float[Array, " m"]:
    """The numbers of a PyTree in one vector."""
    parts = [jnp.asarray(leaf).astype(dtype).ravel() for leaf in jax.tree.leaves(values)]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)
