"""All mutants, in the order in which they are played and reported."""

from __future__ import annotations

from collections.abc import Sequence

from tests.mutants import of_data, of_decisions, of_findings, of_steps, of_the_catalog
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *of_decisions.MUTANTS,
    *of_the_catalog.MUTANTS,
    *of_steps.MUTANTS,
    *of_findings.MUTANTS,
    *of_data.MUTANTS,
)


def all_tests(mutants: Sequence[Mutant]) -> list[str]:
    """The tests that must notice them, each once."""
    return list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
