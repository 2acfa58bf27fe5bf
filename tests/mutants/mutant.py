"""A mutant: one mistake in the engine that somebody could make, and the tests that must notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path("include/phoenix_fleet")


@dataclass(frozen=True)
class Mutant:
    """One snippet of the package in the place of another."""

    name: str
    promise: str
    """What it breaks: the promise's number and words."""
    file: str
    """Within the package."""
    original: str
    """Stands there exactly once."""
    replacement: str
    tests: tuple[str, ...]
    """Node ids within ``tests/``; one of them must fail."""

    @property
    def path(self) -> Path:
        """The file within the project."""
        return PACKAGE / self.file

    def apply(self, project: Path) -> None:
        """Put the mistake into that project's file.

        :raises LookupError: the snippet does not stand there exactly once, so the mutant no longer follows the code.
        """
        path = project / self.path
        text = path.read_text(encoding="utf-8")
        if (found := text.count(self.original)) != 1:
            raise LookupError(f"{self.name}: its snippet stands {found} times in {self.path}: {self.original!r}")
        path.write_text(text.replace(self.original, self.replacement), encoding="utf-8")
        # A compiled file knows its source by size and second only.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()
