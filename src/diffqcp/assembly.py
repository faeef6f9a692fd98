"""`K` as a sparse symmetric matrix on a static pattern.

With `B = L U'A` the entries of `K` are those of `P`, `B` and `-(I - lam)`. Where cones
have `U = I`, `B` has the entries of `A`. Elsewhere a row of `B` mixes all rows of `A` in
its cone, and takes the union of their columns: small cones and PSD ones are assembled so.

Large second-order cones over sparse rows of `A` are expanded instead. On the boundary `D`
has two eigenvectors `u0`, `u1` of its own and one eigenvalue `a` on the rest of the
space. With `t = (t0, t1, r)` in the eigenbasis and `tau = U (0, 0, r)`, the rows and
columns of `K` for that cone are

    P x + A'(u0 l0 t0 + u1 l1 t1 + sqrt(a) tau),                      l = sqrt(lam),
    l0 u0'A x - (1 - lam0) t0,    l1 u1'A x - (1 - lam1) t1,
    sqrt(a) A x - (1 - a) tau     up to multiples of u0 and u1,

where `u0'tau = u1'tau = 0`. So `tau` takes the place of `r`, with two multipliers for the
two constraints: two rows of `u0'A` and `u1'A`, and otherwise the entries of `A`. (Where
`r` was, a diagonal of -1 is left.) The expanded matrix is quasi-definite, as `K` is, and
its least-squares solution of least norm is that of `K`, since `|tau| = |r|`.
(Interior-point methods expand their scaling in the same spirit: Domahidi, Chu and Boyd,
"ECOS", ECC 2013, section III.)
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._static import as_indices
from .cones._base import AbstractEigenvectors, IdentityEigenvectors
from .cones.product import ProductEigenvectors, RepeatedEigenvectors
from .cones.soc import SecondOrderEigenvectors
from .kkt import KKTOperator
from .sparsity import flat_places, SparsityPattern


# With as many entries as that, diagonal included, a matrix has both of its triangles
# indexed in 32 bits.
MOST_ENTRIES = 2**30


class Block(NamedTuple):
    """Equal cones whose eigen-coordinates follow each other.

    - `start`, `cones`, `size`: the first coordinate, how many cones, the size of each.
    - `entry`, `place`: the stored entries of `A` in these rows, and the row of each,
        counted from the block's first.
    - `pair`: which pair of a cone and a column each of them belongs to.
    - `pair_cone`, `pair_col`: those pairs.
    - `tau`: the first of the unknowns added if the block is expanded, else None.
    """

    start: int
    cones: int
    size: int
    entry: np.ndarray
    place: np.ndarray
    pair: np.ndarray
    pair_cone: np.ndarray
    pair_col: np.ndarray
    tau: int | None

    @property
    def dim(self) -> int:
        """How many rows they take."""
        return self.cones * self.size

    @property
    def extra(self) -> int:
        """How many unknowns their expansion adds."""
        return 0 if self.tau is None else self.dim + 2 * self.cones

    @property
    def places(self) -> int:
        """How many entries `_coordinates` yields."""
        if self.size == 1:
            return self.entry.size
        if self.tau is None:
            return self.pair_col.size * self.size
        return 2 * self.pair_col.size + 3 * self.dim + self.entry.size


class Assembly:
    """How the entries of `K` come from the values of `P`, `A` and `D`.

    **Raises:** `MemoryError` if there would be 2^30 entries or more.

    **Attributes:**

    - `order`: the order of the matrix: `n + m`, and `size + 2` for each expanded cone.
    - `rows`, `cols`: where its entries are, one of each pair off the diagonal. Those
        with the same place add up.
    - `expanded`: whether the matrix differs from `K`.
    - `upper`: the entries of the symmetric `P` that it takes.
    - `blocks`: the equal cones that follow each other.
    - `groups`: a number for each row, the same for those of one cone, which has one unit.
    """

    def __init__(
        self, P: SparsityPattern, A: SparsityPattern, eigenvectors: ProductEigenvectors
    ):
        self.n, m = P.shape[0], A.shape[0]
        self.upper = as_indices("P", np.flatnonzero(P.rows <= P.cols))
        self.blocks: list[Block] = []
        self.order = self.n + m
        for block in _blocks(A, eigenvectors, self.order):
            self.blocks.append(block)
            self.order += block.extra
        self.expanded = any(block.tau is not None for block in self.blocks)
        corner = np.arange(self.n, self.n + m)
        count = self.upper.size + m + sum(block.places for block in self.blocks)
        if count + self.order >= MOST_ENTRIES:
            raise MemoryError(
                f"K would have {count} entries in a sparse matrix of order "
                f"{self.order}; expected fewer than 2^30"
            )
        entries = [(P.rows[self.upper], P.cols[self.upper]), (corner, corner)]
        for block in self.blocks:
            entries.extend(_coordinates(block, A, self.n))
        self.rows, self.cols = (
            as_indices(name, np.concatenate(part))
            for name, part in zip(
                ("rows", "cols"), zip(*entries, strict=True), strict=True
            )
        )

        groups = [_groups(self.n, eigenvectors)]
        for block in self.blocks:
            if block.tau is not None:
                own = groups[0][self.n + block.start :][: block.dim]
                multipliers = block.tau + block.dim + np.arange(2 * block.cones)
                groups += [own, multipliers]
        self.groups = as_indices("groups", np.concatenate(groups))

    def values(self, kkt: KKTOperator) -> Float[Array, " entries"]:
        """The entries, in the order of `rows` and `cols`."""
        corner = kkt.jacobian.eigenvalues - 1
        for block in self.blocks:
            if block.tau is not None:
                own = corner[block.start : block.start + block.dim]
                own = own.reshape(-1, block.size).at[:, 2:].set(-1).ravel()
                corner = corner.at[block.start : block.start + block.dim].set(own)
        parts = [kkt.P.values[self.upper], corner]
        for block, eigenvectors in self._pairs(kkt):
            eigenvalues = kkt.jacobian.eigenvalues[block.start : block.start + block.dim]
            parts.extend(_entries(block, kkt.A.values, eigenvalues, eigenvectors))
        return jnp.concatenate(parts)

    def expand(
        self, kkt: KKTOperator, vector: Float[Array, " N"]
    ) -> Float[Array, " order"]:
        """From a right-hand side of `K` to one of the expanded matrix."""
        parts = [vector]
        for block, eigenvectors in self._pairs(kkt):
            if block.tau is None:
                continue
            start = self.n + block.start
            rest = vector[start : start + block.dim].reshape(-1, block.size)
            rest = rest.at[:, :2].set(0).ravel()
            parts[0] = parts[0].at[start : start + block.dim].add(-rest)
            parts += [eigenvectors.mv(rest), jnp.zeros(2 * block.cones, vector.dtype)]
        return jnp.concatenate(parts)

    def contract(
        self, kkt: KKTOperator, vector: Float[Array, " order"]
    ) -> Float[Array, " N"]:
        """From a solution of the expanded system to one of `K`'s."""
        solution = vector[: self.n + kkt.jacobian.eigenvalues.size]
        for block, eigenvectors in self._pairs(kkt):
            if block.tau is None:
                continue
            tau = vector[block.tau : block.tau + block.dim]
            rest = eigenvectors.transpose_mv(tau).reshape(-1, block.size)
            rest = rest.at[:, :2].set(0).ravel()
            start = self.n + block.start
            solution = solution.at[start : start + block.dim].add(rest)
        return solution

    def expand_shift(
        self, shift: Float[Array, " N"], multipliers: float
    ) -> Float[Array, " order"]:
        """The shift of the diagonal: `tau` as its cone, multipliers as is said."""
        parts = [shift]
        for block in self.blocks:
            if block.tau is not None:
                start = self.n + block.start
                parts.append(shift[start : start + block.dim])
                parts.append(jnp.full(2 * block.cones, multipliers, shift.dtype))
        return jnp.concatenate(parts)

    def _pairs(self, kkt: KKTOperator) -> Iterator[tuple[Block, AbstractEigenvectors]]:
        blocks = _product(kkt.jacobian.eigenvectors, kkt.jacobian.eigenvalues.size).blocks
        return zip(self.blocks, blocks, strict=True)


