"""What a program on this machine says: a client of the product that knows whether a cluster is whole, say."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from pydantic import Field, field_validator

from phoenix_fleet.config import Frozen
from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _process, _proof
from phoenix_fleet.gates.base import Gate

_PLACE = re.compile(r"\{(address|name|fleet|slot|version)\}")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,252}")
"""What may stand in an argument: no option, no path, nothing that a program could take for more than a word."""


class Settings(Frozen):
    """Which program, and with what."""

    argv: tuple[str, ...] = Field(
        min_length=1,
        max_length=64,
        description="Program and arguments, run without a shell. {address}, {name}, {fleet}, {slot} and {version} in "
        "an argument stand for the instance's own. A program with a slash is looked for beside the file.",
    )
    timeout: float = Field(30, gt=0, le=600, description="Seconds that it may take. Default 30.")
    label: str = Field(
        "", description="Name of its measurements. Default: command.", pattern=r"^[a-z0-9][a-z0-9 _-]{0,39}$|^$"
    )

    @field_validator("argv")
    @classmethod
    def _is_said_whole(cls, argv: tuple[str, ...]) -> tuple[str, ...]:
        if not argv[0] or _PLACE.search(argv[0]):
            raise ValueError("the program itself must be named, and not by what an instance says of itself")
        if any("\0" in each for each in argv):
            raise ValueError("an argument cannot hold a zero byte")
        return argv


class CannotMeasure(Exception):
    """The reason lies with us: nothing is known of what was to be measured."""


class Driver(Gate):
    """Passed if it ends with 0, failed if with another code; an error if it cannot be run, or not to its end.

    It gets a clean environment, nothing on its standard input, and what it prints is the proof.
    """

    Settings = Settings

    def measure(self, subject: Subject) -> Measurement:
        """The program's word on the subject."""
        try:
            argv = [self._program(), *(_filled(each, subject) for each in self.settings.argv[1:])]
            output = _proof.new_file(subject.workdir, "command", ".txt")
            ended = _process.run(
                argv,
                env=_process.environment(Path(subject.workdir)),
                cwd=Path(subject.workdir),
                output=output,
                timeout=timedelta(seconds=self.settings.timeout),
            )
        except CannotMeasure as why:
            return Measurement(value=f"not measured: {why}", passed=None, error=str(why))
        except OSError as error:
            said = f"{self.settings.argv[0]} cannot be run: {error.strerror or error}"
            return Measurement(value=f"not measured: {said}", passed=None, error=said)
        return self._measured(ended, str(output), argv)

    def _measured(self, ended: _process.Ended, output: str, argv: list[str]) -> Measurement:
        said = ended.output.strip().splitlines()
        last = f": {said[-1][:200]}" if said else ""
        details = {"argv": argv, "code": ended.code}
        if ended.code is None or ended.code < 0:
            how = f"took longer than {self.settings.timeout:g} s" if ended.code is None else f"got signal {-ended.code}"
            why = f"{self.settings.argv[0]} {how}"
            return Measurement(f"not measured: {why}", None, details=details, artefacts=(output,), error=why)
        return Measurement(
            value=f"{self.settings.argv[0]} ended with {ended.code}{last}",
            passed=ended.code == 0,
            details=details,
            artefacts=(output,),
        )

    def _program(self) -> str:
        program: str = self.settings.argv[0]
        return str(self.home / program) if "/" in program else program


def _filled(argument: str, subject: Subject) -> str:
    def value(match: re.Match[str]) -> str:
        what = match[1]
        if subject.instance is None and what in ("address", "name", "version"):
            raise CannotMeasure(f"there is no instance whose {what} could stand in {argument!r}")
        found = {
            "address": subject.instance.address if subject.instance else "",
            "name": subject.instance.name if subject.instance else "",
            "version": subject.instance.version if subject.instance else "",
            "fleet": str(subject.facts.get("fleet", "")),
            "slot": str(subject.facts.get("slot", "")),
        }[what]
        if not _SAFE.fullmatch(found):
            raise CannotMeasure(f"the {what} {found[:60]!r} cannot stand in an argument")
        return found

    return _PLACE.sub(value, argument)
