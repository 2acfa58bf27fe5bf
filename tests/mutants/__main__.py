"""Plays all mutants, or those named, and shows what noticed each.

python -m tests.mutants [--report] [NAME …]      --report also brings docs/reports/mutants.md up to date
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator, Sequence

from tests.mutants.declared import MUTANTS, all_tests
from tests.mutants.playing import PROJECT, Played, play_all, play_unchanged

REPORT = PROJECT / "docs/reports/mutants.md"


def main() -> int:
    """0 if every mutant was caught and the unchanged package passes."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--report", action="store_true", help=f"write {REPORT.relative_to(PROJECT)}")
    chosen = parser.parse_args()
    known = {each.name: each for each in MUTANTS}
    if unknown := sorted(set(chosen.names) - set(known)):
        parser.error(f"no such mutant: {', '.join(unknown)}; there are {', '.join(known)}")
    mutants = [known[name] for name in chosen.names] or list(MUTANTS)
    began = time.monotonic()
    played = []
    for one in play_all(mutants):
        played.append(one)
        print(f"{one.verdict:9}{one.name:44}{one.seconds:6.1f} s  {one.noticed_by}", flush=True)
        if one.verdict != "caught":
            print(one.output, flush=True)
    control = play_unchanged(all_tests(mutants))
    took = time.monotonic() - began
    if control.exit_code:
        print(control.output)
    caught = sum(each.verdict == "caught" for each in played)
    unchanged = "passes" if control.exit_code == 0 else f"FAILS ({control.exit_code})"
    print(f"{caught} of {len(played)} caught; unchanged, the package {unchanged} the same tests; {took:.0f} s")
    good = caught == len(played) and control.exit_code == 0
    if chosen.report:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(_report(played, unchanged, took), encoding="utf-8")
    return 0 if good else 1


def _report(played: Sequence[Played], unchanged: str, took: float) -> str:
    """The page; of mutants that were not played now it keeps the rows that it has."""
    rows = dict(_rows_before())
    declared = {each.name: each for each in MUTANTS}
    for one in played:
        mutant = declared[one.name]
        rows[one.name] = f"| {one.name} | {mutant.promise} | `{mutant.file}` | {_told(one)} | {one.seconds:.1f} |"
    shown = [rows[name] for name in declared if name in rows]
    missed = sum("| **" in row for row in shown)
    return "\n".join(
        [
            "# Mutants of the engine",
            "",
            "Made by `python -m tests.mutants --report`, and brought up to date for some by naming them. Each mutant",
            "is a mistake put on purpose into a copy of the package; a test must notice it.",
            "",
            f"**{len(shown) - missed} of {len(shown)} caught.** Unchanged, the package {unchanged} the same tests.",
            f"The last {len(played)} took {took:.0f} s, two at a time, on {platform.system()} with Python "
            f"{platform.python_version()}.",
            "",
            "| Mutant | Promise that it breaks | File | Caught by | Seconds |",
            "|---|---|---|---|--:|",
            *shown,
            "",
        ]
    )


def _rows_before() -> Iterator[tuple[str, str]]:
    lines = REPORT.read_text(encoding="utf-8").splitlines() if REPORT.exists() else []
    for line in lines:
        if line.startswith("| "):
            yield line.split(" | ")[0].removeprefix("| "), line


def _told(one: Played) -> str:
    if one.verdict == "caught":
        file, _, test = one.noticed_by.partition("::")
        return f"`{test}` in `tests/{file}`"
    return f"**{one.verdict}**"


if __name__ == "__main__":
    raise SystemExit(main())