def assemble(kkt: KKTOperator) -> Assembly:
    """The assembly of `kkt`. It depends on patterns and cones only, and is kept."""
    product = _product(kkt.jacobian.eigenvectors, kkt.jacobian.eigenvalues.size)
    return assemble_patterns(kkt.P.pattern, kkt.A.pattern, product)


def assemble_patterns(
    P: SparsityPattern, A: SparsityPattern, eigenvectors: ProductEigenvectors
) -> Assembly:
    """The assembly for matrices with these patterns, and eigenvectors of these shapes."""
    leaves, structure = jax.tree.flatten(eigenvectors)
    shapes = tuple(leaf.shape for leaf in leaves)
    return _assembly(P, A, structure, shapes)


@functools.lru_cache(maxsize=32)
def _assembly(
    P: SparsityPattern,
    A: SparsityPattern,
    structure: Any,
    shapes: tuple[tuple[int, ...], ...],
) -> Assembly:
    leaves = [jax.ShapeDtypeStruct(shape, float) for shape in shapes]
    return Assembly(P, A, jax.tree.unflatten(structure, leaves))


def row_groups(kkt: KKTOperator) -> np.ndarray:
    """A number for each row of `K`, the same for those of one cone: it has one unit."""
    eigenvectors = _product(kkt.jacobian.eigenvectors, kkt.jacobian.eigenvalues.size)
    return as_indices("groups", _groups(kkt.n, eigenvectors))


def _product(eigenvectors: AbstractEigenvectors, dim: int) -> ProductEigenvectors:
    if isinstance(eigenvectors, ProductEigenvectors):
        return eigenvectors
    return ProductEigenvectors((eigenvectors,), (dim,), None, None)


