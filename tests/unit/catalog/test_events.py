from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, text

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import ChainHead
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import InvalidConfig, NotFound, PermanentError
from phoenix_fleet.domain.ladder import Rung
from tests.unit.catalog.helpers import V1, open_image, open_rollout

LENGTH = 8


@pytest.fixture
def written(catalog: Catalog, clock: ManualClock) -> Catalog:
    for number in range(1, LENGTH + 1):
        catalog.events.append("test.event", f"things/{number}", "alice", {"number": number, "words": "grüß \u2028"})
        clock.advance(timedelta(seconds=1, microseconds=number))
    return catalog


def tamper(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_an_empty_chain_is_whole(catalog: Catalog) -> None:
    catalog.events.verify()
    assert catalog.events.head() == ChainHead(0, "0" * 64)
    assert catalog.events.list_events() == []


def test_events_are_listed_newest_first(written: Catalog) -> None:
    events = written.events.list_events()
    assert [event.seq for event in events] == list(range(LENGTH, 0, -1))
    assert [event.seq for event in written.events.list_events(limit=2)] == [LENGTH, LENGTH - 1]
    newest = events[0]
    assert (newest.kind, newest.subject, newest.actor) == ("test.event", f"things/{LENGTH}", "alice")
    assert newest.payload == {"number": LENGTH, "words": "grüß \u2028"}
    assert written.events.head() == ChainHead(LENGTH, newest.hash)


def test_events_are_found_by_the_beginning_of_their_subject(catalog: Catalog) -> None:
    for subject in ("fleets/web/1", "fleets/web_1/1", "Fleets/web/1", "fleets/w%b/1", "x/fleets/web/1"):
        catalog.events.append("test", subject, "alice", {})
    found = {
        prefix: [event.subject for event in catalog.events.list_events(prefix)]
        for prefix in ("fleets/web/", "fleets/w%", "fleets/web_", "fleets/none")
    }
    assert found == {
        "fleets/web/": ["fleets/web/1"],
        "fleets/w%": ["fleets/w%b/1"],
        "fleets/web_": ["fleets/web_1/1"],
        "fleets/none": [],
    }


def test_each_event_carries_the_hash_of_the_one_before(written: Catalog) -> None:
    """By the recipe alone, as someone else's program would."""
    previous = "0" * 64
    for event in reversed(written.events.list_events()):
        row = {
            "seq": event.seq,
            "at": event.at.isoformat(timespec="microseconds"),
            "kind": event.kind,
            "subject": event.subject,
            "actor": event.actor,
            "payload": event.payload,
        }
        canonical = json.dumps(row, sort_keys=True, separators=(",", ":"))
        assert event.prev_hash == previous
        assert event.hash == hashlib.sha256((previous + canonical).encode()).hexdigest()
        previous = event.hash


def test_a_whole_chain_verifies_whatever_was_written(written: Catalog) -> None:
    written.events.append("odd\x00", "\ud800", "'; --", {"nan": float("nan"), "big": 2**80, "float": 0.1, "none": None})
    written.events.verify()


SWAP = (
    "UPDATE events SET seq = 100 WHERE seq = 3",
    "UPDATE events SET seq = 3 WHERE seq = 4",
    "UPDATE events SET seq = 4 WHERE seq = 100",
)


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        pytest.param(["DELETE FROM events WHERE seq = 1"], "at event 1: it is missing", id="the first deleted"),
        pytest.param(["DELETE FROM events WHERE seq = 4"], "at event 4: it is missing", id="one deleted"),
        pytest.param(
            ["DELETE FROM events WHERE seq BETWEEN 3 AND 6"], "at event 3: it is missing", id="the middle cut out"
        ),
        pytest.param(
            [
                "DELETE FROM events WHERE seq BETWEEN 3 AND 6",
                "UPDATE events SET seq = seq - 4 WHERE seq > 6",
                "UPDATE chain SET count = count - 4",
            ],
            "at event 3: it does not follow on the one before",
            id="the middle cut out and numbered anew",
        ),
        pytest.param(
            ["DELETE FROM events WHERE seq > 5"],
            "at event 6: it and all later ones are missing: the chain had 8",
            id="the tail cut off",
        ),
        pytest.param(["DELETE FROM events"], "at event 1: it and all later ones", id="all deleted"),
        pytest.param(
            ["DELETE FROM events WHERE seq > 5", "UPDATE chain SET count = 5"],
            "at event 5: the chain's head does not know it",
            id="the tail cut off and the count with it",
        ),
        pytest.param(["UPDATE events SET actor = 'bob' WHERE seq = 4"], "at event 4: its content", id="actor"),
        pytest.param(["UPDATE events SET kind = 'x' WHERE seq = 4"], "at event 4: its content", id="kind"),
        pytest.param(["UPDATE events SET subject = 'x' WHERE seq = 8"], "at event 8: its content", id="subject"),
        pytest.param(
            ["UPDATE events SET at = '2026-10-01 00:00:00.000000' WHERE seq = 4"], "at event 4: its content", id="at"
        ),
        pytest.param(["UPDATE events SET payload = '{}' WHERE seq = 4"], "at event 4: its content", id="payload"),
        pytest.param(["UPDATE events SET payload = '{' WHERE seq = 4"], "at event 4: its content", id="no JSON"),
        pytest.param(["UPDATE events SET hash = prev_hash WHERE seq = 4"], "at event 4: its content", id="hash"),
        pytest.param(SWAP, "at event 3: it does not follow", id="two swapped"),
        pytest.param(
            [
                "INSERT INTO events SELECT 9, at, kind, subject, actor, payload, hash, hash FROM events WHERE seq = 8",
            ],
            "at event 9: its content",
            id="one added",
        ),
        pytest.param(["UPDATE chain SET count = 7"], "at event 8: the chain's head", id="head's count"),
        pytest.param(["UPDATE chain SET hash = 'x'"], "at event 8: the chain's head", id="head's hash"),
        pytest.param(["DELETE FROM chain"], "at event 8: the chain's head", id="head deleted"),
    ],
)
def test_tampering_shows(written: Catalog, migrated_url: str, statements: list[str], message: str) -> None:
    written.events.verify()
    tamper(migrated_url, *statements)
    with pytest.raises(PermanentError, match=f"The event chain is broken {message}"):
        written.events.verify()


def test_without_its_head_nothing_more_is_written(written: Catalog, migrated_url: str) -> None:
    tamper(migrated_url, "DELETE FROM chain")
    with pytest.raises(PermanentError, match="lost its head row"):
        written.events.append("test", "things/9", "alice", {})


def test_what_is_rolled_back_leaves_no_event(catalog: Catalog) -> None:
    open_image(catalog)
    head = catalog.events.head()
    with pytest.raises(NotFound):
        catalog.images.move("debian-base", V1.__class__(V1.window, 9), Rung.TESTED, actor="alice")
    with pytest.raises(InvalidConfig):
        catalog.events.append("test", "things", "alice", {"bad": object()})
    with pytest.raises(InvalidConfig):
        open_rollout(catalog, settings={"bad": object()})
    assert catalog.events.head() == head
    catalog.events.verify()


def test_a_long_chain_is_walked_in_batches(catalog: Catalog) -> None:
    with catalog.events._database.write() as tx:
        for number in range(2500):
            tx.event("test", "things", "alice", {"number": number})
    catalog.events.verify()
    assert catalog.events.head().count == 2500
