"""`python -m diffqcp`: the demo, see `diffqcp._demo`; `python -m diffqcp check`: whether
the installation works, see `diffqcp._check`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path


_DEMO_EXTRA = ("cvxpy", "matplotlib", "rich", "sklearn")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the demo or the check.

    **Arguments:**

    - `arguments`: the command line after the program's name; `sys.argv` if None.
    """
    parser = argparse.ArgumentParser(
        prog="python -m diffqcp",
        description="Choose a penalty for each of 64 pixels by gradient descent through "
        "a classifier, with diffqcp.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("demo", "check"),
        default="demo",
        help="demo, the default, or check: versions, devices, one gradient",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("diffqcp-demo.png"), help="the plot (PNG)"
    )
    parser.add_argument("--steps", type=int, default=40, help="steps of the descent")
    options = parser.parse_args(arguments)
    if options.command == "check":
        from ._check import check

        parser.exit(0 if check() else 1)
    if options.steps < 1:
        parser.error(f"--steps: expected at least 1, got {options.steps}")
    if not options.output.absolute().parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.absolute().parent}")
    try:
        from ._demo_show import run
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _DEMO_EXTRA:
            raise
        parser.exit(1, f'The demo needs {package}: pip install "diffqcp[demo]"\n')
    run(options.output, options.steps)


if __name__ == "__main__":
    main()
