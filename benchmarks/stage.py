"""One measurement in a process of its own: `python -m benchmarks.stage`, by `run.py`.

The stage `solve` generates a problem, solves it and finds the truth; later stages read
both from the folder. Each writes its figures to `STAGE.json` there.
"""

import argparse
import importlib
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

from .errors import by_part, worst
from .face import Face, face
from .forward import Forward, solve
from .problems import Case, maros_cases, Problem, suite
from .reference import differences, Reference, reference
from .timing import median_seconds, once, peak_megabytes


State = tuple[Problem, Forward, Reference | Face | None]

# Beyond, differences of solutions take longer than they are worth.
_DIFFERENCES_UP_TO = 5000


def main() -> None:
    """Runs a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("case")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--maros", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    state = options.folder / "state.pickle"
    if options.stage == "solve":
        case = find(options.case, options.maros)
        figures, found = solve_stage(case)
        state.write_bytes(pickle.dumps(found))
    else:
        figures = _later(options.stage, pickle.loads(state.read_bytes()))
    (options.folder / f"{options.stage}.json").write_text(json.dumps(figures))


def find(name: str, folder: Path | None) -> Case:
    """The case with this name."""
    cases = suite() + (maros_cases(folder) if folder else [])
    return next(case for case in cases if case.name == name)


def solve_stage(case: Case) -> tuple[dict[str, Any], State]:
    """Clarabel and the reference."""
    problem = case.problem()
    forward = solve(problem)
    if forward.status not in ("Solved", "AlmostSolved"):
        raise RuntimeError(f"Clarabel: {forward.status}")
    figures: dict[str, Any] = {
        "n": problem.n,
        "m": problem.m,
        "nnz_P": problem.P.nnz,
        "nnz_A": problem.A.nnz,
        "qp": problem.is_qp,
        "forward": forward.report(),
    }
    try:
        truth, seconds = once(lambda: reference(problem, forward.x, forward.y))
    except ArithmeticError as error:
        figures["reference"] = {"failed": str(error)}
        return figures, (problem, forward, face(problem, forward))
    figures["reference"] = {
        "seconds": seconds,
        "residual": truth.residual,
        "margin": truth.margin,
        "condition": truth.condition,
        "adjoint": truth.adjoint,
        "forward_error": truth.moved,
    }
    if problem.exact is not None:
        exact = list(problem.exact[:2])
        figures["reference"]["exact"] = worst([truth.x, truth.y], exact)
    if problem.n + problem.m <= _DIFFERENCES_UP_TO:
        try:
            figures["reference"]["differences"] = differences(problem, truth)
        except ArithmeticError as error:
            figures["reference"]["differences_failed"] = str(error)
    return figures, (problem, forward, truth)


def _later(stage: str, state: State) -> dict[str, Any]:
    problem, forward, truth = state
    if stage == "ours":
        from . import ours

        return ours.measure(problem, forward, truth)
    if stage == "degenerate":
        from . import degenerate

        return degenerate.measure(problem, forward)
    return _rival_stage(stage, problem, truth)


def _rival_stage(
    name: str, problem: Problem, truth: Reference | Face | None
) -> dict[str, Any]:
    from .rivals import Prepared, RIVALS

    if truth is None:
        raise ArithmeticError("no truth to compare with")
    rival = RIVALS[name]
    if reason := rival.refuses(problem):
        return {"refused": reason}
    for module in rival.modules:
        importlib.import_module(module)
    before = peak_megabytes()

    def start() -> tuple[Prepared, Any]:
        prepared = rival.prepare(problem, truth.cotangent)
        return prepared, prepared.backward()

    (prepared, found), first = once(start)
    gradient = prepared.collect(found)
    figures = {
        "first": first,
        "vjp": median_seconds(prepared.backward),
        "forward": median_seconds(prepared.forward),
        "peak_mb": peak_megabytes() - before,
        "note": rival.note,
    }
    if isinstance(truth, Face):
        return figures | {"error": truth.error(gradient["q"])}
    errors = by_part(gradient, truth.gradient._asdict())
    moved = worst([prepared.x], [truth.x])
    return figures | {"errors": errors, "error": errors["qb"], "solution_error": moved}


if __name__ == "__main__":
    main()
