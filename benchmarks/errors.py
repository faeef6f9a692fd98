"""Relative errors of gradients and of tangents."""

from collections.abc import Mapping, Sequence

import numpy as np


def worst(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """The largest relative error among the parts, in the 2-norm.

    A part that is (nearly) zero is measured against all of them. Infinite where
    something is not finite.
    """
    return max(_relative(got, want))


def by_part(
    got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The error of each part of a gradient that is given, and the worst of `q` and `b`.

    A part that is (nearly) zero is measured against `q` and `b` together.
    """
    vectors = ("q", "b")
    errors = dict(zip(vectors, _relative(*_parts(vectors, got, want)), strict=True))
    for name in set(got) - set(vectors):
        errors[name] = _relative(*_parts((name, *vectors), got, want))[0]
    return {"qb": max(errors["q"], errors["b"]), **errors}


def _parts(
    names: Sequence[str], got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [got[name] for name in names], [want[name] for name in names]


def _relative(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> list[float]:
    total = np.linalg.norm(np.concatenate(want))
    found = []
    for a, b in zip(map(np.asarray, got), want, strict=True):
        size = np.linalg.norm(b)
        error = np.linalg.norm(a - b) / (size if size > 1e-9 * total else total)
        found.append(float(error) if np.isfinite(error) else float("inf"))
    return found
