"""What structures of all kinds have: sizes and cones, and the two matrices."""

import abc
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float

from ._linear_map import LinearMap
from .cones import ProductCone
from .cones.dims import cones_of, parse_dims
from .cones.psd import PSDOrder
from .sparsity import SparseMatrix


# `(P, A, q, b)`, where `P` and `A` are what a structure of some kind makes matrices of.
LocalData: TypeAlias = tuple[Any, Any, Float[Array, " n"], Float[Array, " m"]]


class AbstractStructure(abc.ABC):
    """The sizes and the cones of problems of one kind, and how `P` and `A` are known. It
    is static, and compares by value.

    **Attributes:**

    - `n`, `m`: the numbers of variables and of constraint rows.
    - `dual_cone`: the product cone `K*`.
    - `dims`: the cone `K` as an SCS-style dictionary with all its keys (`K*` if the
        structure was made with `onto_dual=False`).
    - `psd_order`, `onto_dual`: as given.
    """

    n: int
    m: int
    dual_cone: ProductCone
    dims: dict[str, Any]
    psd_order: PSDOrder | None
    onto_dual: bool
    _key: tuple[Any, ...]

    def __init__(
        self,
        n: int,
        m: int,
        cone_dims: Mapping[str, Any],
        onto_dual: bool,
        psd_order: PSDOrder | None,
        *parts: Any,
    ):
        """**Arguments:**

        - `parts`: what else tells structures of one kind apart.

        **Raises:** `ValueError`, naming the argument, for cones that do not fit.
        """
        cone = ProductCone.from_dict(cone_dims, psd_order)
        if cone.dim != m:
            raise ValueError(f"cone_dims: the cones take {cone.dim} rows, but A has {m}")
        self.n, self.m = n, m
        self.dual_cone = cone.dual() if onto_dual else cone
        self.dims = parse_dims(cone_dims, psd_order)
        self.psd_order, self.onto_dual = psd_order, onto_dual
        dims = tuple((key, tuple(np.ravel(self.dims[key]))) for key in sorted(self.dims))
        order = psd_order if max(self.dims["s"], default=0) >= 3 else None
        self._key = (type(self), *parts, n, m, dims, order, onto_dual)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, AbstractStructure)
            and self._hash == other._hash
            and self._key == other._key
        )

    @property
    def curved_sizes(self) -> list[int]:
        """How many rows each cone takes that is no product of rays, in their order; those
        without rows are left out.
        """
        cones = cones_of(self.dims, self.psd_order)
        return [cone.dim for key, cone in cones if key not in ("z", "l")]

    @abc.abstractmethod
    def P_matrix(self, values: Any) -> SparseMatrix | LinearMap:
        """All of the symmetric `P`."""

    @abc.abstractmethod
    def A_matrix(self, values: Any) -> SparseMatrix | LinearMap:
        """`A`."""

    @abc.abstractmethod
    def P_mv(self, values: Any, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """The symmetric part of `P` times `x`."""

    @abc.abstractmethod
    def scaled(
        self, P: Any, A: Any, rows: Float[Array, " m"], cols: Float[Array, " n"]
    ) -> tuple[Any, Any]:
        """`diag(cols) P diag(cols)` and `diag(rows) A diag(cols)`."""


@jax.tree_util.register_static
class MatrixFreeStructure(AbstractStructure):
    """The structure of problems whose `P` and `A` are maps: a
    `diffqcp._linear_map.LinearMap` each.
    """

    def __init__(
        self,
        n: int,
        m: int,
        cone_dims: Mapping[str, Any],
        *,
        psd_order: PSDOrder | None = None,
    ):
        super().__init__(n, m, cone_dims, True, psd_order)

    def P_matrix(self, values: LinearMap) -> LinearMap:
        """The map itself."""
        return values

    def A_matrix(self, values: LinearMap) -> LinearMap:
        """The map itself."""
        return values

    def P_mv(self, values: LinearMap, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """A product."""
        return values.mv(x)

    def scaled(
        self,
        P: LinearMap,
        A: LinearMap,
        rows: Float[Array, " m"],
        cols: Float[Array, " n"],
    ) -> tuple[LinearMap, LinearMap]:
        """See `AbstractStructure`."""
        return P.scaled(cols, cols), A.scaled(rows, cols)
