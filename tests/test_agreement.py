"""The solvers agree: a short form of `python -m tests.agreement 2000`."""

import numpy as np
import pytest

from .agreement import compare, KINDS, METHODS


@pytest.mark.parametrize("family", ["nonnegative", "second-order", "exponential"])
def test_solvers_agree(family):
    """To what the condition of the problems leaves; and nearly all is found."""
    wrong, found = compare(family, range(6), np.float64, 1e-7, 2)
    assert not wrong
    assert all(found[kind] >= 6 * len(METHODS) - 1 for kind in KINDS)


def test_solvers_agree_in_float32():
    """Those that are well-conditioned."""
    kinds = ("regular",)
    wrong, found = compare("nonnegative", range(6), np.float32, 1e-2, 2, kinds)
    assert not wrong and found["regular"] == 6 * len(METHODS)
