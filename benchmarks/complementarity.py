"""Complementarity without projections.

`s in K, y in K*, s'y = 0` as `m` smooth equations `C(s, y) = 0` with a nonsingular
Jacobian at solutions that are unique and strictly complementary:

- nonnegative: `s_i y_i = 0`; second-order and PSD: the Jordan product `s o y = 0`
  (Alizadeh, Haeberly and Overton, "Primal-dual interior-point methods for semidefinite
  programming", SIAM J. Optim. 8, 1998);
- exponential and power cones: `s = 0`, or `y = 0`, or, on the boundary, the equation of
  the boundary and the two that make `y` normal to it. Which one is read off `s`, `y`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp


Block = tuple[np.ndarray, sp.sparray, sp.sparray]


def conditions(
    dims: dict[str, Any], s: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, sp.csr_array, sp.csr_array]:
    """`C(s, y)` and its derivatives with respect to `s` and `y`."""
    blocks = []
    for kind, rows, parameter in layout(dims):
        blocks.append(_BLOCKS[kind](s[rows], y[rows], parameter))
    values, in_s, in_y = zip(*blocks, strict=True)
    return (
        np.concatenate(values),
        sp.block_diag(in_s, format="csr"),
        sp.block_diag(in_y, format="csr"),
    )


def margin(dims: dict[str, Any], s: np.ndarray, y: np.ndarray) -> float:
    """How far `s + y` is inside the symmetric cones, the smallest over all of them.

    Infinite without symmetric cones.
    """
    found = [np.inf]
    for kind, rows, parameter in layout(dims):
        total = s[rows] + y[rows]
        if kind == "l":
            found.append(total.min(initial=np.inf))
        elif kind == "q":
            heads, radii = _heads(total, parameter)
            found.append(np.min(heads - radii))
        elif kind == "s":
            found.append(np.linalg.eigvalsh(_unpack(total, parameter))[0])
    return float(min(found))


def layout(dims: dict[str, Any]) -> Iterator[tuple[str, slice, Any]]:
    """Kind, rows and parameter of the blocks. Like cones are together if they are small.

    The parameter is an array of dimensions for `q`, an order for `s`, an array of
    exponents for `p`.
    """
    soc = np.array(dims.get("q", []), int)
    powers = np.array(dims.get("p", []), float)
    sizes = [
        ("z", dims.get("z", 0), None),
        ("l", dims.get("l", 0), None),
        ("q", int(soc.sum()), soc),
        *(("s", k * (k + 1) // 2, k) for k in dims.get("s", [])),
        ("ep", 3 * dims.get("ep", 0), None),
        ("p", 3 * powers.size, powers),
    ]
    start = 0
    for kind, size, parameter in sizes:
        if size:
            yield kind, slice(start, start + size), parameter
        start += size


def _zero(s: np.ndarray, y: np.ndarray, _: None) -> Block:
    return s, sp.eye_array(s.size), sp.csr_array((s.size, s.size))


def _nonnegative(s: np.ndarray, y: np.ndarray, _: None) -> Block:
    return s * y, sp.diags_array(y), sp.diags_array(s)


def _second_order(s: np.ndarray, y: np.ndarray, dims: np.ndarray) -> Block:
    in_s, in_y = _arrow(y, dims), _arrow(s, dims)
    return in_y @ y, in_s, in_y


def _arrow(vector: np.ndarray, dims: np.ndarray) -> sp.csr_array:
    """Of the product `(s'y, s_0 y_1 + y_0 s_1)` of each cone, the matrix of `s`."""
    starts = np.cumsum(dims) - dims
    head = np.repeat(starts, dims)
    own = np.arange(vector.size)
    tail = own != head
    rows = np.concatenate([own, head[tail], own[tail]])
    cols = np.concatenate([own, own[tail], head[tail]])
    values = np.concatenate([vector[head], vector[tail], vector[tail]])
    return sp.csr_array((values, (rows, cols)), shape=(vector.size, vector.size))


def _heads(vector: np.ndarray, dims: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first entry of each second-order cone and the norm of the others."""
    starts = np.cumsum(dims) - dims
    squares = np.add.reduceat(vector**2, starts) - vector[starts] ** 2
    return vector[starts], np.sqrt(np.maximum(squares, 0))


def _psd(s: np.ndarray, y: np.ndarray, size: int) -> Block:
    S, Y = _unpack(s, size), _unpack(y, size)
    product = (S @ Y + Y @ S) / 2
    return _pack_matrix(size) @ product.ravel(), _lyapunov(Y, size), _lyapunov(S, size)


def _lyapunov(matrix: np.ndarray, size: int) -> sp.csr_array:
    """`V -> (M V + V M) / 2` on packed triangles."""
    pack = _pack_matrix(size)
    left = sp.kron(sp.csr_array(matrix), sp.eye_array(size))
    right = sp.kron(sp.eye_array(size), sp.csr_array(matrix))
    return sp.csr_array(pack @ ((left + right) / 2) @ pack.T)


