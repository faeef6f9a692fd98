"""How things are timed: one thread, medians after a warm-up."""

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np


# For a process that has not imported anything numerical yet.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
}


def median_seconds(
    run: Callable[[], Any],
    budget: float = 0.3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The median time of `run`, over `budget` seconds or three runs if these take longer.

    `run` must return only when its work is done. It has a warm-up first; one that takes
    more than ten times the budget is the measurement itself.
    """
    started = clock()
    run()
    warm_up = clock() - started
    if warm_up > 10 * budget:
        return warm_up
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 1000):
        started = clock()
        run()
        times.append(clock() - started)
    return float(np.median(times))


def once(
    run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> tuple[Any, float]:
    """What `run` returns, and its time."""
    started = clock()
    result = run()
    return result, clock() - started


def in_turns(
    calls: dict[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """The times of several calls, one after the other in each round, so that all have the
    same share of what else the machine does.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(once(call, clock)[1])
    return times


def peak_megabytes() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
