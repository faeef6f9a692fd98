"""Infeasible dense QPs, with diffqcp and with the layer of proxsuite.

    python -m benchmarks.infeasible [--sizes 10,50,200] [--batches 1,64]
        [--solvers diffqcp]

Seconds are those of the processor, medians after a warm-up, one thread. The QPs are made
around the solution of the closest feasible problem, and the true gradient is that of the
linear system of the active constraints. `backward` is what a call with the gradient
takes more than one without.

proxsuite's layer starts with penalties of equations and of inequalities that differ by a
factor of 100, and they still differ by 10 at the end. If the smallest shift has both
kinds of rows, the method then goes to another point, the closest one in a norm with these
weights, for which its test of convergence does not hold: it takes all of its steps. The
layer has no option for that. So it is measured as it is, and with equal penalties, which
are put in from outside, and `eps_backward=1e-10` (by default 1e-4).
"""

import argparse
import contextlib
import importlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

from .timing import ONE_THREAD


os.environ |= ONE_THREAD

import jax
import jax.numpy as jnp
import numpy as np
import torch
from proxsuite.torch.qplayer import QPFunction

import diffqcp

from .run import environment
from .table import power, seconds
from .timing import median_seconds


class Batch(NamedTuple):
    """QPs with `A x = b`, `G x <= h` that differ in `q`, `A`, `b`, `h`.

    - `x`, `shift`: the solutions of the closest feasible QPs, and the smallest shifts of
        both kinds of rows.
    - `cotangent`: of `x`. `gradient`: with respect to `q`, `A`, `b`, and to `G`, that of
        all items. Only for entries that are not zero: for others there is none.
    """

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray
    x: np.ndarray
    shift: np.ndarray
    cotangent: np.ndarray
    gradient: tuple[np.ndarray, ...]


