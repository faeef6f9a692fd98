"""Do the solvers agree, on problems of every kind? `python -m tests.agreement 2000`.

Each problem is differentiated by `"ldl"`, `"jax-lu"` and `"jax-lsmr"`. What two of them
find must agree, up to the condition of the system, unless one says that it has not
succeeded; and where the solution map is differentiable, it must be the derivative, by
differences of solutions.
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from diffqcp import HostQCP, QCPStructureCPU

from .helpers import FAMILIES, host
from .reference import (
    differences,
    Problem,
    project_dual,
    random_direction,
    random_problem,
)


METHODS = "ldl", "jax-lu", "jax-lsmr"
KINDS = "regular", "units", "dependent", "kinks"


class Case(NamedTuple):
    """A problem around its solution, a perturbation of its data, what is known of the
    derivative of the solution, if anything is, and the units of the solution.
    """

    problem: Problem
    solution: tuple[np.ndarray, np.ndarray, np.ndarray]
    direction: Problem
    truth: list[np.ndarray] | None
    units: list[np.ndarray]


def make(dims: dict[str, Any], kind: str, seed: int, compare: bool) -> Case:
    """A case of one of the `KINDS`; with the truth, if it is asked for and exists."""
    rng = np.random.default_rng(seed)
    problem, solution = random_problem(dims, seed)
    problem = problem._replace(A=rng.normal(size=problem.A.shape))
    if kind == "dependent":
        root = rng.normal(size=(problem.q.size, rng.integers(0, 3)))
        rank = max(1, problem.b.size // 2)
        parts = rng.normal(size=(problem.b.size, rank)), rng.normal(size=(rank, 1))
        columns = rng.normal(size=(rank, problem.q.size))
        problem = problem._replace(P=root @ root.T, A=parts[0] @ (parts[1] * columns))
    if kind == "kinks":
        v = solution[1] - solution[2]
        straight = dims.get("z", 0) + dims.get("l", 0)
        v[:straight] *= rng.random(straight) < 0.5
        if rng.random() < 0.3:
            v[straight:] = 0  # the apex of every other cone
        y = project_dual(dims, v)
        solution = solution[0], y, y - v
    x, y, s = solution
    problem = problem._replace(q=-(problem.P @ x + problem.A.T @ y), b=problem.A @ x + s)
    direction = random_direction(problem, seed)
    truth = None
    if compare and kind in ("regular", "units"):
        truth = differences(problem, solution, direction)
    units = [np.ones(x.size), np.ones(y.size), np.ones(s.size)]
    case = Case(problem, solution, direction, truth, units)
    return in_units(case, rng) if kind == "units" else case


def in_units(case: Case, rng: np.random.Generator) -> Case:
    """The same, with variables, rows (cones as wholes) and the objective in others."""
    problem, (x, y, s), direction, truth, _ = case
    columns = 10 ** rng.uniform(-2, 2, x.size)
    rows = 10 ** rng.uniform(-2, 2, y.size)
    straight = problem.dims.get("z", 0) + problem.dims.get("l", 0)
    rows[straight:] = 10 ** rng.uniform(-2, 2)
    factor = 10 ** rng.uniform(-3, 3)
    units = [1 / columns, factor / rows, rows]

    def change(data: Problem) -> Problem:
        return data._replace(
            P=factor * columns[:, None] * data.P * columns,
            A=rows[:, None] * data.A * columns,
            q=factor * columns * data.q,
            b=rows * data.b,
        )

    scaled = [part * unit for part, unit in zip((x, y, s), units, strict=True)]
    if truth is not None:
        truth = [part * unit for part, unit in zip(truth, units, strict=True)]
    solution = scaled[0], scaled[1], scaled[2]
    return Case(change(problem), solution, change(direction), truth, units)


def derivatives(cases: list[Case], method: str, dtype: Any) -> list[np.ndarray]:
    """By one of the methods, all cases in one call. NaN where it says that it fails."""
    problem = cases[0].problem
    upper = np.triu_indices(problem.q.size)
    whole = np.indices(problem.A.shape).reshape(2, -1)

    def sparse(values: jax.Array, places: Any, shape: Any) -> BCOO:
        return BCOO((values, jnp.asarray(np.stack(places, axis=1))), shape=shape)

    def matrices(P: jax.Array, A: jax.Array) -> tuple[BCOO, BCOO]:
        size = problem.q.size
        return sparse(P, upper, (size, size)), sparse(A, whole, problem.A.shape)

    def values(data: Problem) -> list[np.ndarray]:
        return [data.P[upper], data.A.ravel(), data.q, data.b]

    P, A, _, _ = values(problem)
    structure = QCPStructureCPU(
        *matrices(jnp.asarray(P), jnp.asarray(A)), problem.dims, psd_order=problem.order
    )

    def compute(data: list[Any], solution: Any, direction: list[Any]) -> Any:
        qcp = HostQCP(*matrices(*data[:2]), *data[2:], *solution, structure)
        dP, dA, dq, db = *matrices(*direction[:2]), *direction[2:]
        return qcp.jvp(dP, dA, dq, db, method, throw=False)

    def stack(items: list[Any]) -> Any:
        return jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts), dtype), *items)

    found = jax.jit(jax.vmap(compute))(
        stack([values(case.problem) for case in cases]),
        stack([case.solution for case in cases]),
        stack([values(case.direction) for case in cases]),
    )
    return [np.asarray(part, float) for part in found]


def error(case: Case, found: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Relative to all of the solution, in units of the problem or in good ones."""
    errors = []
    for units in (case.units, [1.0, 1.0, 1.0]):
        a, b = (
            np.concatenate([part / unit for part, unit in zip(parts, units, strict=True)])
            for parts in (found, other)
        )
        errors.append(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300))
    return min(errors)


