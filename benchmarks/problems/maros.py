"""Maros and Meszaros' test set, from a folder of NumPy files.

Each `NAME.npz` holds `min x'Px/2 + q'x` subject to `A x = b`, `G x <= h`: arrays `q`,
`b`, `h`, and `P`, `A`, `G` as SciPy's CSC in `P_data`, `P_indices`, `P_indptr` and
`P_shape`.
"""

from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ._problem import canonical, Problem


def load(path: Path) -> Problem:
    """The problem in a file."""
    with np.load(path) as file:
        P, A, G = (_matrix(file, name) for name in "PAG")
        b, h = file["b"].ravel(), file["h"].ravel()
        dims = {"z": b.size, "l": h.size}
        rows = canonical(sp.vstack([A, G]))
        q = file["q"].ravel().astype(float)
        right = np.concatenate([b, h]).astype(float)
        return Problem(canonical(sp.triu(P)), q, rows, right, dims)


def loaders(folder: Path) -> dict[str, tuple[int, partial]]:
    """By name: `n + m`, and what loads the problem."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            order = file["q"].size + file["b"].size + file["h"].size
        found[path.stem] = (order, partial(load, path))
    return found


def _matrix(file: np.lib.npyio.NpzFile, name: str) -> sp.csc_array:
    parts = (file[f"{name}_{part}"] for part in ("data", "indices", "indptr"))
    return sp.csc_array(tuple(parts), shape=tuple(file[f"{name}_shape"]))
