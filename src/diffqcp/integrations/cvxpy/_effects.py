"""Tables and plots of derivatives with respect to many numbers."""

import abc
import html
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np


Key = TypeVar("Key")


class Effect(NamedTuple):
    """What one number does.

    **Attributes:**

    - `name`: of the number.
    - `value`: the number.
    - `slope`: the derivative with respect to it.
    - `reach`: how far it may go down, as a negative number, and up, with the same
        constraints active; None if the constraints are not linear.
    """

    name: str
    value: Any
    slope: Any
    reach: tuple[float, float] | None


class AbstractEffects(Mapping[Key, np.ndarray], abc.ABC):
    """Derivatives by key, each an array; as a string, a table with a line for each entry
    of each, or for the largest ones if there are many. Notebooks show it as HTML.
    """

    _HEADER: tuple[str, str, str]  # of names, values and derivatives
    _SHOWN = 10

    def __init__(self, derivatives: Mapping[Key, np.ndarray]):
        self._derivatives = dict(derivatives)
        self._known: dict[tuple[Key, tuple[int, ...]], tuple[float, float] | None] = {}

    def __getitem__(self, key: Key) -> np.ndarray:
        return self._derivatives[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._derivatives)

    def __len__(self) -> int:
        return len(self._derivatives)

    @abc.abstractmethod
    def _name(self, key: Key) -> str:
        """What the table calls it."""

    @abc.abstractmethod
    def _values(self, key: Key) -> np.ndarray:
        """The numbers, as the table shows them."""

    @abc.abstractmethod
    def _origin(self, key: Key) -> np.ndarray:
        """What ranges are counted from."""

    @abc.abstractmethod
    def _reach(self, key: Key, index: tuple[int, ...]) -> tuple[float, float] | None:
        """Of `Effect`; asked once."""

    def range(self, key: Key) -> tuple[np.ndarray, np.ndarray]:
        """How far each number may move, while all others stay as they are, until other
        constraints become active. Within this range the solution is a smooth function of
        the number; at the ends it has a kink.

        If the number is in `q` or `b` of the conic form (that is, variables are
        multiplied by it neither in the constraints nor in squares), the solution is
        linear within the range, and the ends are exact. Otherwise the solution is curved,
        and is followed in steps.

        **Returns:**

        The lowest and the highest values, arrays of the shape of the derivative. NaN
        where they are not known: with more than 500 equations for a number in `P` or `A`,
        for complex numbers, and where the multipliers are not unique.

        **Raises:** `ValueError` if not all constraints are linear, or if the problem is a
        geometric program.
        """
        shape = self._derivatives[key].shape
        origin, ends = self._origin(key), np.zeros((2, *shape))
        for index in np.ndindex(shape):
            found = self._known_reach(key, index)
            if found is None:
                raise ValueError(
                    "problem: expected one with linear constraints only, and no "
                    "geometric program; ranges of others are not known"
                )
            ends[(slice(None), *index)] = np.asarray(found) + np.real(origin[index])
        return ends[0], ends[1]

    def _known_reach(
        self, key: Key, index: tuple[int, ...]
    ) -> tuple[float, float] | None:
        if (key, index) not in self._known:
            self._known[key, index] = self._reach(key, index)
        return self._known[key, index]

    def _effect(self, key: Key, index: tuple[int, ...]) -> Effect:
        name = self._name(key) + (str(list(index)) if index else "")
        value, slope = self._values(key)[index], self._derivatives[key][index]
        return Effect(name, value, slope, self._known_reach(key, index))

    def _largest(self, key: Key) -> list[tuple[int, ...]]:
        """The places of the largest derivatives, in their order in the array."""
        slopes = self._derivatives[key]
        order = np.argsort(-np.abs(slopes), axis=None, kind="stable")
        places = list(np.ndindex(slopes.shape))
        return [places[flat] for flat in np.sort(order[: self._SHOWN])]

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """The header and the rows; a row of one cell stands for those left out."""
        rows, ranged = [], False
        all_slopes = [np.abs(slopes).max(initial=0) for slopes in self.values()]
        rounding = 1e-13 * max(all_slopes, default=0)
        for key, slopes in self._derivatives.items():
            for index in self._largest(key):
                name, value, slope, reach = self._effect(key, index)
                slope = 0 if abs(slope) <= rounding else slope
                row = [name, f"{value:.6g}", f"{slope:.6g}"]
                if reach is not None:
                    ranged, origin = True, self._origin(key)[index].real
                    row += [f"{origin + end:.6g}" for end in reach]
                rows.append(row)
            if slopes.size > self._SHOWN:
                rows.append([f"{self._name(key)}: {slopes.size - self._SHOWN} smaller"])
        return [*self._HEADER, *(("from", "to") if ranged else ())], rows

    def __str__(self) -> str:
        header, rows = self._table()
        lines = [line + [""] * (len(header) - len(line)) for line in (header, *rows)]
        widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
        return "\n".join(
            "  ".join(
                [line[0].ljust(widths[0])]
                + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
            ).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        header, rows = self._table()

        def row(cells: list[str], tag: str) -> str:
            right = ' style="text-align: right"'
            marked = [
                f"<{tag}{right if k else ''}>{html.escape(cell)}</{tag}>"
                for k, cell in enumerate(cells + [""] * (len(header) - len(cells)))
            ]
            return f"<tr>{''.join(marked)}</tr>"

        body = "".join(row(cells, "td") for cells in rows)
        return f"<table><thead>{row(header, 'th')}</thead><tbody>{body}</tbody></table>"

    def plot(
        self, largest: int = 10, *, relative: float | None = None, axes: Any = None
    ) -> Any:
        """A tornado plot: a bar for each number shows what happens if this number alone
        changes, with the largest effect on top.

        A bar is pale where the number has left the range in which the derivative holds.
        Needs matplotlib: the extra `plot`.

        **Arguments:**

        - `largest`: how many bars.
        - `relative`: each number changes by this fraction of its value, up and down, for
            example 0.1; by one if None.
        - `axes`: of matplotlib; new ones if None.

        **Returns:** the axes.

        **Raises:** `ValueError` if `largest` is not positive or `relative` is not, and
        `ModuleNotFoundError` without matplotlib.
        """
        if largest < 1:
            raise ValueError(f"largest: expected at least 1, got {largest}")
        if relative is not None and not relative > 0:
            raise ValueError(f"relative: expected a positive number, got {relative}")
        from ._tornado import tornado

        places: list[tuple[float, Key, tuple[int, ...]]] = []
        for key, slopes in self._derivatives.items():
            steps = 1.0 if relative is None else relative * self._values(key)
            sizes = np.abs(slopes * steps)
            places += [(float(sizes[k]), key, k) for k in np.ndindex(slopes.shape)]
        places.sort(key=lambda place: -place[0])
        effects = [self._effect(key, index) for _, key, index in places[:largest]]
        return tornado(effects, self._HEADER[2], relative, axes)
