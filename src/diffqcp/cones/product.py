from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from .._static import StaticArray
from ._base import AbstractCone, AbstractEigenvectors, ConeJacobian
from .dims import cones_of, parse_dims
from .nonneg import NonnegativeCone
from .psd import PSDOrder


class RepeatedEigenvectors(AbstractEigenvectors):
    """A block-diagonal matrix of equal blocks, applied under `jax.vmap`."""

    blocks: AbstractEigenvectors  # its arrays have a leading axis of length `count`
    count: int = eqx.field(static=True)

    def mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        rows = vector.reshape(self.count, -1)
        return jax.vmap(lambda block, row: block.mv(row))(self.blocks, rows).ravel()

    def transpose_mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        rows = vector.reshape(self.count, -1)
        return jax.vmap(lambda block, row: block.transpose_mv(row))(
            self.blocks, rows
        ).ravel()


class RepeatedCone(AbstractCone):
    """The product of `count` equal cones: one computation under `jax.vmap`.

    **Arguments:**

    - `cone`: the cone. Its arrays, if it has any, have a leading axis of length `count`.
    - `count`: how many there are.
    """

    cone: AbstractCone
    count: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        """`count` times the cone's."""
        return self.count * self.cone.dim

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """Each block onto its cone."""
        rows = v.reshape(self.count, -1)
        return jax.vmap(lambda cone, row: cone.project(row))(self.cone, rows).ravel()

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """Block diagonal."""
        return self._blocks(v, lambda cone, row: cone.jacobian(row))

    def smoothed_jacobian(self, v: Float[Array, " d"], mu: ScalarLike) -> ConeJacobian:
        """Block diagonal."""
        return self._blocks(v, lambda cone, row: cone.smoothed_jacobian(row, mu))

    def _blocks(
        self,
        v: Float[Array, " d"],
        jacobian: Callable[[AbstractCone, Array], ConeJacobian],
    ) -> ConeJacobian:
        blocks = jax.vmap(jacobian)(self.cone, v.reshape(self.count, -1))
        return ConeJacobian(
            blocks.eigenvalues.ravel(),
            RepeatedEigenvectors(blocks.eigenvectors, self.count),
        )

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """Each block's."""
        rows, moves = v.reshape(self.count, -1), dv.reshape(self.count, -1)
        # The rule behind it takes arrays of JAX alone.
        cones = jax.tree.map(lambda leaf: jnp.asarray(leaf, v.dtype), self.cone)
        return jax.vmap(lambda cone, row, move: cone.differential(row, move))(
            cones, rows, moves
        ).ravel()

    def dual(self) -> "RepeatedCone":
        """The product of the duals."""
        return RepeatedCone(self.cone.dual(), self.count)


def _split(vector: Float[Array, " d"], dims: Sequence[int]) -> list[Array]:
    return jnp.split(vector, np.cumsum(dims)[:-1]) if dims else []


def _concatenate(parts: Sequence[Array], like: Float[Array, " d"]) -> Array:
    return jnp.concatenate(parts) if parts else jnp.zeros_like(like)


class ProductEigenvectors(AbstractEigenvectors):
    """A block-diagonal matrix, its rows permuted.

    Columns are in the order of the blocks, row `k` of the blocks is row `rows[k]` of
    the product. (`rows` and its inverse are None if nothing moves.)
    """

    blocks: tuple[AbstractEigenvectors, ...]
    dims: tuple[int, ...] = eqx.field(static=True)
    rows: StaticArray | None = eqx.field(static=True)
    inverse: StaticArray | None = eqx.field(static=True)

    def mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        parts = _split(vector, self.dims)
        out = [block.mv(part) for block, part in zip(self.blocks, parts, strict=True)]
        stacked = _concatenate(out, vector)
        return stacked if self.inverse is None else stacked[self.inverse.value]

    def transpose_mv(self, vector: Float[Array, " d"]) -> Float[Array, " d"]:
        stacked = vector if self.rows is None else vector[self.rows.value]
        parts = _split(stacked, self.dims)
        out = [
            block.transpose_mv(part)
            for block, part in zip(self.blocks, parts, strict=True)
        ]
        return _concatenate(out, vector)