def qps(n: int, items: int, both: bool) -> Batch:
    """There are more violated constraints than variables in them: `3 n / 10` inequalities
    on the first `n / 5`, and if `both`, as many equations too, on `2 n / 5`.
    """
    rng = np.random.default_rng(n)
    own, rest = 3 * n // 10, 3 * n // 10
    equations, few = (own, 2 * n // 5) if both else (0, n // 5)
    root = rng.normal(size=(n, n)) / np.sqrt(n)
    P = root @ root.T + 0.1 * np.eye(n)
    G = rng.normal(size=(2 * own + rest, n))
    G[: 2 * own, few:] = 0
    A = rng.normal(size=(items, equations + n // 10, n))
    A[:, :equations, few:] = 0
    x, y = rng.normal(size=(items, n)), rng.normal(size=(items, A.shape[1]))
    violated, active = np.arange(2 * own) < own, np.arange(rest) < rest // 2
    holds = np.concatenate([violated, active])
    size = rng.uniform(0.1, 1, size=(items, holds.size))
    t = np.zeros(y.shape), size * (np.arange(holds.size) < own)
    t[0][:, :equations] = rng.normal(size=(items, equations))
    # So that A't + G't = 0.
    if both:
        for k in range(items):
            pulled = A[k].T @ t[0][k] + G.T @ t[1][k]
            A[k] -= np.outer(t[0][k], pulled) / (t[0][k] @ t[0][k])
    else:
        t[1][:] = rng.uniform(0.5, 2, size=(items, 1)) * t[1][0]
        G -= np.outer(t[1][0], G.T @ t[1][0]) / (t[1][0] @ t[1][0])
    z = np.where(holds, rng.uniform(0.1, 1, size=size.shape), 0)
    b = np.einsum("kij,kj->ki", A, x) - t[0]
    h = x @ G.T + np.where(holds, 0, size) - t[1]
    q = -(x @ P + np.einsum("kij,ki->kj", A, y) + z @ G)
    cotangent = rng.normal(size=x.shape)

    def solution(q: Any, A: Any, b: Any, h: Any, G: Any) -> Any:
        core = jnp.concatenate([A[:equations, :few], G[:own, :few]])
        normal = jnp.pad(core.T @ core, ((0, 0), (0, n - few)))
        B = jnp.concatenate([normal, A[equations:], G[2 * own :][active]])
        right = core.T @ jnp.concatenate([b[:equations], h[:own]])
        right = jnp.concatenate([-q, right, b[equations:], h[2 * own :][active]])
        K = jnp.block([[P, B.T], [B, jnp.zeros((B.shape[0], B.shape[0]))]])
        return jnp.linalg.solve(K, right)[:n]

    solve = jax.vmap(solution, (0, 0, 0, 0, None))
    found, pull = jax.vjp(solve, *map(jnp.asarray, (q, A, b, h, G)))
    assert np.allclose(found, x, rtol=0, atol=1e-8)
    dq, dA, db, _, dG = map(np.asarray, pull(jnp.asarray(cotangent)))
    shift = np.concatenate(t, axis=1)
    return Batch(P, q, A, b, G, h, x, shift, cotangent, (dq, dA, db, dG))


class Measured(NamedTuple):
    """A line of the table: times, and errors relative to the largest entry."""

    first: float
    forward: float
    backward: float
    x: float
    shift: float
    gradient: float


def ours(batch: Batch) -> Measured:
    """`diffqcp.solve_qp` under `jit` and `vmap`."""
    P, h = jnp.asarray(batch.P), jnp.asarray(batch.h)
    data = tuple(jnp.asarray(part) for part in (batch.q, batch.A, batch.b, batch.G))

    def solve(q: Any, A: Any, b: Any, G: Any, h: Any) -> Any:
        options: Any = {"closest_feasible": True, "throw": False}
        found = diffqcp.solve_qp(P, q, A, b, G, h, **options)
        return found.x, found.shift

    mapped = jax.vmap(solve, (0, 0, 0, None, 0))

    @jax.jit
    def both(cotangent: Any, *data: Any) -> Any:
        x, pull, shift = jax.vjp(lambda *data: mapped(*data, h), *data, has_aux=True)
        return x, pull(cotangent), shift

    forward, cotangent = jax.jit(mapped), jnp.asarray(batch.cotangent)
    started = time.process_time()
    x, gradient, shift = jax.block_until_ready(both(cotangent, *data))
    first = time.process_time() - started
    once = _cpu_seconds(lambda: jax.block_until_ready(forward(*data, h)))
    twice = _cpu_seconds(lambda: jax.block_until_ready(both(cotangent, *data)))
    times = once, twice - once
    return _measured(batch, first, times, x, shift, gradient)


@contextlib.contextmanager
def equal_penalties(wanted: bool) -> Iterator[None]:
    """Inside, proxsuite's dense QPs start with equal penalties, if that is wanted."""
    qp = importlib.import_module("proxsuite").proxqp.dense.QP
    init, mu = qp.init, {"mu_eq": 0.01, "mu_in": 0.01} if wanted else {}
    with mock.patch.object(qp, "init", lambda *args, **data: init(*args, **data, **mu)):
        yield


def theirs(batch: Batch, equal: bool = False, **options: float) -> Measured:
    """`QPFunction` of proxsuite."""
    P, h = torch.as_tensor(batch.P), torch.as_tensor(batch.h)
    lower, cotangent = torch.full_like(h, -1e20), torch.as_tensor(batch.cotangent)
    leaves = [torch.tensor(part) for part in (batch.q, batch.A, batch.b, batch.G)]
    q, A, b, G = (leaf.requires_grad_() for leaf in leaves)

    def forward() -> Any:
        layer = QPFunction(structural_feasibility=False, **options)
        with equal_penalties(equal):
            return layer(P, q, A, b, G, lower, h)

    def backward() -> Any:
        leaves = q, A, b, G
        return torch.autograd.grad(found[0], leaves, cotangent, retain_graph=True)

    started = time.process_time()
    found = forward()
    gradient = backward()
    first = time.process_time() - started
    times = _cpu_seconds(forward), _cpu_seconds(backward)
    dq, dA, db, dG = gradient
    gradient = dq, dA, db, batch.q.shape[0] * dG  # it returns the mean
    shift = torch.cat(found[3:], dim=1).detach()
    return _measured(batch, first, times, found[0].detach(), shift, gradient)


def _measured(
    batch: Batch, first: float, times: tuple[float, float], *found: Any
) -> Measured:
    x, shift, (dq, dA, db, dG) = found
    kept = dq, np.where(batch.A != 0, dA, 0), db, np.where(batch.G != 0, dG, 0)
    pairs = zip(kept, batch.gradient, strict=True)
    gradient = max(_error(part, exact) for part, exact in pairs)
    return Measured(
        first, *times, _error(x, batch.x), _error(shift, batch.shift), gradient
    )


def _error(found: Any, exact: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - exact).max() / np.abs(exact).max())


_cpu_seconds = partial(median_seconds, budget=1.0, clock=time.process_time)


SOLVERS: dict[str, Callable[[Batch], Measured]] = {
    "diffqcp": ours,
    "proxsuite": theirs,
    "proxsuite, equal penalties": partial(theirs, equal=True, eps_backward=1e-10),
}


def table_of_qps(sizes: list[int], batches: list[int], solvers: list[str]) -> None:
    """Prints it."""
    print(
        "| violated | n | items | solver | first call | forward | backward | x | t |",
        end="",
    )
    print(" gradient |\n|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for both, n, items in itertools.product((False, True), sizes, batches):
        batch = qps(n, items, both)
        kinds = "both kinds" if both else "inequalities"
        for name in solvers:
            found = SOLVERS[name](batch)
            line = " | ".join([*map(seconds, found[:3]), *map(power, found[3:])])
            print(f"| {kinds} | {n} | {items} | {name} | {line} |", flush=True)


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10,50,200")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--solvers", choices=SOLVERS, action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    print(environment())
    sizes, batches = (
        [int(size) for size in given.split(",")]
        for given in (options.sizes, options.batches)
    )
    table_of_qps(sizes, batches, options.solvers or list(SOLVERS))


if __name__ == "__main__":
    main()
