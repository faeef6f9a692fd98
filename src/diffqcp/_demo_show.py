"""What the demo prints and draws; see `diffqcp._demo`."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ._demo import (
    Classifier,
    descend,
    Images,
    load_images,
    logistic_loss,
    search,
    shared_penalty,
    Step,
)


SPLITS = 5
FITS_PER_STEP = 2  # of the search: a step of the descent takes less time than two fits
TIGHT = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)


def central_differences(
    model: Classifier, images: Images, theta: np.ndarray, step: float = 1e-4
) -> np.ndarray:
    """The gradient of the loss by two tight fits for each pixel."""
    slopes = np.zeros(64)
    for j, unit in enumerate(np.eye(64)):
        ends = [model.fit(theta + sign * step * unit, **TIGHT) for sign in (1, -1)]
        above, below = (logistic_loss(images, fit)[0] for fit in ends)
        slopes[j] = (above - below) / (2 * step)
    return slopes


def check(
    console: Console, model: Classifier, images: Images, theta: np.ndarray
) -> float:
    """Prints the largest entries of the gradient beside differences. Returns the error
    of the whole gradient, relative to its norm.
    """
    gradient = model.gradient(logistic_loss(images, model.fit(theta, **TIGHT))[1])
    differences = central_differences(model, images, theta)
    table = Table("pixel", "diffqcp", "central difference")
    for j in np.argsort(-np.abs(gradient))[:5]:
        table.add_row(str(j), f"{gradient[j]:.9f}", f"{differences[j]:.9f}")
    error = np.linalg.norm(gradient - differences) / np.linalg.norm(gradient)
    console.print(table)
    console.print(
        f"All 64: relative error {error:.0e}. The differences took 128 fits, the "
        "gradient one linear solve."
    )
    return float(error)


def show_times(console: Console, done: list[Step]) -> None:
    """Prints some steps of one descent."""
    table = Table("step", "loss", "solve, ms", "backward, ms", "of which derivative, ms")
    for k in sorted({*range(0, len(done), 10), len(done) - 1}):
        step = done[k]
        times = step.solve_time, step.backward_time, step.derivative_time
        table.add_row(str(k), f"{step.loss:.4f}", *(f"{t:.1f}" for t in times))
    console.print(table)


def plot(
    paths: list[list[float]], searches: list[list[float]], theta: np.ndarray
) -> Figure:
    """The test loss of each split by the number of fits, and the last penalties."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    for k, (path, found) in enumerate(zip(paths, searches, strict=True)):
        fits = FITS_PER_STEP * np.arange(len(path))
        left.plot(fits, path, "C0", label=None if k else "gradient descent")
        left.plot(found, "C1", alpha=0.7, label=None if k else "search of the same cost")
    left.set(title="Loss on the test images, five splits", xlabel="cost, in fits")
    left.legend(frameon=False)
    left.spines[["top", "right"]].set_visible(False)
    left.grid(alpha=0.25)
    image = right.imshow(theta.reshape(8, 8), cmap="viridis")
    right.set(title="log penalty of each pixel, last split", xticks=[], yticks=[])
    figure.colorbar(image, ax=right)
    return figure


def run(output: Path, steps: int, splits: int = SPLITS) -> list[tuple[float, ...]]:
    """Runs the demo: `steps` steps of descent in each split, against a search.

    Prints what it does as it goes, and writes the plot `output`. Returns the test losses
    of each split: with one shared penalty, by the search, by the descent.
    """
    console = Console(highlight=False)
    console.rule("A classifier that is a QP")
    console.print(
        "Is a handwritten digit even or odd? A support vector machine is fitted to 100 "
        "images. Each of the 64 pixels has a penalty of its own, chosen by the loss on "
        "800 other images. Both methods start from the best penalty that is the same for "
        "all pixels; the last columns are of 897 images that neither has seen."
    )
    results: list[tuple[float, ...]] = []
    paths, searches, theta = [], [], np.zeros(64)
    with Progress(console=console) as progress:
        task = progress.add_task("", total=splits * steps * (1 + FITS_PER_STEP))
        for split in range(splits):
            train, validation, test = load_images(split)
            model = Classifier(train)
            start = shared_penalty(model, validation)
            if split == 0:
                check(console, model, validation, start)
            done = []
            for step in descend(model, validation, start, steps):
                done.append(step)
                name = f"split {split + 1}, descent, loss {step.loss:.3f}"
                progress.update(task, advance=1, description=name)
            found = []
            for loss, fit in search(model, validation, start, FITS_PER_STEP * steps):
                found.append(logistic_loss(test, fit)[0])
                name = f"split {split + 1}, search, loss {loss:.3f}"
                progress.update(task, advance=1, description=name)
            if split == 0:
                show_times(console, done)
            best = min(done, key=lambda step: step.loss)
            path = [logistic_loss(test, step.fit)[0] for step in done]
            results.append((path[0], found[-1], logistic_loss(test, best.fit)[0]))
            paths.append(path)
            searches.append(found)
            theta = best.theta
    table = Table("test loss", "one penalty", "search", "descent")
    for split, losses in enumerate(results):
        table.add_row(f"split {split + 1}", *(f"{loss:.4f}" for loss in losses))
    console.print(table)
    wins = sum(descent < other for _, other, descent in results)
    console.print(f"The descent is ahead in {wins} of {splits} splits.")
    plot(paths, searches, theta).savefig(output, format="png", dpi=150)
    console.print(f"The plot is in {output}", markup=False, soft_wrap=True)
    return results
