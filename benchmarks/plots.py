"""Plots of time against size, log-log."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter


Record = dict[str, Any]
Points = list[tuple[int, float]]

_OURS = {"color": "black", "linewidth": 2.5, "marker": "o"}
_SOLVER = {"color": "gray", "linewidth": 1}
_COLORS = {
    "moreau exact": "tab:red",
    "moreau smoothed": "tab:orange",
    "moreau active set": "darkred",
    "diffcp lsqr": "tab:blue",
    "diffcp dense": "tab:cyan",
    "qpax": "tab:green",
    "proxsuite": "tab:purple",
    "qpth": "tab:brown",
    "jaxopt": "tab:pink",
    "pounce": "tab:olive",
}


def draw_families(records: Iterable[Record], path: Path) -> None:
    """A panel for each family that has at least two sizes."""
    families: dict[str, list[Record]] = {}
    for record in records:
        if "forward" in record:
            families.setdefault(record["family"], []).append(record)
    families = {name: found for name, found in families.items() if len(found) > 1}
    columns = min(3, max(1, len(families)))
    rows = max(1, -(-len(families) // columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False
    )
    for axis in axes.flat[len(families) :]:
        axis.set_visible(False)
    labels: dict[str, Any] = {}
    for axis, (name, found) in zip(axes.flat, families.items(), strict=False):
        _draw(axis, found)
        axis.set_title(name)
        labels |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(labels.values(), labels.keys(), loc="outside upper center", ncols=4)
    _save(figure, path, top=1 - 0.9 / (3.4 * rows))


def draw_family(records: Iterable[Record], path: Path) -> None:
    """One panel."""
    figure, axis = plt.subplots(figsize=(7, 5))
    _draw(axis, list(records))
    axis.legend(fontsize="small")
    _save(figure, path, top=1)


def _draw(axis: Axes, records: list[Record]) -> None:
    records = [record for record in records if "forward" in record]
    solves = [(_order(record), record["forward"]["seconds"]) for record in records]
    iterations = [(_order(record), record["forward"]["iteration"]) for record in records]
    _line(axis, solves, label="Clarabel, solve", linestyle="--", **_SOLVER)
    _line(axis, iterations, label="Clarabel, one iteration", linestyle=":", **_SOLVER)
    for name, color in _COLORS.items():
        found = [(_order(r), r.get("rivals", {}).get(name, {})) for r in records]
        points = [(order, figures["vjp"]) for order, figures in found if "vjp" in figures]
        _line(axis, points, label=name, color=color, marker=".")
    for key, label, style in (
        ("vjp", "diffqcp", "-"),
        ("vjp_jit", "diffqcp, jitted", "--"),
    ):
        points = [(_order(r), r["ours"][key]) for r in records if key in r["ours"]]
        _line(axis, points, label=label, linestyle=style, **_OURS)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())  # labels that would overlap
    axis.set_xlabel("n + m")
    axis.set_ylabel("seconds to the gradient")
    axis.grid(visible=True, alpha=0.3)


def _line(axis: Axes, points: Points, **style: Any) -> None:
    if points:
        axis.plot(*zip(*sorted(points), strict=True), **style)


def _order(record: Record) -> int:
    return record["n"] + record["m"]


def _save(figure: Any, path: Path, top: float) -> None:
    figure.tight_layout(rect=(0, 0, 1, top))
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = path.name
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=120)
    plt.close(figure)
