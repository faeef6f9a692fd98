# The compiled extension: native/module.cc.

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
def vjp_batch(
    problem: Any,
    options: tuple,
    limits: tuple[int, int, int],
    count: int,
    threads: int,
    inputs: Arrays,
    outputs: Arrays,
) -> None: ...
def equilibrate_batch(
    problem: Any,
    options: tuple,
    limits: tuple[int, int, int],
    count: int,
    threads: int,
    inputs: Arrays,
    outputs: Arrays,
) -> None: ...
def find_batch(
    problem: Any,
    options: tuple,
    limits: tuple[int, int, int],
    count: int,
    threads: int,
    inputs: Arrays,
    outputs: Arrays,
) -> None: ...
def improve_batch(
    problem: Any,
    options: tuple,
    limits: tuple[int, int, int],
    count: int,
    threads: int,
    inputs: Arrays,
    outputs: Arrays,
) -> None: ...
