"""Relaxations of combinatorial problems, with random costs.

Nearly all of them have dependent equalities or degenerate solutions, so that `K` is
singular and there is no independent reference. They are what decision-focused learning
solves.
"""

import numpy as np
import scipy.sparse as sp

from ._problem import canonical, Problem


def shortest_path(order: int, seed: int = 0) -> Problem:
    """A path through a grid, to the right and down, as a unit flow.

    There is a conservation row for each node, one too many.
    """
    rng = np.random.default_rng(seed)
    side = max(2, round(0.4 + np.sqrt(order / 5)))
    flow = _grid(side)
    nodes, arcs = flow.shape
    b = np.zeros(nodes)
    b[0], b[-1] = -1, 1
    return _nonnegative(None, rng.uniform(0.5, 1.5, arcs), flow, b)


def maximum_flow(order: int, seed: int = 0) -> Problem:
    """The largest flow through the same grid with capacities.

    The last variable is the flow that returns from the last node to the first one.
    """
    rng = np.random.default_rng(seed)
    side = max(2, round(0.4 + np.sqrt(order / 7)))
    flow = _grid(side)
    nodes, arcs = flow.shape
    back = sp.csc_array(([1.0, -1.0], ([0, nodes - 1], [0, 0])), shape=(nodes, 1))
    eye = sp.eye_array(arcs, arcs + 1)
    A = sp.vstack([sp.hstack([flow, back]), -sp.eye_array(arcs + 1), eye])
    q = np.zeros(arcs + 1)
    q[-1] = -1
    b = np.concatenate([np.zeros(nodes + arcs + 1), rng.uniform(0.5, 1.5, arcs)])
    dims = {"z": nodes, "l": 2 * arcs + 1}
    return Problem(sp.csc_array((q.size, q.size)), q, canonical(A), b, dims)


def assignment(order: int, seed: int = 0) -> Problem:
    """An assignment: rows and columns that sum to one, one of them too many."""
    rng = np.random.default_rng(seed)
    size = _side(order)
    costs = rng.uniform(0.5, 1.5, size * size)
    return _nonnegative(None, costs, _margins(size), np.ones(2 * size))


def transport(order: int, seed: int = 0, weight: float = 0) -> Problem:
    """The cheapest plan between two random distributions, which has their margins.

    With a `weight`, that many halves of the squares of the plan are added to the costs.
    """
    rng = np.random.default_rng(seed)
    size = _side(order)
    margins = rng.uniform(0.5, 1.5, (2, size))
    margins *= size / margins.sum(axis=1, keepdims=True)
    costs = rng.uniform(0.5, 1.5, size * size)
    P = weight * sp.eye_array(size * size) if weight else None
    return _nonnegative(P, costs, _margins(size), margins.ravel())


def simplex(order: int, seed: int = 0) -> Problem:
    """The projection onto the simplex, whose equality is there twice."""
    rng = np.random.default_rng(seed)
    n = order // 2
    sums = sp.csc_array(np.ones((2, n)))
    return _nonnegative(sp.eye_array(n), -rng.normal(size=n) / n, sums, np.ones(2))


def knapsack(order: int, seed: int = 0) -> Problem:
    """The relaxed knapsack problem: half of the weight of all things can be carried."""
    rng = np.random.default_rng(seed)
    n = order // 3
    weights, worth = rng.uniform(0.5, 1.5, (2, n))
    eye = sp.eye_array(n)
    A = sp.vstack([sp.csc_array(weights[None]), -eye, eye])
    b = np.concatenate([[weights.sum() / 2], np.zeros(n), np.ones(n)])
    return Problem(sp.csc_array((n, n)), -worth, canonical(A), b, {"l": 2 * n + 1})


def permutahedron(order: int, seed: int = 0) -> Problem:
    """Soft ranks: the projection of random numbers onto the convex hull of the
    permutations of `1 ... size`: doubly stochastic matrices times these numbers.

    Variables are the projection and that matrix, which is not unique.
    """
    rng = np.random.default_rng(seed)
    size = _side(order)
    ranks = sp.kron(sp.eye_array(size), sp.csc_array(np.arange(1.0, size + 1)[None]))
    A = sp.block_array([[sp.eye_array(size), -ranks], [None, _margins(size)]])
    P = sp.diags_array(np.repeat([1.0, 0.0], [size, size * size]))
    q = np.concatenate([-size * rng.normal(size=size), np.zeros(size * size)])
    b = np.repeat([0.0, 1.0], [size, 2 * size])
    bounds = -sp.eye_array(size * size, size * size + size, k=size)
    rows = canonical(sp.vstack([A, bounds]))
    dims = {"z": b.size, "l": size * size}
    return Problem(canonical(P), q, rows, np.append(b, np.zeros(size * size)), dims)


def _side(order: int) -> int:
    """Of a square matrix of variables, with bounds and with sums of rows and columns."""
    return max(2, round(np.sqrt(order / 2 + 0.25) - 0.5))


def _margins(size: int) -> sp.csc_array:
    """Sums of the rows, and of the columns, of a square matrix that is stored by rows."""
    eye, ones = sp.eye_array(size), sp.csc_array(np.ones((1, size)))
    return sp.csc_array(sp.vstack([sp.kron(eye, ones), sp.kron(ones, eye)]))


def _grid(side: int) -> sp.csc_array:
    """Nodes times arcs: -1 where an arc starts, 1 where it ends."""
    node = np.arange(side * side).reshape(side, side)
    tail = np.concatenate([node[:, :-1].ravel(), node[:-1].ravel()])
    head = np.concatenate([node[:, 1:].ravel(), node[1:].ravel()])
    arcs = np.arange(tail.size)
    entries = np.repeat([-1.0, 1.0], tail.size)
    places = (np.concatenate([tail, head]), np.concatenate([arcs, arcs]))
    return sp.csc_array((entries, places), shape=(side * side, tail.size))


def _nonnegative(
    P: sp.sparray | None, q: np.ndarray, A: sp.sparray, b: np.ndarray
) -> Problem:
    """Minimise `x'Px / 2 + q'x` subject to `A x = b`, `x >= 0`."""
    n = q.size
    P = sp.csc_array((n, n)) if P is None else P
    rows = canonical(sp.vstack([A, -sp.eye_array(n)]))
    return Problem(
        canonical(P), q, rows, np.append(b, np.zeros(n)), {"z": b.size, "l": n}
    )
