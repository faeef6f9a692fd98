"""The Python examples of the documentation run, and what they assert holds."""

import re
from pathlib import Path

import jax
import pytest


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^(?:import|from) ([\w.]+)", re.MULTILINE)


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


# cvxpylayers hands tensors to NumPy, which warns of how PyTorch converts them.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("page", [page for page, code in EXAMPLES.items() if code])
def test_examples_run(page):
    code = EXAMPLES[page]
    modules = set(IMPORT.findall(code))
    for module in sorted(modules):
        pytest.importorskip(module)
    # qpax relies on JAX's default promotions, which conftest.py forbids.
    dtypes, ranks = ("standard", "allow") if "qpax" in modules else ("strict", "raise")
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        exec(compile(code, page, "exec"), {"__name__": "__main__"})
