"""Problems with second-order, PSD, exponential and power cones.

But for the logistic regression, which has a unique solution by itself, all are made
around a solution that is strictly complementary and not degenerate.
"""

import numpy as np
import scipy.sparse as sp

from ._problem import around, canonical, Problem


def socp_many(order: int, seed: int = 0) -> Problem:
    """Many second-order cones of dimension 4, their rows local on a line.

    In a third of them each the slack is inside the cone, on its boundary, and zero.
    """
    rng = np.random.default_rng(seed)
    cones = order // 8
    n = 4 * cones
    s, y = zip(*(_soc_pair(rng, 4, rng.integers(3)) for _ in range(cones)), strict=True)
    A = _local(rng, n, n, reach=8)
    P = sp.diags_array(rng.uniform(0.1, 1, n))
    x = rng.normal(size=n)
    return around(P, A, {"q": [4] * cones}, x, np.concatenate(y), np.concatenate(s))


def socp_large(order: int, seed: int = 0) -> Problem:
    """Four large second-order cones with sparse rows, each active on its boundary."""
    rng = np.random.default_rng(seed)
    dim = order // 8
    n = 4 * dim
    s, y = zip(*(_soc_pair(rng, dim, 1) for _ in range(4)), strict=True)
    A = _local(rng, n, n, reach=8)
    P = sp.diags_array(rng.uniform(0.1, 1, n))
    x = rng.normal(size=n)
    return around(P, A, {"q": [dim] * 4}, x, np.concatenate(y), np.concatenate(s))


def sdp(size: int, seed: int = 0) -> Problem:
    """The correlation matrix nearest to a given one, of rank `size / 2`."""
    rng = np.random.default_rng(seed)
    rank = size // 2
    factor = rng.normal(size=(size, rank))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    basis = np.linalg.qr(factor, mode="complete")[0][:, rank:]
    slack = factor @ factor.T
    dual = (basis * rng.uniform(0.5, 1.5, size - rank)) @ basis.T
    cols, rows = np.tril_indices(size)
    scale = np.where(rows == cols, 1, np.sqrt(2))
    dim = rows.size
    diagonal = sp.eye_array(dim).tocsr()[rows == cols]
    A = sp.vstack([diagonal, -sp.eye_array(dim)])
    x = slack[rows, cols] * scale
    y = np.concatenate([rng.normal(size=size), dual[rows, cols] * scale])
    s = np.concatenate([np.zeros(size), x])
    return around(sp.eye_array(dim), A, {"z": size, "s": [size]}, x, y, s)


def logistic(order: int, seed: int = 0) -> Problem:
    """Logistic regression with a ridge: variables `(w, t, u, v)`.

    `t >= log(1 + exp(-label Z w))` is `u + v <= 1` with `u >= exp(-label Z w - t)` and
    `v >= exp(-t)`: two exponential cones for each sample.
    """
    rng = np.random.default_rng(seed)
    samples = order // 10
    features = max(2, min(samples // 5, 50))
    Z = rng.normal(size=(samples, features)) / np.sqrt(features)
    labels = np.sign(Z @ rng.normal(size=features) + 0.5 * rng.normal(size=samples))
    margin = sp.csr_array(-labels[:, None] * Z)
    eye, one = sp.eye_array(samples), np.ones(samples)
    none = sp.csr_array((samples, samples))
    no_w = sp.csr_array((samples, features))
    bound = sp.hstack([no_w, none, eye, eye])
    # s = b - A (w, t, u, v) is (margin w - t, 1, u) and (-t, 1, v), a row each.
    blocks = [
        [-margin, eye, none, none],
        [no_w, none, none, none],
        [no_w, none, -eye, none],
        [no_w, eye, none, none],
        [no_w, none, none, none],
        [no_w, none, none, -eye],
    ]
    stacked = sp.vstack([sp.hstack(row) for row in blocks]).tocsr()
    interleaved = np.arange(6 * samples).reshape(6, samples).T.ravel()
    A = sp.vstack([bound, stacked[interleaved]])
    b = np.concatenate([one, np.tile([0.0, 1.0, 0.0], 2 * samples)])
    q = np.concatenate([np.zeros(features), one / samples, np.zeros(2 * samples)])
    ridge = np.repeat([0.1 / features, 0.0], [features, 3 * samples])
    dims = {"l": samples, "ep": 2 * samples}
    return Problem(canonical(sp.diags_array(ridge)), q, canonical(A), b, dims)


def power(order: int, seed: int = 0) -> Problem:
    """Power cones with exponents between 0.2 and 0.8, their rows local on a line.

    In two thirds of them the slack is on the boundary, in the others inside.
    """
    rng = np.random.default_rng(seed)
    cones = order // 6
    alphas = rng.uniform(0.2, 0.8, cones).round(3)
    base = rng.uniform(0.5, 2, size=(2, cones))
    side = np.where(rng.random(cones) < 0.5, -1.0, 1.0)
    height = base[0] ** alphas * base[1] ** (1 - alphas)
    inside = rng.random(cones) < 1 / 3
    s = np.stack([*base, np.where(inside, 0.3, 1) * side * height], axis=1)
    # The normal at the boundary, times a multiplier.
    normal = [alphas * height / base[0], (1 - alphas) * height / base[1], -side]
    y = np.stack(normal, axis=1) * rng.uniform(0.5, 1.5, size=(cones, 1))
    y[inside] = 0
    n = 3 * cones
    A = _local(rng, n, n, reach=6)
    P = sp.diags_array(rng.uniform(0.1, 1, n))
    dims = {"p": [float(alpha) for alpha in alphas]}
    return around(P, A, dims, rng.normal(size=n), y.ravel(), s.ravel())


def _local(rng: np.random.Generator, m: int, n: int, reach: int) -> sp.sparray:
    """The identity plus two random entries in each row, at most `reach` off it."""
    near = np.arange(m)[:, None] * n // m + rng.integers(-reach, reach + 1, (m, 2))
    values = rng.normal(size=(m, 2)) / 3
    index = np.repeat(np.arange(m), 2), np.clip(near, 0, n - 1).ravel()
    return sp.eye_array(m, n) + sp.csc_array((values.ravel(), index), (m, n))


def _soc_pair(
    rng: np.random.Generator, dim: int, kind: int
) -> tuple[np.ndarray, np.ndarray]:
    """A slack and a dual: `kind` is 0 inside, 1 on the boundary, 2 at the apex."""
    direction = rng.normal(size=dim - 1)
    direction /= np.linalg.norm(direction)
    sizes = rng.uniform(0.5, 1.5, size=2)
    if kind == 1:
        s = sizes[0] * np.concatenate([[1.0], direction])
        return s, sizes[1] * np.concatenate([[1.0], -direction])
    inside = sizes[0] * np.concatenate([[1.0], 0.5 * direction])
    zero = np.zeros(dim)
    return (inside, zero) if kind == 0 else (zero, inside)
