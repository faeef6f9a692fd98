"""The benchmark: `python -m benchmarks.run --out results.json`.

For every problem: Clarabel's time and iterations, ours, every rival that is installed,
the error of each against an independent reference. Prints a table as it goes; the JSON
has everything. `python -m benchmarks.report results.json` makes a page of it.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .problems import Case, maros_cases, suite
from .rivals import RIVALS
from .table import header, lines
from .timing import ONE_THREAD


def main() -> None:
    """Runs the cases that were asked for."""
    options = _options()
    found = suite() + (maros_cases(options.maros) if options.maros else [])
    cases = [case for case in found if _wanted(case, options)]
    results = {
        "environment": environment(),
        "rivals": rivals_found(options),
        "problems": [],
    }
    for name, state in results["rivals"].items():
        print(f"{name}: {state}")
    print(header(), flush=True)
    for case in cases:
        record = run_case(case, results["rivals"], options)
        results["problems"].append(record)
        print("\n".join(lines(record)), flush=True)
        options.out.write_text(json.dumps(results, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--families", help="only these, separated by commas")
    parser.add_argument("--cases", help="only these problems, separated by commas")
    parser.add_argument("--max-size", type=float, default=2e5, help="largest n + m")
    parser.add_argument("--maros", type=Path, help="folder of the Maros-Meszaros set")
    parser.add_argument("--rivals", help="only these, separated by commas, or none")
    parser.add_argument(
        "--timeout", type=float, default=300, help="seconds a measurement"
    )
    parser.add_argument("--quick", action="store_true", help="n + m up to 1500")
    options = parser.parse_args()
    if options.quick:
        options.max_size = min(options.max_size, 1500)
    return options


def _wanted(case: Case, options: argparse.Namespace) -> bool:
    if options.cases:
        return case.name in options.cases.split(",")
    family = not options.families or case.family in options.families.split(",")
    return family and case.order <= options.max_size


def rivals_found(options: argparse.Namespace) -> dict[str, str]:
    """The version of each rival, or why it is not run."""
    found = {}
    for name, rival in RIVALS.items():
        if options.rivals is not None and name not in options.rivals.split(","):
            continue
        if rival.installed():
            found[name] = rival.version()
        else:
            found[name] = "not installed: skipped"
    return found


def environment() -> dict[str, Any]:
    """Machine and versions."""
    packages = ("diffqcp", "jax", "lineax", "clarabel", "numpy", "scipy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": 1,
        **versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()


def run_case(
    case: Case, rivals: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """All measurements of one problem; a failure is part of the record."""
    record: dict[str, Any] = {"name": case.name, "family": case.family}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record |= _stage("solve", case, folder, options)
        if "failed" in record:
            return record
        record["ours"] = _stage("ours", case, folder, options)
        if case.family == "maros":
            record["degenerate"] = _stage("degenerate", case, folder, options)
        record["rivals"] = {}
        if "failed" in record["reference"] and not record["qp"]:
            return record
        for rival, version in rivals.items():
            if not version.startswith("not installed"):
                record["rivals"][rival] = _stage(rival, case, folder, options)
    return record


def _stage(
    stage: str, case: Case, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.stage", stage, case.name, str(folder)]
    if options.maros:
        command += ["--maros", str(options.maros)]
    try:
        done = subprocess.run(
            command,
            env=os.environ | ONE_THREAD,
            capture_output=True,
            text=True,
            timeout=options.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {options.timeout:.0f} s"}
    if done.returncode == 0:
        return json.loads((folder / f"{stage}.json").read_text())
    return {"failed": _reason(done.stderr) or f"exit status {done.returncode}"}


def _reason(stderr: str) -> str:
    """The line that names the exception; libraries may print more after it."""
    lines = stderr.strip().splitlines()
    named = [line for line in lines if "Error" in line.split(":")[0]]
    return (named or lines or [""])[-1]


if __name__ == "__main__":
    main()