def _pack_matrix(size: int) -> sp.csr_array:
    """From all entries of a symmetric matrix to its scaled upper triangle."""
    cols, rows = np.tril_indices(size)
    index = np.arange(rows.size)
    half = np.where(rows == cols, 0.5, np.sqrt(np.longdouble(0.5)))
    return sp.csr_array(
        (
            np.concatenate([half, half]),
            (
                np.concatenate([index, index]),
                np.concatenate([rows * size + cols, cols * size + rows]),
            ),
        ),
        shape=(rows.size, size * size),
    )


def _unpack(vector: np.ndarray, size: int) -> np.ndarray:
    cols, rows = np.tril_indices(size)
    scale = np.where(rows == cols, 1, np.sqrt(np.longdouble(0.5))).astype(vector.dtype)
    matrix = np.zeros((size, size), vector.dtype)
    matrix[rows, cols] = matrix[cols, rows] = vector * scale
    return matrix


def _exponential(s: np.ndarray, y: np.ndarray, _: None) -> Block:
    """`log(s2 / s1) = r`, `y0 + y2 e^r = 0`, `y1 + (1 - r) y2 e^r = 0`, `r = s0 / s1`."""
    (s0, s1, s2), (y0, y1, y2) = s.reshape(-1, 3).T, y.reshape(-1, 3).T
    on, safe = _faces(s, y)
    s1, s2 = np.where(on, s1, safe), np.where(on, s2, safe)
    r = s0 / s1
    growth = np.exp(r)
    values = np.stack(
        [np.log(s2 / s1) - r, y0 + y2 * growth, y1 + (1 - r) * y2 * growth], axis=1
    )
    one, zero = np.ones_like(s0), np.zeros_like(s0)
    pull = y2 * growth
    in_r = np.stack([-one, pull, -r * pull], axis=1)
    in_s = in_r[:, :, None] * np.stack([1 / s1, -r / s1, zero], axis=1)[:, None, :]
    in_s[:, 0, 1] -= 1 / s1
    in_s[:, 0, 2] += 1 / s2
    in_y = np.zeros_like(in_s)
    in_y[:, 1, 0] = in_y[:, 2, 1] = one
    in_y[:, 1, 2], in_y[:, 2, 2] = growth, (1 - r) * growth
    return _with_faces(s, y, on, values, in_s, in_y)


def _power(s: np.ndarray, y: np.ndarray, alphas: np.ndarray) -> Block:
    """`a log s0 + (1 - a) log s1 = log |s2|`, `y0 s0 + a y2 s2 = 0`,
    `y1 s1 + (1 - a) y2 s2 = 0`.
    """
    (s0, s1, s2), (y0, y1, y2) = s.reshape(-1, 3).T, y.reshape(-1, 3).T
    on, safe = _faces(s, y)
    s0, s1, s2 = (np.where(on, part, safe) for part in (s0, s1, s2))
    a, c = alphas, 1 - alphas
    values = np.stack(
        [
            a * np.log(s0) + c * np.log(s1) - np.log(abs(s2)),
            y0 * s0 + a * y2 * s2,
            y1 * s1 + c * y2 * s2,
        ],
        axis=1,
    )
    in_s, in_y = np.zeros((2, a.size, 3, 3), s.dtype)
    in_s[:, 0] = np.stack([a / s0, c / s1, -1 / s2], axis=1)
    in_s[:, 1, 0], in_s[:, 1, 2] = y0, a * y2
    in_s[:, 2, 1], in_s[:, 2, 2] = y1, c * y2
    in_y[:, 1, 0], in_y[:, 1, 2] = s0, a * s2
    in_y[:, 2, 1], in_y[:, 2, 2] = s1, c * s2
    return _with_faces(s, y, on, values, in_s, in_y)


def _faces(s: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Which cones of dimension 3 have neither `s = 0` nor `y = 0`."""
    sizes = [np.linalg.norm(part.reshape(-1, 3).astype(float), axis=1) for part in (s, y)]
    return np.minimum(*sizes) > 1e-3 * np.maximum(*sizes), 1.0


def _with_faces(
    s: np.ndarray,
    y: np.ndarray,
    on: np.ndarray,
    values: np.ndarray,
    in_s: np.ndarray,
    in_y: np.ndarray,
) -> Block:
    """Replaces the equations by `s = 0` or `y = 0` off the boundary."""
    sizes = [np.linalg.norm(part.reshape(-1, 3).astype(float), axis=1) for part in (s, y)]
    apex, inside = ~on & (sizes[0] < sizes[1]), ~on & (sizes[0] >= sizes[1])
    values[apex], values[inside] = s.reshape(-1, 3)[apex], y.reshape(-1, 3)[inside]
    in_s[apex], in_s[inside] = np.eye(3), 0
    in_y[apex], in_y[inside] = 0, np.eye(3)
    return values.ravel(), _blocks(in_s), _blocks(in_y)


def _blocks(dense: np.ndarray) -> sp.bsr_array:
    count = dense.shape[0]
    return sp.bsr_array((dense, np.arange(count), np.arange(count + 1)))


_BLOCKS = {
    "z": _zero,
    "l": _nonnegative,
    "q": _second_order,
    "s": _psd,
    "ep": _exponential,
    "p": _power,
}