class ProductCone(AbstractCone):
    """A product of cones.

    Most users want [`diffqcp.cones.ProductCone.from_dict`][].

    **Arguments:**

    - `cones`: the factors.
    - `rows`: row `k` of the factors, one after the other, is row `rows[k]` of the
        product. None if they are in order already.
    """

    cones: tuple[AbstractCone, ...]
    rows: StaticArray | None = eqx.field(static=True)
    inverse: StaticArray | None = eqx.field(static=True)

    def __init__(self, cones: Sequence[AbstractCone], rows: np.ndarray | None = None):
        self.cones = tuple(cones)
        if rows is None or np.array_equal(rows, np.arange(rows.size)):
            self.rows = self.inverse = None
        else:
            self.rows, self.inverse = StaticArray(rows), StaticArray(np.argsort(rows))

    @classmethod
    def from_dict(
        cls, dims: Mapping[str, Any], psd_order: PSDOrder | None = None
    ) -> "ProductCone":
        """The product that an SCS-style dictionary describes.

        Rows are in the order of the keys below, whatever the order in the dictionary.
        Equal cones are gathered into one `RepeatedCone`.

        **Arguments:**

        - `dims`: with any of the keys
            - `z`: number of zero rows (equality constraints);
            - `l`: number of nonnegative rows;
            - `q`: list of the dimensions of second-order cones;
            - `s`: list of the orders of PSD matrices, each taking
                `order * (order + 1) / 2` rows;
            - `ep`, `ed`: number of exponential, dual exponential cones (3 rows each);
            - `p`: list of exponents of power cones (3 rows each), in (-1, 1) and not
                0; `-alpha` is the dual of the cone with `alpha`;
            - `pnd`: list of pairs `[alpha, 1 - alpha]`: power cones after those of
                `p`, as CVXPY writes them;
            - `f`: another name of `z`.

            A key without cones (0, None, an empty list) says nothing, known or not.
        - `psd_order`: `"lower"` if PSD matrices are stored by their lower triangles
            (SCS), `"upper"` if by their upper ones (Clarabel), column after column.
            It must be given if there is a PSD cone of order 3 or more, since a wrong
            order gives wrong numbers and no error.

        **Raises:** `ValueError` or `TypeError` for an unknown key that has cones, a
        negative or fractional size, an exponent out of range, a `pnd` cone of more than
        three dimensions, a missing or unknown `psd_order`.
        """
        groups: dict[Any, list[AbstractCone]] = {}
        rows: dict[Any, list[np.ndarray]] = {}
        start = 0
        cones = [cone for _, cone in cones_of(parse_dims(dims, psd_order), psd_order)]
        keys: dict[int, tuple[Any, int]] = {}
        for cone in cones:
            if id(cone) not in keys:  # most are one object many times
                keys[id(cone)] = _alike(cone), cone.dim
            key, dim = keys[id(cone)]
            groups.setdefault(key, []).append(cone)
            rows.setdefault(key, []).append(np.arange(start, start + dim))
            start += dim
        order = [np.concatenate(group) for group in rows.values()]
        return cls(
            [_gather(group) for group in groups.values()],
            np.concatenate(order) if order else None,
        )

    @property
    def dim(self) -> int:
        """The sum of the factors'."""
        return sum(cone.dim for cone in self.cones)

    def parts(self, v: Float[Array, " d"]) -> list[Array]:
        """The blocks of a vector, in the order of the factors."""
        stacked = v if self.rows is None else v[self.rows.value]
        return _split(stacked, [cone.dim for cone in self.cones])

    def _join(self, parts: list[Array], like: Float[Array, " d"]) -> Array:
        stacked = _concatenate(parts, like)
        return stacked if self.inverse is None else stacked[self.inverse.value]

    def project(self, v: Float[Array, " d"]) -> Float[Array, " d"]:
        """Each block onto its cone."""
        parts = zip(self.cones, self.parts(v), strict=True)
        return self._join([cone.project(part) for cone, part in parts], v)

    def jacobian(self, v: Float[Array, " d"]) -> ConeJacobian:
        """Block diagonal, up to the order of rows."""
        return self._blocks(v, lambda cone, part: cone.jacobian(part))

    def smoothed_jacobian(self, v: Float[Array, " d"], mu: ScalarLike) -> ConeJacobian:
        """Block diagonal, up to the order of rows."""
        return self._blocks(v, lambda cone, part: cone.smoothed_jacobian(part, mu))

    def _blocks(
        self,
        v: Float[Array, " d"],
        jacobian: Callable[[AbstractCone, Array], ConeJacobian],
    ) -> ConeJacobian:
        parts = zip(self.cones, self.parts(v), strict=True)
        blocks = [jacobian(cone, part) for cone, part in parts]
        eigenvalues = _concatenate([block.eigenvalues for block in blocks], v)
        eigenvectors = ProductEigenvectors(
            tuple(block.eigenvectors for block in blocks),
            tuple(cone.dim for cone in self.cones),
            self.rows,
            self.inverse,
        )
        return ConeJacobian(eigenvalues, eigenvectors)

    def differential(
        self, v: Float[Array, " d"], dv: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """Each block's."""
        parts = zip(self.cones, self.parts(v), self.parts(dv), strict=True)
        return self._join([cone.differential(row, move) for cone, row, move in parts], v)

    def dual(self) -> "ProductCone":
        """The product of the duals."""
        rows = None if self.rows is None else self.rows.value
        return ProductCone([cone.dual() for cone in self.cones], rows)


def _alike(cone: AbstractCone) -> Any:
    """The same for cones that become one: all rays, and others of one type and size."""
    is_ray = isinstance(cone, NonnegativeCone)
    return NonnegativeCone if is_ray else jax.tree.structure(cone)


def _gather(group: list[AbstractCone]) -> AbstractCone:
    """One cone for a group of equal ones."""
    if isinstance(group[0], NonnegativeCone):
        return NonnegativeCone(sum(cone.dim for cone in group))
    if len(group) == 1:
        return group[0]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *group)
    return RepeatedCone(stacked, len(group))
