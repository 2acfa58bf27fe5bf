"""The blows of a campaign, drawn from a seed: what is struck, how, when, and for how long."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from phoenix_fleet.domain.steps import Step


class Act(StrEnum):
    """What is done to it."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP, SIGCONT"
    CUT = "pg_terminate_backend"


class Part(StrEnum):
    """What is struck."""

    TASK = "the task's process"
    WORKER = "worker"
    """The process that runs the task's process; stopped together with it, as a machine that freezes."""
    SCHEDULER = "scheduler"
    """Its own process alone: its workers and their tasks live on."""
    HOST = "scheduler with all its offspring"
    """As an init system or a container ends a service: workers and tasks die with it."""
    TRIGGERER = "triggerer"
    DAG_PROCESSOR = "dag-processor"
    API_SERVER = "api-server"
    CATALOG = "the catalog's sessions"
    AIRFLOW = "Airflow's sessions"
    DATABASES = "all sessions"


Kind = tuple[Act, Part]
DECK: tuple[tuple[Kind, int], ...] = (
    ((Act.KILL, Part.TASK), 3),
    ((Act.KILL, Part.WORKER), 2),
    ((Act.KILL, Part.SCHEDULER), 2),
    ((Act.KILL, Part.HOST), 1),
    ((Act.KILL, Part.TRIGGERER), 2),
    ((Act.KILL, Part.DAG_PROCESSOR), 1),
    ((Act.KILL, Part.API_SERVER), 1),
    ((Act.STOP, Part.TASK), 1),
    ((Act.STOP, Part.WORKER), 2),
    ((Act.STOP, Part.SCHEDULER), 1),
    ((Act.STOP, Part.TRIGGERER), 1),
    ((Act.CUT, Part.CATALOG), 1),
    ((Act.CUT, Part.AIRFLOW), 1),
    ((Act.CUT, Part.DATABASES), 1),
)
"""How often each kind comes in twenty blows: twelve kills, five stops, three cuts."""
LONGEST_PAUSE = 12.0
"""Seconds from the last recovery to the next blow, at most."""
PAST_THE_LEASE = (5.0, 15.0)
"""Seconds that a long stop lasts beyond a ticket's lease."""


@dataclass(frozen=True)
class Blow:
    """One blow, before it is dealt."""

    number: int
    act: Act
    part: Part
    pause: float
    """Seconds that the rollout is left alone before it."""
    step: Step | None
    """It falls when a replacement is at this step, if one gets there soon; None: whenever the pause is over."""
    seconds: float = 0.0
    """How long what is stopped stands still."""

    @property
    def kind(self) -> Kind:
        """Act and part."""
        return self.act, self.part


def draw(seed: int, count: int, *, lease: float) -> list[Blow]:
    """So many blows; the same for the same seed. Whole decks are shuffled, so every kind comes in its proportion."""
    rng = random.Random(seed)  # noqa: S311 (a seeded campaign, no secret)
    kinds = _kinds(rng)
    return [_blow(rng, number, *next(kinds), lease=lease) for number in range(1, count + 1)]


def tally(blows: list[Blow]) -> dict[Act, int]:
    """How many blows of each act."""
    return {act: sum(blow.act is act for blow in blows) for act in Act}


def _kinds(rng: random.Random) -> Iterator[Kind]:
    while True:
        deck = [kind for kind, times in DECK for _ in range(times)]
        rng.shuffle(deck)
        yield from deck


def _blow(rng: random.Random, number: int, act: Act, part: Part, *, lease: float) -> Blow:
    pause = round(rng.uniform(0.2, LONGEST_PAUSE), 2)
    step = rng.choice([None, *Step])
    seconds = 0.0
    if act is Act.STOP:
        long = rng.random() < 0.5
        seconds = lease + rng.uniform(*PAST_THE_LEASE) if long else rng.uniform(1.0, 8.0)
    return Blow(number, act, part, pause, step, round(seconds, 2))
