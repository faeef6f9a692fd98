"""The Python examples of the documentation run, and what they assert holds."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def source(page: Path) -> str:
    """The ```python blocks of a page, each at its own line."""
    text = page.read_text(encoding="utf-8")
    lines: list[str] = []
    for block in BLOCK.finditer(text):
        lines += [""] * (text.count("\n", 0, block.start(1)) - len(lines))
        lines += block[1].splitlines()
    return "\n".join(lines)


EXAMPLES = {str(page.relative_to(ROOT)): source(page) for page in PAGES}


def test_examples_are_found():
    assert EXAMPLES["docs/index.md"]


@pytest.mark.parametrize("page", [page for page, code in EXAMPLES.items() if code])
def test_examples_run(page):
    if "cvxpy" in EXAMPLES[page]:
        pytest.importorskip("cvxpy")
    exec(compile(EXAMPLES[page], page, "exec"), {"__name__": "__main__"})
