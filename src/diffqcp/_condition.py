from collections.abc import Callable
from typing import Any, TypeVar

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ._sharding import vary_together


_Result = TypeVar("_Result")


def compute_if(
    wanted: Bool[Array, ""],
    function: Callable[..., _Result],
    operands: tuple[Any, ...],
    otherwise: _Result,
) -> _Result:
    """`function(*operands)` if it is wanted.

    A loop of at most one step, which a batch skips if no item wants it, while of a
    condition it would compute both branches. Derivatives do not go through it.

    **Arguments:**

    - `operands`: what the function computes with. The barrier makes them depend on the
        state of the loop; otherwise the compiler would move the computation out of the
        loop, and always do it.
    - `otherwise`: the result where it is not wanted.
    """

    def step(state: tuple[Array, _Result]) -> tuple[Array, _Result]:
        own, (pending, _) = lax.optimization_barrier((operands, state))
        return vary_together((jnp.zeros_like(pending), function(*own), pending))[:2]

    start = vary_together((wanted, otherwise))
    return lax.while_loop(lambda state: state[0], step, start)[1]
