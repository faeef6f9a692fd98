from typing import cast

import jax
import jax.flatten_util as jfu
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree


def register_queries(
    cls: type[lx.AbstractLinearOperator],
    *,
    symmetric: bool = False,
    positive_semidefinite: bool = False,
) -> None:
    """Answers every lineax query for a real operator class with no special structure
    beyond what is stated. (lineax refuses a class that leaves one of them out.)
    """

    def register(query, answer):
        query.register(cls, answer)

    register(lx.is_symmetric, lambda operator: symmetric)
    register(lx.is_positive_semidefinite, lambda operator: positive_semidefinite)
    for query in (
        lx.is_negative_semidefinite,
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.has_unit_diagonal,
    ):
        register(query, lambda operator: False)
    register(lx.linearise, lambda operator: operator)
    register(lx.conj, lambda operator: operator)
    register(lx.materialise, _materialise)
    register(lx.diagonal, lambda operator: jnp.diagonal(operator.as_matrix()))
    register(lx.tridiagonal, _tridiagonal)


def matrix_from_mv(operator: lx.AbstractLinearOperator) -> Float[Array, "out in"]:
    """The matrix of `operator`, one column for each entry of its (raveled) input."""
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), operator.in_structure()
    )
    flat, unravel = jfu.ravel_pytree(zeros)

    def column(unit: Float[Array, " in"]) -> Float[Array, " out"]:
        return jfu.ravel_pytree(operator.mv(unravel(unit)))[0]

    return jax.vmap(column, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))


def _materialise(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    tags = frozenset(
        tag
        for query, tag in (
            (lx.is_symmetric, lx.symmetric_tag),
            (lx.is_positive_semidefinite, lx.positive_semidefinite_tag),
        )
        if query(operator)
    )
    structure = operator.in_structure()
    if isinstance(structure, jax.ShapeDtypeStruct):
        return lx.MatrixLinearOperator(operator.as_matrix(), tags)
    function = lx.FunctionLinearOperator(operator.mv, structure, tags)
    return cast(lx.AbstractLinearOperator, lx.materialise(function))


def _tridiagonal(operator: lx.AbstractLinearOperator) -> PyTree[Array]:
    matrix = operator.as_matrix()
    return jnp.diagonal(matrix), jnp.diagonal(matrix, -1), jnp.diagonal(matrix, 1)
