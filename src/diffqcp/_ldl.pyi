# The compiled extension: native/module.cc.

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Arrays: TypeAlias = tuple[np.ndarray, ...]

def analyse(order: int, rows: Any, cols: Any) -> tuple[bytes, bytes, int, float]: ...
def handlers() -> dict[str, Any]: ...
def problem_handlers() -> tuple[Any, Any, dict[str, Any], Any]: ...
def register(problem: Any, key: int) -> None: ...
def problem(parts: Arrays, exponents: np.ndarray) -> Any: ...
def sizes(problem: Any) -> tuple[int, int, int, int]: ...
def project(problem: Any, v: np.ndarray, out: np.ndarray) -> None: ...
def jacobian(problem: Any, v: np.ndarray, smoothing: float, out: Arrays) -> None: ...
def rotate(
    problem: Any, frames: np.ndarray, vector: np.ndarray, out: np.ndarray, back: bool
) -> None: ...
def vjp(
    problem: Any, options: tuple, given: Arrays, cotangents: Arrays, out: Arrays
) -> tuple[bool, float]: ...
def jvp(
    problem: Any, options: tuple, given: Arrays, change: Arrays, out: Arrays
) -> tuple[bool, float]: ...
def linearise(
    problem: Any, options: tuple, given: Arrays, state: Arrays, out: Arrays
) -> tuple[bool, bool, float]: ...
def pull_back(
    problem: Any,
    options: tuple,
    state: Arrays,
    singular: bool,
    point: Arrays,
    cotangents: Arrays,
    out: Arrays,
) -> bool: ...
def push_forward(
    problem: Any,
    options: tuple,
    state: Arrays,
    singular: bool,
    point: Arrays,
    change: Arrays,
    out: Arrays,
) -> bool: ...

# (problem, options, limits, count, threads, inputs, outputs)
OfBatch: TypeAlias = Callable[
    [Any, tuple, tuple[int, int, int], int, int, Arrays, Arrays], None
]

vjp_batch: OfBatch
equilibrate_batch: OfBatch
find_batch: OfBatch
improve_batch: OfBatch
