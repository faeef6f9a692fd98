"""A conic form as an affine function of the problem's parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from ...cones.psd import PSDOrder
from ...structure import QCPStructureCPU
from ._conversions import pattern_matrix


class ParametricForm:
    """The stored values of `(P, A, q, b)` are `M (parameters, 1)` for a sparse `M`.

    `M` comes from the tensors of CVXPY's parametrised cone program. (Agrawal et al.,
    "Differentiable convex optimization layers", 2019, section 4.) Unlike the matrices
    for one value of the parameters, it has the entries that vanish there.

    **Arguments:**

    - `program`: CVXPY's `ParamConeProg` in the form for a solver, `A x + b` in cones.
    - `cone_dims`, `psd_order`: as for [`diffqcp.QCPStructureCPU`][].
    """

    structure: QCPStructureCPU
    cone_dims: Mapping[str, Any]

    def __init__(self, program: Any, cone_dims: Mapping[str, Any], psd_order: PSDOrder):
        self.cone_dims = cone_dims
        starts = program.param_id_to_col
        self._columns = [(param, starts[param.id]) for param in program.parameters]
        n, columns = program.x.size, program.q.shape[1]
        # A column of a tensor is a matrix by its columns; those of `A` and `b` are one.
        both: Any = sp.csr_array(program.A)
        m = both.shape[0] // (n + 1)
        A_map, A_places = _stored(both[: m * n], m)
        P_all = sp.csr_array((0, columns) if program.P is None else program.P)
        P_map, P_places = _stored(P_all, n)
        upper = P_places[0] <= P_places[1]
        P_map, P_places = P_map[upper], P_places[:, upper]
        q_all: Any = sp.csr_array(program.q)
        q_map, b_map = q_all[:n], both[m * n :]
        self._map: Any = sp.csr_array(sp.vstack([P_map, -A_map, q_map, b_map]))
        self._ends = np.cumsum([P_map.shape[0], A_map.shape[0], n])
        self.structure = QCPStructureCPU(
            pattern_matrix(P_places, (n, n)),
            pattern_matrix(A_places, (m, n)),
            cone_dims,
            psd_order=psd_order,
        )

    def data(self) -> list[np.ndarray]:
        """`(P, A, q, b)` for the current values of the parameters."""
        values = {param.id: np.asarray(param.value) for param, _ in self._columns}
        return self._apply(values, 1.0)

    def change(self, deltas: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """How `(P, A, q, b)` change with the parameters of these identifiers."""
        return self._apply(deltas, 0.0)

    def _apply(self, values: Mapping[int, np.ndarray], constant: float):
        vector = np.zeros(self._map.shape[1])
        vector[-1] = constant
        for param, start in self._columns:
            if param.id in values:
                value = np.broadcast_to(values[param.id], param.shape)
                vector[start : start + param.size] = value.ravel(order="F")
        return np.split(self._map @ vector, self._ends)

    def gradients(self, data: Any) -> dict[int, np.ndarray]:
        """The adjoint of `change`."""
        vector = self._map.T @ np.concatenate([np.asarray(part) for part in data])
        return {
            param.id: vector[start : start + param.size].reshape(param.shape, order="F")
            for param, start in self._columns
        }


def _stored(tensor: Any, height: int) -> tuple[Any, np.ndarray]:
    """The rows of `tensor` that are not zero, and the rows and columns in a matrix of
    `height` rows that they stand for.
    """
    tensor.eliminate_zeros()
    rows = np.flatnonzero(np.diff(tensor.indptr))
    return tensor[rows], np.stack(divmod(rows, max(height, 1))[::-1])
