"""What a program was made of, and the functions of vectors that come of it."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from ..cones.psd import PSDOrder
from ..sparsity import SparsityPattern
from ..structure import AbstractQCPStructure
from ._compression import Compression
from ._detect import detect_hessian, detect_jacobian
from ._layout import Layout
from ._model import Model, ravel_constraints
from ._pattern import make_structure
from ._products import Products


class Source(NamedTuple):
    """What a program was made of. It hashes and compares by value, functions by
    identity.

    - `products`: see `make_structure`.
    """

    objective: Callable[..., Any]
    constraints: Callable[..., Any] | None
    dims: tuple[tuple[str, Any], ...]
    psd_order: PSDOrder | None
    hessian: SparsityPattern | str | None
    jacobian: SparsityPattern | str | None
    products: bool | None


def check_function(name: str, function: Any) -> None:
    if not callable(function):
        raise TypeError(f"{name}: expected a function, got {function!r}")
    try:
        hash(function)
    except TypeError as error:
        raise TypeError(
            f"{name}: expected a function that can be hashed; what arrays it has are to "
            "be a part of theta"
        ) from error


@lru_cache(maxsize=64)
def model_of(
    source: Source, layout: Layout, tree: Any, structs: tuple[Any, ...]
) -> Model:
    """The functions for vectors, once for each structure and shapes of the arguments.

    **Raises:** `TypeError` or `ValueError`, naming the argument.
    """
    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in structs]
    theta = jax.tree.unflatten(tree, leaves)
    n, dtype = layout.size, layout.dtype
    if n == 0:
        raise ValueError("x: expected at least one number, got none")
    x = jax.ShapeDtypeStruct((n,), dtype)

    def objective(x: Array, theta: Any) -> Any:
        return source.objective(layout.unravel(x), theta)

    value = _result("objective", objective, x, theta)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape != ():
        raise ValueError(f"objective: expected a number, got {value}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"objective: expected a real number, got {value}")
    constraints, m = source.constraints, 0
    vector = partial(_constraint_vector, source, layout)
    if constraints is not None:
        m = _result("constraints", vector, x, theta).size
    hessian, jacobian = source.hessian, source.jacobian
    if isinstance(hessian, str):
        y = jax.ShapeDtypeStruct((m,), dtype)
        hessian = detect_hessian(
            lambda x, y, theta: objective(x, theta) + jnp.vdot(y, vector(x, theta)),
            *(x, y, theta),
        )
    if isinstance(jacobian, str):
        jacobian = detect_jacobian(vector, x, theta)
    dims = {k: list(v) if isinstance(v, tuple) else v for k, v in source.dims}
    structure = make_structure(
        *(n, m, dims, source.psd_order, hessian, jacobian, source.products)
    )
    if isinstance(structure, AbstractQCPStructure):
        derivatives = (
            Compression(structure.P_pattern, symmetric=True),
            Compression(structure.A_pattern),
        )
    else:
        derivatives = Products(symmetric=True), Products()
    return Model(source.objective, constraints, layout, structure, *derivatives)


def _result(name: str, function: Callable[..., Any], x: Any, theta: Any) -> Any:
    """The shapes and dtypes of a function's result.

    **Raises:** `ValueError`, naming the argument, if it closes over traced values: their
    derivatives would be left out.
    """
    closed, result = jax.make_jaxpr(function, return_shape=True)(x, theta)
    if any(isinstance(constant, Tracer) for constant in closed.consts):
        raise ValueError(
            f"{name}: closes over values that are traced by jit, grad or vmap; they are "
            "to be a part of theta"
        )
    return result


def _constraint_vector(
    source: Source, layout: Layout, x: Float[Array, " n"], theta: Any
) -> Float[Array, " m"]:
    if source.constraints is None:
        return jnp.zeros(0, x.dtype)
    return ravel_constraints(source.constraints(layout.unravel(x), theta), x.dtype)
