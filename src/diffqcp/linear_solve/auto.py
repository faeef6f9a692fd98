from typing import Any

import lineax as lx
from jaxtyping import Array, Float

from .lsmr import LSMR
from .lu import LU


class AutoSolver(lx.AbstractLinearSolver[Any]):
    """Chooses by the order of `K`: `solve_method="auto"`, the default.

    Dense [`diffqcp.LU`][] up to order `max_dense`, [`diffqcp.LSMR`][] beyond.

    **Arguments:**

    - `max_dense`: the largest order that is solved densely. The default takes 128 MB in
        float64.
    """

    max_dense: int = 4000

    def choice(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearSolver:
        """The solver chosen for `operator`."""
        return self._choose(operator.in_size())

    def _choose(self, order: int) -> lx.AbstractLinearSolver:
        return LU() if order <= self.max_dense else LSMR()

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        """As the chosen solver."""
        return self.choice(operator).init(operator, options)

    def compute(
        self, state: Any, vector: Float[Array, " N"], options: dict[str, Any]
    ) -> tuple[Float[Array, " N"], lx.RESULTS, dict[str, Any]]:
        """As the chosen solver."""
        return self._choose(vector.size).compute(state, vector, options)

    def transpose(
        self, state: Any, options: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """`K` is symmetric."""
        return state, options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """`K` is real."""
        return state, options

    def assume_full_rank(self) -> bool:
        """Both choices take singular systems."""
        return False


_SOLVE_METHODS = {"auto": AutoSolver, "jax-lu": LU, "jax-lsmr": LSMR}


def select_solver(
    solve_method: str, solver: lx.AbstractLinearSolver | None
) -> lx.AbstractLinearSolver:
    """`solver` if it is given, else the one called `solve_method`.

    **Raises:** `ValueError` for an unknown name, `TypeError` if `solver` is not a lineax
    solver.
    """
    if solve_method not in _SOLVE_METHODS:
        raise ValueError(
            f"solve_method: expected one of {sorted(_SOLVE_METHODS)}, "
            f"got {solve_method!r}"
        )
    if solver is None:
        return _SOLVE_METHODS[solve_method]()
    if not isinstance(solver, lx.AbstractLinearSolver):
        raise TypeError(
            "solver: expected a lineax.AbstractLinearSolver, or a name as "
            f"solve_method, got {solver!r}"
        )
    return solver
