from typing import Any

import equinox as eqx
import jax
import lineax as lx
from jax.core import Tracer
from jaxtyping import PyTree

from .auto import AutoSolver
from .cudss import CuDSS
from .lsmr import LSMR
from .lu import LU
from .sparse_ldl import SparseLDL


class FrozenSolver(eqx.Module):
    """A lineax solver as an argument of `jax.jit`: its arrays are traced, the rest of it
    is static, and hashed once.
    """

    arrays: PyTree
    rest: "_Static" = eqx.field(static=True)

    def __init__(self, solver: lx.AbstractLinearSolver):
        self.arrays, rest = eqx.partition(solver, eqx.is_array)
        self.rest = _Static(rest)

    def thaw(self) -> lx.AbstractLinearSolver:
        """The solver."""
        return eqx.combine(self.arrays, self.rest.value)


class _Static:
    """Anything hashable, hashed once."""

    __slots__ = ("_hash", "value")

    def __init__(self, value: Any):
        self.value = value
        self._hash = hash(value)

    def __reduce__(self) -> tuple[Any, ...]:
        # Hashes of strings differ from one process to the next.
        return _Static, (self.value,)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Static) and self.value == other.value)


_SOLVE_METHODS = {
    name: FrozenSolver(solver)
    for name, solver in {
        "auto": AutoSolver(),
        "jax-lu": LU(),
        "jax-lsmr": LSMR(),
        "ldl": SparseLDL(),
        "nvmath-direct": CuDSS(),
    }.items()
}


def select_solver(
    solve_method: str, solver: lx.AbstractLinearSolver | None, arrays: PyTree = ()
) -> FrozenSolver:
    """`solver` if it is given, else the one called `solve_method`, for these arrays.

    **Raises:** `ValueError` for an unknown name, `TypeError` if `solver` is not a lineax
    solver; and what `CuDSS.check` raises.
    """
    if not isinstance(solve_method, str) or solve_method not in _SOLVE_METHODS:
        raise ValueError(
            f"solve_method: expected one of {sorted(_SOLVE_METHODS)}, "
            f"got {solve_method!r}"
        )
    if isinstance(solver, CuDSS) or (solver is None and solve_method == "nvmath-direct"):
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays))
        (solver or CuDSS()).check(traced)
    if solver is None:
        return _SOLVE_METHODS[solve_method]
    if not isinstance(solver, lx.AbstractLinearSolver):
        raise TypeError(
            "solver: expected a lineax.AbstractLinearSolver, or a name as "
            f"solve_method, got {solver!r}"
        )
    return FrozenSolver(solver)
