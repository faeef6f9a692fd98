from typing import Any

import numpy as np


class StaticArray:
    """A read-only NumPy array that hashes and compares by value.

    Index patterns are compile-time constants. Static fields of an `equinox.Module`
    must be hashable, which NumPy arrays are not; this makes them so, and hashes each
    array once.
    """

    __slots__ = ("_hash", "value")

    def __init__(self, value: Any):
        value = np.array(value)
        value.flags.writeable = False
        self.value = value
        self._hash = hash((value.shape, value.dtype.str, value.tobytes()))

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
