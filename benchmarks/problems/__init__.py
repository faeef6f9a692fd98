"""The set of problems: families of generators with seeds, several sizes each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from . import combinatorial, conic, maros, quadratic
from ._problem import Problem as Problem


class Case(NamedTuple):
    """A problem that is not generated yet; `order` is about `n + m`."""

    name: str
    family: str
    order: int
    make: Callable[[], Problem]

    def problem(self) -> Problem:
        """Generates it: the same data each time."""
        return self.make()._replace(name=self.name, family=self.family)


def suite() -> list[Case]:
    """All generated cases, smallest first within a family."""
    cases = [
        Case(f"dense-{n}x{m}", "dense", n + 2 * m, partial(quadratic.dense, n, m))
        for n, m in [(10, 5), (50, 10), (100, 20), (500, 100), (1500, 500)]
    ]
    singular = 1e2, 1e3, 1e4, 5e4
    for family, make, orders in [
        ("sparse", quadratic.sparse, (1e3, 1e4, 1e5)),
        ("mpc", quadratic.mpc, (1e3, 1e4, 1e5, 1e6)),
        ("portfolio", quadratic.portfolio, (1e3, 1e4, 1e5)),
        ("lasso", quadratic.lasso, (1e3, 1e4, 1e5)),
        ("svm", quadratic.svm, (1e2, 1e3, 1e4)),
        ("lp", quadratic.lp, (1e2, 1e3, 1e4)),
        ("socp-many", conic.socp_many, (1e2, 1e3, 1e4, 1e5)),
        ("socp-large", conic.socp_large, (1e2, 1e3, 1e4, 1e5)),
        ("logistic", conic.logistic, (1e2, 1e3, 1e4)),
        ("power", conic.power, (1e2, 1e3, 1e4)),
        ("shortest-path", combinatorial.shortest_path, singular),
        ("maximum-flow", combinatorial.maximum_flow, singular),
        ("assignment", combinatorial.assignment, singular),
        ("transport", combinatorial.transport, singular),
        ("transport-quadratic", partial(combinatorial.transport, weight=0.5), singular),
        ("simplex", combinatorial.simplex, singular),
        ("knapsack", combinatorial.knapsack, singular),
        ("permutahedron", combinatorial.permutahedron, singular),
    ]:
        for order in map(int, orders):
            name = f"{family}-{order:.0e}".replace("e+0", "e")
            cases.append(Case(name, family, order, partial(make, order)))
    for size in (10, 20, 40, 60):
        order = size * (size + 2)
        cases.append(Case(f"sdp-{size}", "sdp", order, partial(conic.sdp, size)))
    return cases


def maros_cases(folder: Path) -> list[Case]:
    """Maros and Meszaros' problems in a folder, smallest first."""
    found = maros.loaders(folder).items()
    cases = [Case(name, "maros", order, make) for name, (order, make) in found]
    return sorted(cases, key=lambda case: case.order)
