"""The table of `benchmarks.run`: a line for each problem and method."""

from collections.abc import Iterator
from typing import Any


_COLUMNS = (
    ("problem", 16),
    ("n + m", 8),
    ("method", 16),
    ("forward", 9),
    ("VJP", 9),
    ("jitted", 9),
    ("/iter", 7),
    ("/ours", 7),
    ("error", 8),
    ("peak MB", 8),
)


def header() -> str:
    """The names of the columns."""
    return _line([name for name, _ in _COLUMNS])


def lines(record: dict[str, Any]) -> Iterator[str]:
    """The lines of one problem: times in seconds, the VJP's also in iterations of
    Clarabel's (`/iter`, jitted where it can be) and in our eager VJPs (`/ours`).
    """
    name = record["name"]
    if "failed" in record:
        yield _line([name, "", "clarabel", record["failed"]])
        return
    forward, iteration = record["forward"], record["forward"]["iteration"]
    order = str(record["n"] + record["m"])
    label = f"clarabel ({forward['iterations']})"
    error = record["reference"].get("forward_error")
    cells = [seconds(forward["seconds"]), "", "", "", "", power(error)]
    yield _line([name, order, label, *cells])
    ours = record["ours"]
    for method, found in {"diffqcp": ours, **record["rivals"]}.items():
        if "refused" in found:
            continue
        if "failed" in found:
            yield _line([name, order, method, found["failed"][:60]])
            continue
        yield _line([name, order, method, *_figures(found, iteration, ours.get("vjp"))])
    if "failed" in record["reference"]:
        yield _line([name, order, "reference", record["reference"]["failed"]])


def _figures(found: dict[str, Any], iteration: float, ours: float | None) -> list[str]:
    return [
        seconds(found.get("forward")),
        seconds(found["vjp"]),
        seconds(found.get("vjp_jit")),
        ratio(found.get("vjp_jit", found["vjp"]) / iteration),
        ratio(found["vjp"] / ours) if ours else "",
        power(found.get("error")),
        f"{found['peak_mb']:.0f}",
    ]


def seconds(value: float | None) -> str:
    """A time with its unit; nothing for None."""
    if value is None:
        return ""
    for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.2g} us"


def ratio(value: float) -> str:
    """A ratio, with three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.1e}"


def power(value: float | None) -> str:
    """An error, with one digit; nothing for None."""
    return "" if value is None else f"{value:.0e}"


def _line(cells: list[str]) -> str:
    widths = [width for _, width in _COLUMNS]
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return " ".join(padded).rstrip()