def _cones(
    eigenvectors: ProductEigenvectors,
) -> Iterator[tuple[AbstractEigenvectors, int, int, int]]:
    """Of each block of equal cones: one of them, its first coordinate, how many there
    are, and the size of each.
    """
    start = 0
    for part, dim in zip(eigenvectors.blocks, eigenvectors.dims, strict=True):
        count, cone = 1, part
        if isinstance(part, RepeatedEigenvectors):
            count, cone = part.count, part.blocks
        if isinstance(cone, IdentityEigenvectors):
            count = dim
        yield cone, start, count, dim // count if count else 1
        start += dim


def _groups(n: int, eigenvectors: ProductEigenvectors) -> np.ndarray:
    parts = [np.arange(n)]
    for _, start, count, size in _cones(eigenvectors):
        parts.append(np.repeat(n + start + size * np.arange(count), size))
    return np.concatenate(parts)


def _blocks(
    A: SparsityPattern, eigenvectors: ProductEigenvectors, order: int
) -> Iterator[Block]:
    inverse = eigenvectors.inverse
    coordinate = A.rows if inverse is None else inverse.value[A.rows]
    for cone, start, count, size in _cones(eigenvectors):
        dim = count * size
        entry = np.flatnonzero((coordinate >= start) & (coordinate < start + dim))
        place = coordinate[entry] - start
        keys = flat_places(place // size, A.cols[entry], A.shape[1])
        unique, pair = np.unique(keys, return_inverse=True)
        pair_cone, pair_col = np.divmod(unique, A.shape[1])
        sparse = entry.size + 2 * unique.size + 3 * dim
        expand = isinstance(cone, SecondOrderEigenvectors)
        expand = expand and unique.size * size > 2 * sparse
        tau = order if expand else None
        entry, place, pair, pair_cone, pair_col = (
            as_indices("A", part) for part in (entry, place, pair, pair_cone, pair_col)
        )
        block = Block(start, count, size, entry, place, pair, pair_cone, pair_col, tau)
        yield block
        order += block.extra


def _coordinates(
    block: Block, A: SparsityPattern, n: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of a block's entries, in the order of `_entries`."""
    first = n + block.start
    if block.size == 1:
        yield first + block.place, A.cols[block.entry]
    elif block.tau is None:
        starts = first + block.size * block.pair_cone
        rows = starts[:, None] + np.arange(block.size)
        yield rows.ravel(), np.repeat(block.pair_col, block.size)
    else:
        tau = block.tau + np.arange(block.dim)
        multiplier = block.tau + block.dim + 2 * (np.arange(block.dim) // block.size)
        for k in range(2):
            yield first + block.size * block.pair_cone + k, block.pair_col
            yield tau, multiplier + k
        yield tau[block.place], A.cols[block.entry]
        yield tau, tau


def _entries(
    block: Block,
    A: Float[Array, " nnz"],
    eigenvalues: Float[Array, " dim"],
    eigenvectors: AbstractEigenvectors,
) -> Iterator[Float[Array, " entries"]]:
    """The values of a block's entries, in the order of `_coordinates`."""
    roots = jnp.sqrt(eigenvalues)
    if block.size == 1:
        yield roots[block.place] * A[block.entry]
    elif block.tau is None:
        yield _dense(block, A, roots, eigenvectors)
    else:
        by_cone = eigenvalues.reshape(-1, block.size)
        for k in range(2):
            unit = jnp.zeros_like(by_cone).at[:, k].set(1).ravel()
            vector = eigenvectors.mv(unit)
            terms = vector[block.place] * A[block.entry]
            row = jnp.zeros(block.pair_col.size, A.dtype).at[block.pair].add(terms)
            yield jnp.sqrt(by_cone[:, k])[block.pair_cone] * row
            yield vector
        rest = jnp.repeat(by_cone[:, 2], block.size)
        yield jnp.sqrt(rest)[block.place] * A[block.entry]
        yield rest - 1


def _dense(
    block: Block,
    A: Float[Array, " nnz"],
    roots: Float[Array, " dim"],
    eigenvectors: AbstractEigenvectors,
) -> Float[Array, " entries"]:
    """`L U'A` on all of a cone's rows, for each of the columns that occur in them."""
    source = np.full((block.pair_col.size, block.size), A.size, np.int32)
    source[block.pair, block.place % block.size] = block.entry
    columns = jnp.append(A, jnp.zeros(1, A.dtype))[source]
    if isinstance(eigenvectors, RepeatedEigenvectors):
        own = jax.tree.map(lambda leaf: leaf[block.pair_cone], eigenvectors.blocks)
        rotated = jax.vmap(lambda cone, column: cone.transpose_mv(column))(own, columns)
    else:
        rotated = jax.vmap(eigenvectors.transpose_mv)(columns)
    return (roots.reshape(-1, block.size)[block.pair_cone] * rotated).ravel()
