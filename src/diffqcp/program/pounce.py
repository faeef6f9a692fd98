"""The interior-point method of the package `pounce-solver`, for large sparse programs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pounce as _pounce
from jaxtyping import Array, Float

from ..structure import AbstractQCPStructure
from ._methods import AbstractHostMethod, rows
from ._model import Model, stored


class Pounce(AbstractHostMethod):
    """POUNCE, a port of Ipopt: a filter line-search interior-point method.

    It takes the sparse derivatives of the program, and needs the extra `pounce`.

    **Arguments:**

    - `tol`: its tolerance.
    - `max_steps`: the most iterations.
    """

    tol: float = 1e-9
    max_steps: int = 3000

    def run(
        self, model: Model, theta: Any, start: Float[Array, " n"]
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """See `AbstractHostMethod`."""
        equalities, inequalities = rows(self, model)
        structure = stored(self, model)
        n, m = structure.n, structure.m
        solver: Any = _pounce
        problem = solver.Problem(
            n=n,
            m=m,
            problem_obj=_Callbacks(model, structure, theta),
            lb=np.full(n, -_INFINITY),
            ub=np.full(n, _INFINITY),
            cl=np.array([0.0] * equalities + [-_INFINITY] * inequalities),
            cu=np.zeros(m),
        )
        for name, value in (
            ("print_level", 0),
            ("tol", self.tol),
            ("max_iter", self.max_steps),
        ):
            problem.add_option(name, value)
        x, info = problem.solve(x0=np.array(start, float))
        return x, np.asarray(info["mult_g"]), int(info["iter_count"])


_INFINITY = 2e19


class _Callbacks:
    """The functions, in the form of cyipopt."""

    def __init__(self, model: Model, structure: AbstractQCPStructure, theta: Any):
        dtype = np.dtype(model.layout.dtype)
        P, A = structure.P_pattern, structure.A_pattern
        self._lower = np.flatnonzero(P.rows <= P.cols)
        self._P, self._A = (P.cols[self._lower], P.rows[self._lower]), (A.rows, A.cols)

        def hessian(x: Array, y: Array, weight: Array) -> Any:
            def slope(x: Array) -> Array:
                return jax.grad(
                    lambda x: weight * model.f(x, theta) + jnp.vdot(y, model.c(x, theta))
                )(x)

            return model.hessian.values(jax.linearize(slope, x)[1], x)[0]

        self._value = jax.jit(lambda x: model.f(x, theta))
        self._slope = jax.jit(jax.grad(lambda x: model.f(x, theta)))
        self._c = jax.jit(lambda x: model.c(x, theta))
        self._jacobian = jax.jit(
            lambda x: model.local(x, jnp.zeros(structure.m, dtype), theta).data[1]
        )
        self._hessian = jax.jit(hessian)

    def objective(self, x: np.ndarray) -> float:
        return float(self._value(x))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._slope(x))

    def constraints(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._c(x))

    def jacobianstructure(self) -> tuple[np.ndarray, np.ndarray]:
        return self._A

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._jacobian(x))

    def hessianstructure(self) -> tuple[np.ndarray, np.ndarray]:
        return self._P

    def hessian(self, x: np.ndarray, y: np.ndarray, weight: float) -> np.ndarray:
        return np.asarray(self._hessian(x, y, weight))[self._lower]
