"""Draws the pictures of the examples: `python docs/pictures.py`.

Runs the Python blocks of each page that shows `../images/PAGE.svg`, and saves what is
called `figure` at their end.
"""

import re
from pathlib import Path


DOCS = Path(__file__).parent


def main() -> None:
    """All of them."""
    for page in sorted(DOCS.glob("examples/*.md")):
        text = page.read_text(encoding="utf-8")
        if f"../images/{page.stem}.svg" not in text:
            continue
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
        names: dict = {"__name__": "__main__"}
        exec(compile(code, str(page), "exec"), names)
        names["figure"].savefig(DOCS / "images" / f"{page.stem}.svg")


if __name__ == "__main__":
    main()
