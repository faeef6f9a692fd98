"""diffqcp inside the layers of cvxpylayers. Needs the extra `cvxpylayers`."""

from ._backend import DiffQCP as DiffQCP
from ._jax_layer import CvxpyLayer as CvxpyLayer
