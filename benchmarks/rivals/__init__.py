"""Other packages that differentiate solutions, one file each."""

from ._base import Prepared as Prepared, Rival as Rival
from .diffcp import Diffcp
from .jaxopt import Jaxopt
from .moreau import Moreau
from .pounce import Pounce
from .proxsuite import Proxsuite
from .qpax import Qpax
from .qpth import Qpth


RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        Moreau("exact"),
        Moreau("active set"),
        Moreau("smoothed"),
        Diffcp("lsqr"),
        Diffcp("dense"),
        Qpax(),
        Proxsuite(),
        Qpth(),
        Jaxopt(),
        Pounce(),
    )
}
