"""A page from the JSON of `benchmarks.run`: `python -m benchmarks.report results.json`.

Writes `results.md` and, into `images/` beside it, the plots.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .plots import draw_families, draw_family
from .table import power, ratio, seconds


Record = dict[str, Any]


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="+", help="JSON files; later ones win"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where to write")
    parser.add_argument("--format", default="svg", help="of the plots: svg or png")
    parser.add_argument(
        "--note", default="", help="what else there is to know, a sentence"
    )
    options = parser.parse_args()
    results = merged([json.loads(path.read_text()) for path in options.results])
    images = options.docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    generated = [r for r in results["problems"] if r["family"] != "maros"]
    maros = [r for r in results["problems"] if r["family"] == "maros"]
    families = f"results-families.{options.format}"
    draw_families(generated, images / families)
    parts = [
        _preamble(results, options.note),
        f"![Time from the solution to the gradient](images/{families})\n",
    ]
    if any(record["family"] == "mpc" for record in generated):
        mpc = f"results-mpc.{options.format}"
        draw_family([r for r in generated if r["family"] == "mpc"], images / mpc)
        parts.append(f"![MPC](images/{mpc})\n")
    rivals = results["rivals"].items()
    names = [name for name, state in rivals if not state.startswith("not installed")]
    parts += [_yardstick(generated), _accuracy(generated), _comparison(generated, names)]
    parts.append(_first_calls(generated, names))
    if maros:
        parts.append(_maros(maros))
    (options.docs / "results.md").write_text("\n".join(parts))


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One set of results by family and size; a problem measured twice is taken from the
    later file.
    """
    problems = {record["name"]: record for part in results for record in part["problems"]}
    families = list(dict.fromkeys(record["family"] for record in problems.values()))
    ordered = sorted(
        problems.values(),
        key=lambda r: (families.index(r["family"]), r.get("n", 0) + r.get("m", 0)),
    )
    rivals = {name: state for part in results for name, state in part["rivals"].items()}
    return {**results[-1], "rivals": rivals, "problems": ordered}


def _preamble(results: dict[str, Any], note: str) -> str:
    environment = ", ".join(
        f"{key} {value}" for key, value in results["environment"].items()
    )
    found = "\n".join(f"- {name}: {state}" for name, state in results["rivals"].items())
    return f"""# Results

Made by `python -m benchmarks.run` and `python -m benchmarks.report`. Measured with:
{environment}. Everything runs on one thread, each method in a process of its own; times
are medians after a warm-up.{" " if note else ""}{note}

Problems are generated with fixed seeds and solved by Clarabel to 1e-10. Ours
differentiates that solution with default settings; every other package solves by itself,
to 1e-10 where it can, and the time from its solution to the gradient is compared.

- Most families are made around solutions that are strictly complementary and not
  degenerate. The truth is a Newton-polished solution of the optimality conditions,
  written without projections, and one sparse LU, refined in extended precision;
  differences of polished solutions confirm it.
- Shortest paths, maximum flows, assignments, transport, the simplex, the knapsack and
  the permutahedron have dependent equalities or degenerate solutions, so that the linear
  system of the derivative is singular. Where the solution is unique and up to
  1,500 variables, the truth is the gradient with respect to `q` by a basis of the
  directions along which the active constraints do not change, and errors are relative
  to the cotangent. (At vertices it is zero.)

The problems of other packages' papers are on pages of their own: qpax's batch of
nonnegative least squares with [batches and layers](timings.md#batches), BPQP's tables
[there](bpqp.md), and infeasible QPs and Sudoku beside QPLayer with
[infeasible problems](infeasible.md#measured).

Other packages:

{found}
"""


def _yardstick(records: Iterable[Record]) -> str:
    rows = []
    for record in _solved(records):
        iteration, ours = record["forward"]["iteration"], record["ours"]
        forward = record["forward"]
        start = [record["name"], str(_order(record)), str(forward["iterations"])]
        start += [seconds(forward["seconds"]), seconds(iteration)]
        keys = ("vjp", "vjp_jit", "jvp", "jvp_jit")
        times = [seconds(ours[key]) for key in keys]
        ratios = [ratio(ours[key] / iteration) for key in ("vjp", "vjp_jit")]
        rows.append([*start, *times, *ratios])
    names = ["problem", "n + m", "iterations", "solve", "one iteration"]
    names += ["VJP", "VJP jitted", "JVP", "JVP jitted"]
    names += ["VJP / iteration", "VJP jitted / iteration"]
    return _section(
        "Against one iteration of the solver",
        "Clarabel's time without its set-up, divided by its iterations, is the "
        "yardstick. The VJP is `qcp.vjp` with a structure already seen; jitted, it is a "
        "function of all values that builds the QCP, too.",
        _table(names, rows) + _failures(records),
    )


def _first_calls(records: Iterable[Record], names: list[str]) -> str:
    keys = ("vjp_compile", "jvp_compile", "first", "first_gradient")
    rows = [
        [
            record["name"],
            *(seconds(record["ours"][key]) for key in keys),
            *(_cell(record, name, _first) for name in names),
        ]
        for record in _solved(records)
    ]
    own = ["compile VJP", "compile JVP", "first VJP", "first gradient"]
    return _section(
        "First calls",
        "In a fresh process, with everything imported. The first VJP includes the "
        "structure and symbolic work, and nothing is compiled; the first gradient "
        "Clarabel's solve, too. For other packages it is the time from the data to the "
        "first gradient, compilation included.",
        _table(["problem", *own, *names], rows),
    )


