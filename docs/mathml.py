"""Formulas as MathML, which browsers render by themselves: no script, no network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert


INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
CAPITAL = re.compile(r"<mi>(&#x003[9A][0-9A-F];)</mi>")


def on_page_content(content: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of a page."""
    content = BLOCK.sub(lambda found: _formula(found[1], "block"), content)
    return INLINE.sub(lambda found: _formula(found[1], "inline"), content)


def _formula(tex: str, display: str) -> str:
    tex = html.unescape(tex)
    # Parentheses as high as what they hold, and Greek capitals upright.
    tex = tex.replace(r"\begin{pmatrix}", r"\left(\begin{matrix}")
    tex = tex.replace(r"\end{pmatrix}", r"\end{matrix}\right)")
    formula = convert(tex, display=display)
    formula = CAPITAL.sub(r'<mi mathvariant="normal">\1</mi>', formula)
    return f'<div class="formula">{formula}</div>' if display == "block" else formula
