"""Infeasible problems whose smallest shift is known, since they are made around it.

With `t = Pi_K*(v)`, `s = t - v` and a `B` made orthogonal to `t`, the rows
`B x + s = B x0 + s - t` have the smallest shift `t`: `B't = 0`, `t` is in `K*` and `s` in
`K`, and `t's = 0`. They are on the first variables only, fewer than there are rows, so
that a change of the entries cannot make them feasible.
"""

from typing import Any

import numpy as np

from .reference import Problem, project_dual


def _rows(dims: dict[str, Any]):
    """`(key, size, rows)` of each cone."""
    start = 0

    def take(count):
        nonlocal start
        start += count
        return np.arange(start - count, start)

    for key in ("z", "l"):
        if dims.get(key):
            yield key, dims[key], take(dims[key])
    for key in ("q", "s"):
        for size in dims.get(key, []):
            yield key, size, take(size if key == "q" else size * (size + 1) // 2)
    for key in ("ep", "ed"):
        for _ in range(dims.get(key, 0)):
            yield key, 1, take(3)
    for alpha in dims.get("p", []):
        yield "p", alpha, take(3)


def _size(dims: dict[str, Any]) -> int:
    return sum(rows.size for _, _, rows in _rows(dims))


def _inside(dims: dict[str, Any]) -> np.ndarray:
    """A point inside of a cone, zero for equations."""
    point = np.zeros(_size(dims))
    for key, size, rows in _rows(dims):
        if key == "s":
            diagonal = [i == j for j in range(size) for i in range(j + 1)]
            point[rows] = np.array(diagonal, float)
        else:
            part = {"z": 0.0, "l": 1.0, "q": np.eye(1, rows.size).ravel()}
            small = np.array([-1.0, 1.0, 1.0]) if key[0] == "e" else np.array([1, 1, 0])
            point[rows] = part.get(key, small)
    return point


def _close_to_flat(dims: dict[str, Any], t: np.ndarray) -> bool:
    """Whether `t` is next to a flat part of an exponential cone: which face it exposes is
    then a matter of rounding errors.
    """
    blocks = [t[rows] for key, _, rows in _rows(dims) if key[0] == "e"]
    return any(
        np.any((part != 0) & (abs(part) < 0.01 * abs(part).max())) for part in blocks
    )


def _determines(dims: dict[str, Any], v: np.ndarray, B: np.ndarray) -> bool:
    """Whether all variables change the projection of `v + B x`. If not, a change of the
    data can move them far away, until other constraints are violated.
    """
    small = 1e-6
    moved = [
        project_dual(dims, v + small * column, "upper")
        - project_dual(dims, v - small * column, "upper")
        for column in B.T
    ]
    sizes = np.linalg.svd(np.array(moved) / (2 * small), compute_uv=False)
    return bool(sizes[-1] > 0.01)


def infeasible_problem(
    core: dict[str, Any], rest: dict[str, Any], few: int, n: int, seed: int
) -> tuple[Problem, np.ndarray]:
    """A problem with the cones `core`, which contradict each other on `few` variables,
    and `rest`, which could be satisfied, on all `n`; and the smallest shift.
    """
    rng = np.random.default_rng(seed)
    while True:
        v = rng.normal(size=_size(core))
        t = project_dual(core, v, "upper")
        if not t.any():  # no contradiction
            continue
        B = rng.normal(size=(v.size, few))
        B -= np.outer(t, t @ B) / (t @ t)
        if not _close_to_flat(core, t) and _determines(core, v, B):
            break
    x = rng.normal(size=n)
    E = rng.normal(size=(_size(rest), n)) * (rng.random((_size(rest), n)) < 0.6)
    parts = {
        "core": (np.hstack([B, np.zeros((v.size, n - few))]), B @ x[:few] - v, t),
        "rest": (E, E @ x + _inside(rest), np.zeros(_size(rest))),
    }
    dims: dict[str, Any] = {"z": 0, "l": 0, "q": [], "s": [], "ep": 0, "ed": 0, "p": []}
    blocks = []
    for wanted in dims:
        for name, own in (("core", core), ("rest", rest)):
            for key, size, rows in _rows(own):
                if key == wanted:
                    blocks.append([part[rows] for part in parts[name]])
                    many = isinstance(dims[key], list)
                    dims[key] = dims[key] + ([size] if many else size)
    A, b, shift = (np.concatenate(part) for part in zip(*blocks, strict=True))
    root = rng.normal(size=(n, n)) / np.sqrt(n)
    P, q = root @ root.T + 0.3 * np.eye(n), rng.normal(size=n)
    return Problem(P, A, q, b, dims, "upper"), shift
