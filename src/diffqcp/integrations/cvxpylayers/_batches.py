"""Batches of many sizes, with few compiled programs."""

from typing import Any

import numpy as np


# How many full batches of padding a size may cost before it has programs of its own.
PATIENCE = 16
REMEMBERED = 8


class BatchSizes:
    """The sizes of batches that there are compiled programs for.

    A program is compiled for one size, and that takes seconds: as long as thousands of
    small problems. So the last, smaller batch of an epoch is filled up to a size that has
    come before. A size that is used so often that this would cost more than compiling is
    compiled after all.
    """

    def __init__(self):
        self._known: set[int] = set()
        self._padding = 0.0

    def fit(self, count: int) -> int:
        """The size to fill a batch of `count` problems up to."""
        size = min((known for known in self._known if known >= count), default=count)
        self._padding += 1 - count / size
        if self._padding > PATIENCE:
            size, self._padding = count, 0.0
        self._known.add(size)
        return size


def filled(array: Any, size: int) -> Any:
    """A batch with its last item repeated up to `size`, None for None."""
    if array is None or len(array) == size:
        return array
    array = np.asarray(array)
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def remember(recent: dict[Any, Any], key: Any, value: Any) -> None:
    """Sets an item of a dictionary, which forgets those that were set long ago."""
    recent.pop(key, None)
    recent[key] = value
    if len(recent) > REMEMBERED:
        del recent[next(iter(recent))]
