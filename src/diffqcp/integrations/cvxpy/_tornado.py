"""The plot of `Sensitivities` and `ShadowPrices`. Needs the extra `plot`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot


def tornado(
    effects: Sequence[Any], measure: str, relative: float | None, axes: Any
) -> Any:
    """Bars of the changes that each effect brings; see `AbstractEffects.plot`."""
    if axes is None:
        height = 1.2 + 0.3 * len(effects)
        axes = pyplot.subplots(figsize=(6.4, height), layout="constrained")[1]
    for row, (_, value, slope, reach) in enumerate(effects):
        step = 1.0 if relative is None else relative * abs(value)
        ends = (np.nan, np.nan) if reach is None else reach
        for sign, color, end in ((-1, "C0", ends[0]), (1, "C1", ends[1])):
            inside = np.fmin(step, abs(end))  # the step, if the end is not known
            axes.barh(row, sign * step * slope, color=color, alpha=0.3)
            axes.barh(row, sign * inside * slope, color=color)
    axes.set_yticks(range(len(effects)), [effect[0] for effect in effects])
    axes.invert_yaxis()
    axes.axvline(0, color="0.3", lw=0.8)
    change = "1" if relative is None else f"{100 * relative:g} %"
    axes.set(xlabel=f"change, by the {measure}; blue for -{change}, orange for +{change}")
    axes.spines[["top", "right"]].set_visible(False)
    return axes
