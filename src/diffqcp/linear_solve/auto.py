from typing import Any

import jax
import lineax as lx
from jaxtyping import Array, Float

from .._extension import extension
from ._options import check_count
from .lsmr import LSMR
from .lu import LU
from .sparse_ldl import SparseLDL


class AutoSolver(lx.AbstractLinearSolver[Any]):
    """Chooses by the platform and the order of `K`: `solve_method="auto"`, the default.

    On CPUs [`diffqcp.SparseLDL`][]: it is as fast as dense LU on the smallest systems,
    and faster on all others, dense ones included, since it uses the symmetry. Without
    the compiled extension, and on other platforms, dense [`diffqcp.LU`][] for orders up
    to `max_dense`. Beyond that, `SparseLDL` on CPUs and [`diffqcp.LSMR`][] elsewhere.

    Where the extension computes a single product with the derivative (`jvp`, `vjp`) and
    a factorisation would take as long as a hundred products with `K` or more, it
    solves by the method of minimal residuals first, to the same accuracy, and
    factorises only if that does not converge in about the time of a factorisation. That
    is so for PSD cones from orders of about 30 on, and for sparse systems whose factors
    fill. `qcp.derivative()` always factorises.

    **Arguments:**

    - `max_dense`: the largest order that is solved densely. By default 500 on CPUs,
        where QDLDL is faster for most sparse systems beyond; elsewhere 4000, which takes
        128 MB in float64.
    - `well_posed`: as for `SparseLDL`.
    """

    max_dense: int | None = None
    well_posed: bool = False

    def __check_init__(self):
        check_count(self, "max_dense")

    def choice(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearSolver:
        """The solver chosen for `operator`."""
        return self._choose(operator.in_size())

    def _choose(self, order: int) -> lx.AbstractLinearSolver:
        cpu = jax.default_backend() == "cpu"
        if cpu and extension() is not None:
            return SparseLDL(well_posed=self.well_posed)
        limit = self.max_dense
        if limit is None:
            limit = 500 if cpu else 4000
        if order <= limit:
            return LU(well_posed=self.well_posed)
        return SparseLDL(well_posed=self.well_posed) if cpu else LSMR()

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
        """Whether `K` may be singular."""
        return self.well_posed
