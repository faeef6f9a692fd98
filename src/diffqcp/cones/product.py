import functools
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from .._static import StaticArray
from ._base import AbstractCone, AbstractEigenvectors, ConeJacobian
from .exponential import ExponentialCone
from .nonneg import NonnegativeCone
from .power import PowerCone
from .psd import PSDCone, PSDOrder
from .soc import SecondOrderCone
from .zero import ZeroCone


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
        sizes = parse_dims(dims, psd_order)
        cones: dict[Any, list[AbstractCone]] = {}
        rows: dict[Any, list[np.ndarray]] = {}
        start = 0

        def add(key: Any, cone: AbstractCone) -> None:
            nonlocal start
            cones.setdefault(key, []).append(cone)
            rows.setdefault(key, []).append(np.arange(start, start + cone.dim))
            start += cone.dim

        if sizes["z"]:
            add("zero", ZeroCone(sizes["z"]))
        if sizes["l"]:
            add("rays", NonnegativeCone(sizes["l"]))
        for dim in sizes["q"]:
            if dim > 0:
                add(*_second_order(dim))
        for size in sizes["s"]:
            if size > 0:
                add(*_psd(size, psd_order or "lower"))
        exponential = ExponentialCone()
        for _ in range(sizes["ep"]):
            add("exponential", exponential)
        for _ in range(sizes["ed"]):
            add("dual exponential", exponential.dual())
        for alpha in sizes["p"]:
            cone = PowerCone(abs(alpha))
            if alpha > 0:
                add("power", cone)
            else:
                add("dual power", cone.dual())
        order = [np.concatenate(group) for group in rows.values()]
        return cls(
            [_gather(key, group) for key, group in cones.items()],
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


# There may be many cones of one size, and making one takes some 10 us.
@functools.lru_cache(maxsize=256)
def _second_order(dim: int) -> tuple[Any, AbstractCone]:
    # In one dimension it is the nonnegative ray.
    return ("rays", NonnegativeCone(1)) if dim == 1 else (dim, SecondOrderCone(dim))


@functools.lru_cache(maxsize=256)
def _psd(size: int, order: PSDOrder) -> tuple[Any, AbstractCone]:
    if size == 1:
        return "rays", NonnegativeCone(1)
    return ("psd", size), PSDCone(size, order)


def _gather(key: Any, group: list[AbstractCone]) -> AbstractCone:
    """One cone for a group of equal ones."""
    if key == "rays":
        return NonnegativeCone(sum(cone.dim for cone in group))
    if len(group) == 1:
        return group[0]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *group)
    return RepeatedCone(stacked, len(group))


_COUNTS = ("z", "l", "ep", "ed")
_LISTS = ("q", "s", "p")


def parse_dims(dims: Mapping[str, Any], psd_order: PSDOrder | None) -> dict[str, Any]:
    """Checks an SCS-style dictionary and fills in what it leaves out."""
    if not isinstance(dims, Mapping):
        raise TypeError(
            "cone_dims: expected a dictionary such as {'z': 1, 'l': 2}, got "
            f"{type(dims).__name__}"
        )
    dims = {key: value for key, value in dims.items() if not _is_none(value)}
    unknown = set(dims) - {*_COUNTS, *_LISTS, "f", "pnd"}
    if unknown:
        raise ValueError(
            f"cone_dims: unknown cone {sorted(unknown, key=str)}; known are z, l, q, s, "
            "ep, ed, p and pnd"
        )
    sizes: dict[str, Any] = {key: _size(key, dims.get(key, 0)) for key in _COUNTS}
    # SCS had this name for it before version 3, and CVXPY has it for other solvers.
    sizes["z"] += _size("f", dims.get("f", 0))
    for key in _LISTS:
        read = _exponent if key == "p" else _size
        sizes[key] = [read(key, entry) for entry in _entries(key, dims.get(key, ()))]
    # These rows follow those of p.
    sizes["p"] += [_pair(entry) for entry in _entries("pnd", dims.get("pnd", ()))]
    if psd_order not in (None, "lower", "upper"):
        raise ValueError(
            f"psd_order: expected 'lower' (SCS) or 'upper' (Clarabel), got {psd_order!r}"
        )
    if psd_order is None and max(sizes["s"], default=0) >= 3:
        raise ValueError(
            "psd_order: must be given for PSD cones of order 3 or more: 'lower' for "
            "data in SCS's order (lower triangle by columns), 'upper' for Clarabel's "
            "(upper triangle by columns). (In cvxpylayers the solver CUCLARABEL does not "
            "say; use solver=diffqcp.integrations.cvxpylayers.DiffQCP() there)"
        )
    return sizes


def _is_none(value: Any) -> bool:
    """Whether the value of a key stands for no cones."""
    if isinstance(value, (list, tuple)):
        return not value
    if isinstance(value, np.ndarray):
        return value.size == 0
    return value is None or (not isinstance(value, bool) and value == 0)


def _entries(key: str, value: Any) -> list[Any]:
    # (An array may be of no dimension.)
    if not isinstance(value, (list, tuple, np.ndarray)) or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"cone_dims[{key!r}]: expected a list, got {value!r}")
    return list(value)


def _number(key: str, value: Any, wanted: str) -> Any:
    if isinstance(value, (np.ndarray, jax.Array)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"cone_dims[{key!r}]: expected {wanted}, got {value!r}")
    return value


def _size(key: str, value: Any) -> int:
    number = value if type(value) is int else _number(key, value, "an integer")
    if not (math.isfinite(number) and int(number) == number):
        raise TypeError(f"cone_dims[{key!r}]: expected an integer, got {value!r}")
    if number < 0:
        raise ValueError(f"cone_dims[{key!r}]: sizes must not be negative, got {value}")
    return int(number)


def _exponent(key: str, value: Any) -> float:
    number = float(_number(key, value, "a number"))
    if not 0 < abs(number) < 1:
        raise ValueError(
            f"cone_dims[{key!r}]: exponents must lie in (-1, 0) or (0, 1), "
            f"negative for the dual cone, got {value!r}"
        )
    return number


def _pair(exponents: Any) -> float:
    """The exponent of the power cone with these two, which are all that it may have."""
    exponents = [_exponent("pnd", value) for value in _entries("pnd", exponents)]
    if len(exponents) != 2:
        raise ValueError(
            "cone_dims['pnd']: power cones of more than three dimensions are not "
            f"supported, got the {len(exponents)} exponents {exponents}; write them as "
            "cones of three dimensions, or, for a CVXPY problem, solve it with cp.SCS, "
            "for which CVXPY does that"
        )
    if min(exponents) < 0 or abs(sum(exponents) - 1) > 1e-9:
        raise ValueError(
            "cone_dims['pnd']: expected positive exponents with the sum 1, got "
            f"{exponents}"
        )
    return exponents[0]
