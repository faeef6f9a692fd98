"""The dictionary that says which cones there are.

`KINDS` has every key, in the order of rows. Checking a dictionary, making its cones,
gathering equal ones and the sizes of a structure follow from it, so a cone is added by
one entry.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import jax
import numpy as np

from ._base import AbstractCone
from .exponential import ExponentialCone
from .nonneg import NonnegativeCone
from .power import PowerCone
from .psd import PSDCone, PSDOrder
from .soc import SecondOrderCone
from .zero import ZeroCone


class Kind(NamedTuple):
    """What a key of the dictionary stands for.

    - `read`: the value of the key, checked, from the key and the value in a dictionary.
    - `none`: the value of a key that is not there.
    - `cones`: the cones that a checked value describes, with the order of PSD matrices.
        One of dimension zero is none.
    """

    read: Callable[[str, Any], Any]
    none: Any
    cones: Callable[[Any, PSDOrder], Sequence[AbstractCone]]


def rows(cone: Callable[[int], AbstractCone]) -> Kind:
    """The value is the number of rows of one cone."""
    return Kind(_size, 0, lambda size, _: [cone(size)])


def copies(cone: AbstractCone) -> Kind:
    """The value is the number of cones, which are all the same."""
    return Kind(_size, 0, lambda count, _: [cone] * count)


def listed(
    cone: Callable[[Any], AbstractCone], read: Callable[[str, Any], Any] | None = None
) -> Kind:
    """The value is a list with an entry for each cone, from which `cone` makes it.

    **Arguments:**

    - `read`: checks an entry, of which it gets the key too; sizes, if it is None.
    """

    def read_all(key: str, value: Any) -> list[Any]:
        return [(read or _size)(key, entry) for entry in _entries(key, value)]

    return Kind(read_all, (), lambda entries, _: [cone(entry) for entry in entries])


# There may be many cones of one size, and making one takes some 10 us.
@functools.lru_cache(maxsize=256)
def _second_order(size: int) -> AbstractCone:
    # In one dimension it is the nonnegative ray.
    return SecondOrderCone(size) if size > 1 else NonnegativeCone(size)


@functools.lru_cache(maxsize=256)
def _psd(size: int, order: PSDOrder) -> AbstractCone:
    return PSDCone(size, order) if size > 1 else NonnegativeCone(size)


def _power(alpha: float) -> AbstractCone:
    cone = PowerCone(abs(alpha))
    return cone if alpha > 0 else cone.dual()


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


# The rows of the first two come first: much else is told from where they end.
KINDS: dict[str, Kind] = {
    "z": rows(ZeroCone),
    "l": rows(NonnegativeCone),
    "q": listed(_second_order),
    "s": listed(_psd)._replace(
        cones=lambda sizes, order: [_psd(size, order) for size in sizes]
    ),
    "ep": copies(ExponentialCone()),
    "ed": copies(ExponentialCone().dual()),
    "p": listed(_power, _exponent),
}


def parse_dims(dims: Mapping[str, Any], psd_order: PSDOrder | None) -> dict[str, Any]:
    """Checks an SCS-style dictionary and fills in what it leaves out."""
    if not isinstance(dims, Mapping):
        raise TypeError(
            "cone_dims: expected a dictionary such as {'z': 1, 'l': 2}, got "
            f"{type(dims).__name__}"
        )
    dims = {key: value for key, value in dims.items() if not _is_none(value)}
    unknown = set(dims) - {*KINDS, "f", "pnd"}
    if unknown:
        raise ValueError(
            f"cone_dims: unknown cone {sorted(unknown, key=str)}; known are "
            f"{', '.join(KINDS)} and pnd"
        )
    sizes = {key: kind.read(key, dims.get(key, kind.none)) for key, kind in KINDS.items()}
    # SCS had this name for it before version 3, and CVXPY has it for other solvers.
    sizes["z"] += _size("f", dims.get("f", 0))
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


def cones_of(
    sizes: Mapping[str, Any], psd_order: PSDOrder | None
) -> Iterator[tuple[str, AbstractCone]]:
    """The cones of a checked dictionary with their keys, in the order of rows; those
    without rows are left out.
    """
    for key, kind in KINDS.items():
        for cone in kind.cones(sizes[key], psd_order or "lower"):
            if cone.dim:
                yield key, cone


def beyond(sizes: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """The keys of a checked dictionary that have cones, other than these."""
    return [key for key in KINDS if sizes[key] and key not in keys]


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
