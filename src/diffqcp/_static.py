from typing import Any

import numpy as np


def as_indices(name: str, values: Any) -> np.ndarray:
    """Indices in 32 bits, as JAX and the factorisations take them.

    JAX narrows integers of 64 bits unless it is set to float64, and keeps what it has
    made of an array for as long as the array lives. So a 64-bit array that outlives a
    change of that setting is of the one type in some places of a program and of the other
    in the rest. One of 32 bits is the same in both.

    **Arguments:**

    - `name`: what they are called in an error.
    - `values`: integers.

    **Raises:** `TypeError` for anything but integers, `ValueError` for those that do not
    fit into 32 bits.
    """
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.dtype != np.int32 and array.size:
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(
                f"{name}: expected integers of 32 bits, got {array.min()} to "
                f"{array.max()}"
            )
    return array.astype(np.int32)


class StaticArray:
    """A read-only NumPy array that hashes and compares by value; integers have 32 bits.

    Index patterns are compile-time constants. Static fields of an `equinox.Module`
    must be hashable, which NumPy arrays are not; this makes them so, and hashes each
    array once.
    """

    __slots__ = ("_hash", "value")

    def __init__(self, value: Any):
        value = np.array(value)
        if np.issubdtype(value.dtype, np.integer):
            value = as_indices("value", value)
        value.flags.writeable = False
        self.value = value
        self._hash = hash((value.shape, value.dtype.str, value.tobytes()))

    def __reduce__(self) -> tuple[Any, ...]:
        # Hashes of bytes differ from one process to the next.
        return StaticArray, (self.value,)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, StaticArray)
            and self._hash == other._hash
            and np.array_equal(self.value, other.value)
        )

    def __repr__(self) -> str:
        return f"StaticArray(shape={self.value.shape}, dtype={self.value.dtype})"
