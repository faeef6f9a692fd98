"""Derivatives of the solutions of programs that are given as JAX functions."""

from ._methods import (
    AbstractHostMethod as AbstractHostMethod,
    SciPy as SciPy,
)
from ._program import Program as Program, ProgramSolution as ProgramSolution
from ._regularity import ProgramRegularity as ProgramRegularity
from ._sqp import SQP as SQP
