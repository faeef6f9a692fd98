"""Formulas as MathML, which browsers render by themselves: no script, no network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert


INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
TAG = re.compile(r"\\tag\{(\d+)\}")
# Mends of what `convert` makes of signs, as (pattern, replacement). MathML's spaces and
# sizes depend on whether a sign stands before, between or after what it belongs to, which
# a browser finds out for the first and the last one of a group only.
SIGNS = [
    # Greek capitals are upright.
    (
        re.compile(r"<mi>(&#x003[9A][0-9A-F];)</mi>"),
        r'<mi mathvariant="normal">\1</mi>',
    ),
    # Bars of absolute values and norms.
    (
        re.compile(r"<mo(?: (?:fence|stretchy)=\"false\")*>(&#x0007C;|&#x02016;)</mo>"),
        r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>',
    ),
    # A slash has no spaces, as in TeX, and infinity is a number.
    (re.compile(r"<mo>(&#x0002F;)</mo>"), r'<mo lspace="0" rspace="0">\1</mo>'),
    (re.compile(r"<mo>(&#x0221E;)</mo>"), r"<mi>\1</mi>"),
    # Relations between matrices.
    (re.compile(r"<mi>(&#x02AAF;|&#x02AB0;|&#x027C2;)</mi>"), r"<mo>\1</mo>"),
    # The minus of a negative number: after an opening parenthesis, a comma, a relation or
    # a space.
    (
        re.compile(
            r"(<mo[^>]*>(?:&#x00028;|&#x0005B;|&#x0007B;|&#x0002C;|&#x0003D;|&#x02264;"
            r"|&#x02265;|&#x02208;)</mo>|<mspace[^>]*/>)<mo>&#x02212;</mo>"
        ),
        r'\1<mo form="prefix">&#x02212;</mo>',
    ),
    # Names of functions before their parentheses.
    (
        re.compile(r'<mo>([a-z]+)</mo>(?=<mo stretchy="false">&#x00028;)'),
        r'<mo lspace="0.17em" rspace="0">\1</mo>',
    ),
]


def on_page_content(content: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of a page."""
    content = BLOCK.sub(lambda found: _formula(found[1], "block"), content)
    return INLINE.sub(lambda found: _formula(found[1], "inline"), content)


def _formula(tex: str, display: str) -> str:
    tex = html.unescape(tex)
    # Parentheses as high as what they hold.
    tex = tex.replace(r"\begin{pmatrix}", r"\left(\begin{matrix}")
    tex = tex.replace(r"\end{pmatrix}", r"\end{matrix}\right)")
    formula = convert(TAG.sub(r"\\qquad (\1)", tex), display=display)
    for pattern, replacement in SIGNS:
        formula = pattern.sub(replacement, formula)
    return f'<div class="formula">{formula}</div>' if display == "block" else formula