def _accuracy(records: Iterable[Record]) -> str:
    worst: dict[str, list[float]] = {}
    for record in _solved(records):
        ours, truth = record["ours"], record["reference"]
        if "adjoint" in truth:
            checks = (truth.get("differences", 0.0), truth["adjoint"])
            found = (ours["error"], ours["error_exact"], truth["forward_error"], *checks)
            old = worst.setdefault(record["family"], [0.0] * len(found))
            worst[record["family"]] = [max(pair) for pair in zip(old, found, strict=True)]
    rows = [[family, *map(power, errors)] for family, errors in worst.items()]
    names = ["family", "at Clarabel's solution", "at the exact solution"]
    names += ["Clarabel's own error", "reference: differences", "reference: adjoint"]
    return _section(
        "Accuracy",
        "The worst relative error of all of our derivatives (VJP: `P`, `A`, `q`, `b`; "
        "JVP: `x`, `y`, `s`) over the sizes of a family, and what checks the reference.",
        _table(names, rows),
    )


def _first(found: dict[str, Any]) -> str:
    return seconds(found["first"])


def _cell(record: Record, name: str, figure: Callable[[Record], str]) -> str:
    """A figure of another package."""
    found = record["rivals"].get(name, {"refused": ""})
    if "refused" in found:
        return ""
    return "failed" if "failed" in found else figure(found)


def _comparison(records: Iterable[Record], names: list[str]) -> str:
    records = list(_solved(records))

    def rows(figure: Callable[[Record], str]) -> list[list[str]]:
        return [
            [record["name"], figure(record["ours"])]
            + [_cell(record, name, figure) for name in names]
            for record in records
        ]

    notes = {}
    for record in records:
        for name, found in record["rivals"].items():
            if "note" in found:
                notes[name] = found["note"]
    listed = "\n".join(f"- {name}: {note}" for name, note in notes.items())
    times = _table(
        ["problem", "diffqcp jitted", "diffqcp", *names],
        [
            [row[0], seconds(record["ours"]["vjp_jit"]), *row[1:]]
            for record, row in zip(
                records, rows(lambda r: seconds(r["vjp"])), strict=True
            )
        ],
    )
    errors = _table(["problem", "diffqcp", *names], rows(lambda r: power(r.get("error"))))
    return _section(
        "Against other packages",
        "Time from the solution to the gradient. A cell is empty where a package does "
        f"not take a problem, or is too slow to try. How each is run:\n\n{listed}",
        f"{times}\nThe relative error of the gradient with respect to `q` and `b` "
        f"(ours: to everything):\n\n{errors}",
    )


def _maros(records: Iterable[Record]) -> str:
    rows = []
    for record in _solved(records):
        truth, ours, found = record["reference"], record["ours"], record["degenerate"]
        keys = ("normal", "consistent", "projection")
        figures = [power(found.get(key)) for key in keys]
        figures.append(" / ".join(power(size) for size in found.get("gap", [])))
        regular = "" if "failed" in truth else power(truth.get("differences"))
        start = [record["name"], str(_order(record)), "yes" if ours["finite"] else "no"]
        times = [
            seconds(ours["vjp"]),
            ratio(ours["vjp"] / record["forward"]["iteration"]),
        ]
        rows.append([*start, *figures, regular, power(ours.get("error_exact")), *times])
    names = ["problem", "n + m", "finite", "normal", "consistent", "projection"]
    names += ["gap", "differences", "error", "VJP", "VJP / iteration"]
    return _section(
        "Maros and Meszaros' problems",
        "With $K$ the matrix of the linear system, $z = K^+ r$ and random $r$: `normal` "
        "is $|K(r - Kz)| / |K||r|$, `consistent` $|Kz - r| / |r|$ for an $r$ in the "
        "range, `projection` the distance of $Kz$ from the projection of $r$ onto the "
        "range by a dense eigenvalue decomposition, relative to $|r|$, and `gap` its "
        "smallest relative eigenvalue kept and largest dropped. Regular problems have a "
        "reference: `differences` is how far it is from differences of solutions, "
        "`error` how far we are from it.",
        _table(names, rows) + _failures(records),
    )


def _failures(records: Iterable[Record]) -> str:
    failed = [
        f"- {record['name']}: {part['failed'].partition('. ')[0]}"
        for record in records
        for part in (record, record.get("ours", {}), record.get("degenerate", {}))
        if "failed" in part
    ]
    return "\nFailed:\n\n" + "\n".join(failed) + "\n" if failed else ""


def _solved(records: Iterable[Record]) -> Iterable[Record]:
    """The records with figures of ours."""
    for record in records:
        stages = [
            record,
            record.get("ours", {"failed": ""}),
            record.get("degenerate", {}),
        ]
        if not any("failed" in stage for stage in stages):
            yield record


def _order(record: Record) -> int:
    return record["n"] + record["m"]


def _section(title: str, text: str, body: str) -> str:
    return f"## {title}\n\n{text}\n\n{body}"


def _table(names: list[str], rows: list[list[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
