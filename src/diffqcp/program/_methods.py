import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import minimize, NonlinearConstraint
from scipy.sparse.linalg import LinearOperator

from ._model import Model


class AbstractHostMethod(eqx.Module):
    """A solver of programs outside JAX. It calls the functions of the program itself, so
    it runs outside of `jax.jit` and `jax.vmap` only, but under `jax.grad`, and takes zero
    and nonnegative cones.
    """

    @abc.abstractmethod
    def run(
        self, model: Model, theta: Any, start: Float[Array, " n"]
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """What it has found: the last point, its multipliers if they are known, and the
        number of iterations. Whether that is a solution is looked at later.
        """


def rows(method: AbstractHostMethod, model: Model) -> tuple[int, int]:
    """The numbers of equalities and of inequalities.

    **Raises:** `ValueError` if there are other cones.
    """
    dims = model.structure.dims
    if dims["z"] + dims["l"] != model.structure.m:
        raise ValueError(
            f"{type(method).__name__}: expected zero and nonnegative cones only, got "
            f"{dims}; diffqcp.program.SQP takes all of them"
        )
    return dims["z"], dims["l"]


class SciPy(AbstractHostMethod):
    """`scipy.optimize.minimize`, with exact derivatives.

    **Arguments:**

    - `method`: `"SLSQP"`, for small dense programs, or `"trust-constr"`, which takes
        products with second derivatives, and the Jacobian of the constraints as a dense
        matrix.
    - `tol`: its tolerance.
    - `max_steps`: the most iterations.

    **Raises:** `ValueError`, naming the argument, for another method.
    """

    method: str = "SLSQP"
    tol: float = 1e-10
    max_steps: int = 500

    def __check_init__(self):
        if self.method not in ("SLSQP", "trust-constr"):
            raise ValueError(
                f"method: expected 'SLSQP' or 'trust-constr', got {self.method!r}"
            )

    def run(
        self, model: Model, theta: Any, start: Float[Array, " n"]
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """See `AbstractHostMethod`; multipliers are left to be estimated."""
        equalities, inequalities = rows(self, model)
        value = jax.jit(jax.value_and_grad(model.f))
        c, jacobian = jax.jit(model.c), jax.jit(jax.jacrev(model.c))
        curved = self.method == "trust-constr"  # SLSQP has no use for curvature
        constraints: Any = []
        if model.structure.m:
            lower = [0.0] * equalities + [-np.inf] * inequalities
            jac: Any = lambda x: np.asarray(jacobian(x, theta))  # noqa: E731
            bent: Any = {}
            if curved:
                bent["hess"] = _products(lambda x, y: jnp.vdot(y, model.c(x, theta)))
            constraints = NonlinearConstraint(
                *(lambda x: np.asarray(c(x, theta)), lower, np.zeros(len(lower)), jac),
                **bent,
            )
        found: Any = minimize(
            lambda x: tuple(np.asarray(part, float) for part in value(x, theta)),
            np.asarray(start),
            jac=True,
            hess=_products(lambda x: model.f(x, theta)) if curved else None,
            method=self.method,
            tol=self.tol,
            constraints=constraints,
            options={"maxiter": self.max_steps},
        )
        return found.x, None, int(found.nit)


def _products(function: Callable[..., Array]) -> Any:
    """The second derivatives of a function with respect to its first argument, as
    products, for SciPy.
    """

    @jax.jit
    def product(vector: Array, x: Array, *others: Array) -> Array:
        slope = jax.grad(lambda x: function(x, *others))
        return jax.jvp(slope, (x,), (vector,))[1]

    def at(x: np.ndarray, *others: np.ndarray) -> LinearOperator:
        def matvec(vector: np.ndarray) -> np.ndarray:
            return np.asarray(product(vector.reshape(-1).astype(x.dtype), x, *others))

        operator: Any = LinearOperator
        return operator((x.size, x.size), matvec=matvec, dtype=x.dtype)

    return at
