"""Batched nonnegative least squares: value and gradient of 256 problems in one call.

    minimise 1/2 |F x - g|^2    subject to    x >= 0

as a QP with dense `Q, q, A, b, G, h`, and the gradient of `sum(x^2)` with respect to all
six, by `jit(vmap(value_and_grad(...)))`. The same script with `diffqcp.solve_qp`, with
qpax's own differentiable solve (both of its backends, at 1e-10) and with moreau's JAX
layer. Errors are those of the gradient with respect to `q` and `h`, against the closed
form on the active set.

    python -m benchmarks.nnls [--batch 256] [--size 5]
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

import diffqcp


def problems(batch: int, size: int) -> tuple[np.ndarray, ...]:
    """`F` and `g`, and the QPs' data."""
    rng = np.random.default_rng(0)
    F, g = rng.normal(size=(batch, 2 * size, size)), rng.normal(size=(batch, 2 * size))
    Q, q = np.einsum("bij,bik->bjk", F, F), -np.einsum("bij,bi->bj", F, g)
    A, b = np.zeros((batch, 0, size)), np.zeros((batch, 0))
    G, h = -np.tile(np.eye(size), (batch, 1, 1)), np.zeros((batch, size))
    return F, g, Q, q, A, b, G, h


def truth(F: np.ndarray, g: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradients with respect to `q` and `h`: on the active set the QP is a linear
    system, solved with NumPy.
    """
    by_q, by_h = np.zeros(F.shape[::2]), np.zeros(F.shape[::2])
    for k in range(F.shape[0]):
        x = nnls(F[k], g[k])[0]
        free, bound = np.flatnonzero(x > 0), np.flatnonzero(x == 0)
        inverse = np.linalg.inv(Q[k][np.ix_(free, free)])
        by_q[k, free] = -2 * inverse @ x[free]
        # x = -h on the bound, and the free part follows.
        coupling = inverse @ Q[k][np.ix_(free, bound)]
        by_h[k, bound] = -2 * (x[bound] - coupling.T @ x[free])
    return by_q, by_h


def solvers(size: int) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Names, and functions from the data of one problem to its solution."""
    fast = {"polish": False, "throw": False}
    yield "diffqcp", lambda *data: diffqcp.solve_qp(*data, **fast).x
    yield "diffqcp, polished", lambda *data: diffqcp.solve_qp(*data, throw=False).x
    if importlib.util.find_spec("qpax"):
        qpax: Any = importlib.import_module("qpax")
        tight = {"solver_tol": 1e-10, "target_kappa": 1e-10, "max_iter": 100}
        for name, backend in (("explicit", "e"), ("implicit", "i")):
            yield (
                f"qpax {name}",
                lambda *data, backend=backend: qpax.solve_qp_primal(
                    *data, backend=backend, **tight
                ),
            )
    if importlib.util.find_spec("moreau"):
        yield "moreau", _moreau(size)


def _moreau(size: int) -> Callable[..., Any]:
    moreau: Any = importlib.import_module("moreau")
    layer: Any = importlib.import_module("moreau.jax")
    tight = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    offsets, columns = size * np.arange(size + 1), np.tile(np.arange(size), size)
    solver = layer.Solver(
        *(size, size, offsets, columns, offsets, columns),
        cones=moreau.Cones(num_nonneg_cones=size),
        settings=moreau.Settings(
            solver="ipm", device="cpu", ipm_settings=moreau.IPMSettings(**tight)
        ),
    )

    def solve(Q, q, A, b, G, h):
        del A, b  # there are no equalities
        return solver.solve(Q.ravel(), G.ravel(), q, h).x

    return solve


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    F, g, *data = problems(arguments.batch, arguments.size)
    by_q, by_h = truth(F, g, data[0])
    arrays = [jnp.asarray(part) for part in data]
    calls, rows = {}, {}
    for name, solve in solvers(arguments.size):

        def loss(*data, solve=solve):
            return jnp.sum(solve(*data) ** 2)

        compiled = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=tuple(range(6)))))
        try:
            _, gradient = jax.block_until_ready(compiled(*arrays))
        except Exception as error:
            print(f"{name} failed: {error}")
            continue
        calls[name] = compiled
        errors = [
            np.nanmax(np.abs(np.asarray(got) - exact)) / np.max(np.abs(exact))
            for got, exact in ((gradient[1], by_q), (gradient[5], by_h))
        ]
        bad = int(np.sum(~np.isfinite(np.asarray(gradient[1])).all(axis=1)))
        rows[name] = f"{errors[0]:.0e} | {errors[1]:.0e} | {bad}"
    # In turn, so that whatever else the machine does falls on all of them.
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(arguments.rounds):
        for name, compiled in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(compiled(*arrays))
            times[name].append(1e3 * (time.perf_counter() - started))
    print("| solver | ms, best | ms, median | error dq | error dh | not finite |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        best, median = min(times[name]), np.median(times[name])
        print(f"| {name} | {best:.2f} | {median:.2f} | {row} |")


if __name__ == "__main__":
    main()
