"""Elastic problems: slacks with a linear penalty.

    minimise 1/2 x'Px + q'x + gamma 1'z
    subject to A x + s = b + E z,  s in K,  z >= 0,

with one slack `z_k` for each nonnegative row and for each other cone, in the direction
of a point inside of it, and two for each equation, one for each sign. There is a
feasible point whatever the data, and the multipliers are bounded: `e'y <= gamma` for
each direction `e`, and `|y| <= gamma` for equations. If the problem itself has a solution
whose multipliers satisfy these bounds strictly, `z = 0`, and that is the solution. (Tracy
and Manchester, "On the differentiability of the primal-dual interior-point method", 2024,
for QPs.)

It is a QCP in `(x, z)`, whose rows `z >= 0` come behind the nonnegative ones.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Float

from ._arrays import as_jax
from ._closest import interior
from .derivative import Data, Solution
from .sparsity import flat_places
from .structure import AbstractQCPStructure, QCPStructureCPU


class Elastic:
    """A structure, and that of its elastic problems.

    **Attributes:**

    - `structure`: of the elastic problem.
    """

    structure: QCPStructureCPU

    def __init__(self, structure: AbstractQCPStructure):
        dims, n, m = structure.dims, structure.n, structure.m
        zeros, straight = dims["z"], dims["z"] + dims["l"]
        lengths = np.array(structure.curved_sizes, int)
        # The slack of each row, and its direction.
        count = zeros + straight + lengths.size
        cone = zeros + straight + np.repeat(np.arange(lengths.size), lengths)
        rows = np.concatenate([np.arange(zeros), np.arange(m)])
        slacks = np.concatenate([np.arange(zeros + straight), cone])
        inside = interior(structure)
        inside[:zeros] = -1.0
        values = np.concatenate([np.ones(zeros), inside])
        kept = values != 0
        self._slacks = rows[kept], slacks[kept], values[kept]
        own = np.arange(m)
        self._rows = np.where(own < straight, own, own + count)
        self._new = straight + np.arange(count)
        self.n, self.m, self.count = n, m, count
        A = structure.A_pattern
        A_rows = np.concatenate([self._rows[A.rows], self._rows[rows[kept]], self._new])
        A_cols = np.concatenate([A.cols, n + slacks[kept], n + np.arange(count)])
        P = structure.P_pattern
        i, j = np.minimum(P.rows, P.cols), np.maximum(P.rows, P.cols)
        places, self._P_places = np.unique(flat_places(i, j, n), return_inverse=True)
        self._P_weights = np.where(i == j, 1.0, structure.P_weights / 2)
        self._P_size = places.size
        order = structure.psd_order
        self.structure = QCPStructureCPU(
            _pattern(*np.divmod(places, n), (n + count,) * 2),
            _pattern(A_rows, A_cols, (m + count, n + count)),
            dims | {"l": dims["l"] + count},
            psd_order=order,
        )

    def data(
        self, data: Data, gamma: Float[Array, ""]
    ) -> tuple[Array, Array, Array, Array]:
        """The data of the elastic problem."""
        P, A, q, b = data
        _, _, values = self._slacks
        weights = jnp.asarray(self._P_weights, P.dtype)
        upper = jnp.zeros(self._P_size, P.dtype).at[self._P_places].add(weights * P)
        entries = jnp.concatenate(
            [A, jnp.asarray(-values, A.dtype), -jnp.ones(self.count, A.dtype)]
        )
        costs = jnp.full(self.count, gamma.astype(q.dtype))
        bounds = jnp.zeros(self.m + self.count, b.dtype).at[self._rows].set(b)
        return upper, entries, jnp.concatenate([q, costs]), bounds

    def start(
        self, start: Solution, gamma: Float[Array, ""]
    ) -> tuple[Array, Array, Array]:
        """A point to start the elastic problem from, with slacks of zero."""
        x, y, s = start
        rows, slacks, values = self._slacks
        pulled = jnp.asarray(values, y.dtype) * y[rows]
        prices = jnp.zeros(self.count, y.dtype).at[slacks].add(pulled)
        prices = jnp.maximum(gamma.astype(y.dtype) - prices, 0)
        nothing = jnp.zeros(self.count, x.dtype)
        longer = jnp.zeros(self.m + self.count, x.dtype).at[self._rows]
        y = longer.set(y).at[self._new].set(prices)
        return jnp.concatenate([x, nothing]), y, longer.set(s)

    def solution(self, x: Array, y: Array, s: Array) -> tuple[Array, Array, Array, Array]:
        """`(x, y, s, E z)`."""
        rows, slacks, values = self._slacks
        terms = jnp.asarray(values, x.dtype) * x[self.n + slacks]
        shift = jnp.zeros(self.m, x.dtype).at[rows].add(terms)
        return x[: self.n], y[self._rows], s[self._rows], shift


def _pattern(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> Any:
    indices = np.stack([rows, cols], axis=1).astype(np.int32)
    return BCOO((as_jax(np.zeros(rows.size)), as_jax(indices)), shape=shape)


@functools.lru_cache(maxsize=32)
def elastic(structure: AbstractQCPStructure) -> Elastic:
    """The elastic problems of a structure. They are kept."""
    return Elastic(structure)
