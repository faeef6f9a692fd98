"""How batches scale: `python -m benchmarks.batches nnls`, or `sparse`.

`nnls`: nonnegative least squares with five variables. `sparse`: 64 sparse QPs with one
pattern against as many single calls; run it with two cores for what threads gain.

The times of `nnls` are those of the processor, on which other work of the machine has
no influence; one thread. The times of `sparse` are the shortest on the clock.
"""

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.experimental.sparse import BCOO

from diffqcp import HostQCP, QCPStructureCPU

from .ours import host_qcp
from .problems import quadratic
from .timing import ONE_THREAD


OURS = ("ldl", "jax-lu", "jax-lsmr")
Gradient = tuple[Any, Any, Any, Any]


class Batch(NamedTuple):
    """Stacked NNLS problems `min |M x - g|^2 / 2, x >= 0` with exact solutions, as QPs.

    `P = M'M` and `q = -M'g`, shapes `(items, n, n)` and `(items, n)`; `x`, `y` the
    solutions and multipliers, `dx` the cotangents of `x`.
    """

    P: Any
    q: Any
    x: Any
    y: Any
    dx: Any


def nnls(items: int, n: int = 5) -> Batch:
    """Random problems; half of the constraints are active."""
    rng = np.random.default_rng(0)
    M = rng.normal(size=(items, 2 * n, n))
    P = M.swapaxes(1, 2) @ M
    active = rng.permuted(np.tile(np.arange(n) < n // 2, (items, 1)), axis=1)
    size = rng.uniform(0.1, 1, (items, n))
    x, y = np.where(active, 0, size), np.where(active, size, 0)
    q = y - np.einsum("kij,kj->ki", P, x)
    return Batch(P, q, x, y, rng.normal(size=(items, n)))


def ours(batch: Batch, method: str) -> Callable[[], Gradient]:
    """diffqcp's VJP, vmapped and jitted: what it does with dense `P` and `A = -I`."""
    n = batch.q.shape[1]
    rows, cols = np.triu_indices(n)
    upper, eye = np.stack([rows, cols], axis=1), np.stack([np.arange(n)] * 2, axis=1)

    def matrix(values: Any, index: np.ndarray) -> BCOO:
        return BCOO((values, jnp.asarray(index)), shape=(n, n))

    A, zero = -jnp.ones(n), jnp.zeros(n)
    structure = QCPStructureCPU(
        matrix(jnp.zeros(rows.size), upper), matrix(A, eye), {"l": n}
    )

    @jax.jit
    @jax.vmap
    def vjp(P: Any, q: Any, x: Any, y: Any, dx: Any) -> Gradient:
        data = matrix(P, upper), matrix(A, eye), q, zero
        qcp = HostQCP(*data, x, y, x, structure)
        dP, dA, dq, db = qcp.vjp(dx, zero, zero, method, throw=False)
        return dP.data, dA.data, dq, db

    arguments = [jnp.asarray(part) for part in batch._replace(P=batch.P[:, rows, cols])]
    return lambda: jax.block_until_ready(vjp(*arguments))


def embedding(batch: Batch) -> Callable[[], Gradient]:
    """LSMR on the transposed derivative of the homogeneous embedding, of order
    `n + m + 1` (Agrawal et al., "Differentiating through a cone program", 2019), which
    diffqcp used before 1.0; vmapped and jitted.
    """
    n = batch.q.shape[1]

    @jax.jit
    @jax.vmap
    def vjp(P: Any, q: Any, x: Any, y: Any, dx: Any) -> Gradient:
        # A = -I, b = 0, s = x; z = (x, y - s, 1) and D the derivative of its projection.
        D = jnp.concatenate([jnp.ones(n), jnp.where(y > x, 1.0, 0.0), jnp.ones(1)])

        def transposed(g: Any) -> Any:
            g1, g2, g3 = g[:n], g[n : 2 * n], g[2 * n]
            Px = P @ x
            down = jnp.concatenate(
                [
                    P @ g1 + g2 - (2 * Px + q) * g3,
                    -g1,
                    (q @ g1 + (x @ Px) * g3)[None],
                ]
            )
            return D * down - D * g + g

        struct = jax.ShapeDtypeStruct((2 * n + 1,), x.dtype)
        operator = lx.FunctionLinearOperator(transposed, struct)
        right = jnp.concatenate([dx, jnp.zeros(n), -(x @ dx)[None]])
        solver = lx.LSMR(rtol=1e-12, atol=1e-12, conlim=1e15)
        g = -lx.linear_solve(operator, right, solver, throw=False).value
        g1, g2, g3 = g[:n], g[n : 2 * n], g[2 * n]
        dP = jnp.outer(g1, x)
        dP = (dP + dP.T) / 2 - g3 * jnp.outer(x, x)
        return dP, jnp.outer(y, g1) - jnp.outer(g2, x), g1 - g3 * x, g2 - g3 * y

    arguments = [jnp.asarray(part) for part in batch]
    return lambda: jax.block_until_ready(vjp(*arguments))


def qpax(batch: Batch) -> Callable[[], Gradient]:
    """The backward pass of `qpax.solve_qp_primal`, vmapped and jitted."""
    module: Any = importlib.import_module("qpax")
    items, n = batch.q.shape

    def solve(*data: Any) -> Any:
        tight = {"solver_tol": 1e-10, "target_kappa": 1e-10, "max_iter": 100}
        return module.solve_qp_primal(*data, **tight)

    none = jnp.zeros((items, 0, n)), jnp.zeros((items, 0))
    G, h = jnp.broadcast_to(-jnp.eye(n), (items, n, n)), jnp.zeros((items, n))
    data = (jnp.asarray(batch.P), jnp.asarray(batch.q), *none, G, h)
    forward = jax.jit(jax.vmap(lambda *data: jax.vjp(solve, *data)))
    _, pullback = jax.block_until_ready(forward(*data))
    backward = jax.jit(jax.vmap(lambda pull, dx: pull(dx)))
    dx = jnp.asarray(batch.dx)

    def run() -> Gradient:
        dQ, dq, _, _, dG, dh = jax.block_until_ready(backward(pullback, dx))
        return dQ, dG, dq, dh

    return run


def moreau(batch: Batch) -> Callable[[], Gradient]:
    """`backward` of moreau's batched solver on one CPU thread."""
    module: Any = importlib.import_module("moreau")
    items, n = batch.q.shape
    ipm = module.IPMSettings(tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    settings = module.Settings(
        solver="ipm", device="cpu", batch_size=items, enable_grad=True, ipm_settings=ipm
    )
    full = n * np.arange(n + 1), np.tile(np.arange(n), n)
    eye = np.arange(n + 1), np.arange(n)
    cones = module.Cones(num_nonneg_cones=n)
    solver = module.CompiledSolver(n, n, *full, *eye, cones, settings)
    solver.setup(batch.P.reshape(items, -1), -np.ones((items, n)))
    solver.solve(batch.q, np.zeros((items, n)))

    def run() -> Gradient:
        found = solver.backward(batch.dx)
        return found["dP_values"], found["dA_values"], found["dq"], found["db"]

    return run


def nnls_lines() -> Iterator[str]:
    """A line for each size and method."""
    methods = {name: lambda batch, name=name: ours(batch, name) for name in OURS}
    methods |= {"LSMR on the embedding": embedding}
    for name, rival in {"qpax": qpax, "moreau": moreau}.items():
        if importlib.util.find_spec(name) is not None:
            methods |= {name: rival}
    for items in (1, 16, 256, 1024, 10_000):
        batch = nnls(items)
        truth, first = np.asarray(ours(batch, "jax-lu")()[2]), None
        for name, prepare in methods.items():
            run = prepare(batch)
            error = np.linalg.norm(np.asarray(run()[2]) - truth) / np.linalg.norm(truth)
            seconds = processor_seconds(run)
            first = first or seconds
            yield (
                f"{items:6d}  {name:22s} {1e3 * seconds:9.3f} ms "
                f"{1e6 * seconds / items:8.2f} us/item {seconds / first:7.2f} x "
                f"{error:8.0e}"
            )


def processor_seconds(run: Callable[[], Any], budget: float = 1.0) -> float:
    """The processor time of `run`, the median of tens of groups of calls."""
    run()
    once = time.process_time()
    run()
    once = time.process_time() - once
    group = max(1, int(budget / 20 / max(once, 1e-6)))
    times = []
    for _ in range(20 if once < budget else 3):
        started = time.process_time()
        for _ in range(group):
            run()
        times.append((time.process_time() - started) / group)
    return float(np.median(times))


def sparse_lines(items: int = 64, order: int = 2000) -> Iterator[str]:
    """For several families: single calls, a batch at once, and one in pieces."""
    for family in (quadratic.sparse, quadratic.mpc, quadratic.portfolio, quadratic.lasso):
        problem = family(order)
        assert problem.exact is not None
        qcp = host_qcp(problem, *problem.exact)
        batch = jax.vmap(partial(_scaled, qcp))(jnp.linspace(1, 2, items))
        singles = [jax.tree.map(lambda leaf, k=k: leaf[k], batch) for k in range(items)]
        dx = jnp.asarray(np.random.default_rng(0).normal(size=problem.n))
        vjp = partial(_vjp, dx, jnp.zeros(problem.m))
        one, all_at_once = jax.jit(vjp), jax.jit(jax.vmap(vjp))
        in_pieces = jax.jit(lambda batch, f=vjp: jax.lax.map(f, batch, batch_size=16))

        def single(one: Any = one, singles: list[HostQCP] = singles) -> Any:
            return [jax.block_until_ready(one(item)) for item in singles]

        alone = shortest(single)
        line = f"{family.__name__:10s} n + m = {problem.n + problem.m}: {items} calls "
        line += f"{1e3 * alone:6.1f} ms"
        expected = [np.stack(parts) for parts in zip(*single(), strict=True)]
        for name, function in {"batch": all_at_once, "pieces": in_pieces}.items():
            run = partial(_ready, function, batch)
            seconds = shortest(run)
            same = all(map(np.array_equal, run(), expected))
            line += (
                f"; {name} {1e3 * seconds:6.1f} ms, {alone / seconds:4.2f} times as fast"
            )
            line += f", {'same' if same else 'other'} bits"
        yield line


def _scaled(qcp: HostQCP, k: Any) -> HostQCP:
    # The solution stays one when the objective is scaled.
    parts = lambda qcp: (qcp.P_values, qcp.q, qcp.y)  # noqa: E731
    return eqx.tree_at(parts, qcp, tuple(k * part for part in parts(qcp)))


def _vjp(dx: Any, zero: Any, qcp: HostQCP) -> Gradient:
    dP, dA, dq, db = qcp.vjp(dx, zero, zero, throw=False)
    return dP.data, dA.data, dq, db


def _ready(function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.block_until_ready(function(*arguments))


def shortest(run: Callable[[], Any], repeats: int = 20) -> float:
    """The least time on the clock of a few runs."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Prints the lines of a part, from a process with the right settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["nnls", "sparse"])
    part = parser.parse_args().part
    if os.environ.get("JAX_ENABLE_X64") != "1":
        settings = ONE_THREAD if part == "nnls" else {"JAX_ENABLE_X64": "1"}
        command = [sys.executable, "-m", "benchmarks.batches", part]
        subprocess.run(command, check=True, env=os.environ | settings)
        return
    for line in {"nnls": nnls_lines, "sparse": sparse_lines}[part]():
        print(line, flush=True)


if __name__ == "__main__":
    main()
