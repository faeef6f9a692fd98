from numbers import Integral, Real
from typing import Any


def check_fraction(owner: object, name: str, *, positive: bool) -> None:
    """Checks that an option is None or a number from 0 to 1.

    **Arguments:**

    - `owner`, `name`: whose option it is, and what it is called.
    - `positive`: whether zero is refused, too.

    **Raises:** `ValueError` if it is not.
    """
    value = getattr(owner, name)
    if value is None or (_in_unit_interval(value) and (value > 0 or not positive)):
        return
    least = "greater than 0" if positive else "at least 0"
    _refuse(owner, name, f"a number {least} and at most 1", value)


def check_count(owner: object, name: str) -> None:
    """Checks that an option is None or an integer that is at least one.

    **Arguments:**

    - `owner`, `name`: whose option it is, and what it is called.

    **Raises:** `ValueError` if it is not.
    """
    value = getattr(owner, name)
    integer = isinstance(value, Integral) and not isinstance(value, bool)
    if value is not None and not (integer and int(value) >= 1):
        _refuse(owner, name, "an integer that is at least 1", value)


def _in_unit_interval(value: Any) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and 0 <= float(value) <= 1  # not NaN


def _refuse(owner: object, name: str, expected: str, value: Any) -> None:
    raise ValueError(
        f"{name}: expected {expected} for {type(owner).__name__}, got {value!r}"
    )