def rounding(case: Case) -> float:
    """What rounding errors of `K` may do to a derivative: 10 epsilon times its condition
    number, without the eigenvalues that are taken for zero.
    """
    kkt = host(case.problem, case.solution).derivative("jax-lsmr", polish=False).kkt
    sizes = np.abs(np.linalg.eigvalsh(np.asarray(kkt.as_matrix())))
    kept = sizes[sizes > 1e-11 * sizes.max()]
    return 10 * np.finfo(float).eps * kept.max() / kept.min()


class Comparison(NamedTuple):
    """What disagrees: kind, seed, two methods, and by how much; and how many derivatives
    were found, by kind.
    """

    wrong: list[tuple[Any, ...]]
    found: dict[str, int]


def compare(
    family: str,
    seeds: range,
    dtype: Any,
    tol: float,
    truths: int,
    kinds: tuple[str, ...] = KINDS,
) -> Comparison:
    """Problems with the cones of a family, of all kinds in one batch. The first few are
    compared with differences, which take longer.
    """
    keys = [(kind, seed) for kind in kinds for seed in seeds]
    cases = [make(FAMILIES[family], kind, seed, seed < truths) for kind, seed in keys]
    results = {method: derivatives(cases, method, dtype) for method in METHODS}
    wrong, found = [], dict.fromkeys(kinds, 0)
    for k, (case, key) in enumerate(zip(cases, keys, strict=True)):
        own = {
            method: [part[k] for part in parts]
            for method, parts in results.items()
            if np.isfinite(parts[0][k]).all()
        }
        found[key[0]] += len(own)
        references = {"differences": case.truth} if case.truth else {}
        references |= dict(list(own.items())[:1])
        for name, reference in references.items():
            for method, parts in own.items():
                size = error(case, parts, reference)
                if not size < tol and not size < rounding(case):
                    wrong.append((*key, method, name, size))
    return Comparison(wrong, found)


def main(count: int) -> None:
    """`count` problems in all, in float64, and the regular ones of them in float32."""
    jax.config.update("jax_enable_x64", True)
    each = -(-count // (len(FAMILIES) * len(KINDS)))
    for family in FAMILIES:
        wide = compare(family, range(each), np.float64, 1e-7, 10)
        narrow = compare(family, range(each), np.float32, 1e-2, 10, ("regular",))
        print(family, f"of {each * len(METHODS)} found:", wide.found, flush=True)
        for line in wide.wrong:
            print("   DISAGREE", *line, flush=True)
        for line in narrow.wrong:
            print("   DISAGREE in float32", *line, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
