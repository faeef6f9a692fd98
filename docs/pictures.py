"""Draws the pictures of the examples: `python docs/pictures.py [PAGE ...]`.

Runs the Python blocks of each page that shows `../images/PAGE.svg`, and saves what is
called `figure` at their end.
"""

import re
import sys
from pathlib import Path

import matplotlib


DOCS = Path(__file__).parent


def main() -> None:
    """All of them, or those of the pages that are named."""
    for page in sorted(DOCS.glob("examples/*.md")):
        if sys.argv[1:] and page.stem not in sys.argv[1:]:
            continue
        text = page.read_text(encoding="utf-8")
        if f"../images/{page.stem}.svg" not in text:
            continue
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
        names: dict = {"__name__": "__main__"}
        exec(compile(code, str(page), "exec"), names)
        # The same picture is the same file: no random names in it, and no date.
        matplotlib.rcParams["svg.hashsalt"] = page.stem
        picture = DOCS / "images" / f"{page.stem}.svg"
        names["figure"].savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
