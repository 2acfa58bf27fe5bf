from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog import catalog as catalog_module
from phoenix_fleet.catalog.migration import VERSION_TABLE
from phoenix_fleet.catalog.schema import Base
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import AuthenticationFailed, InvalidConfig, PermanentError, Unavailable
from tests.postgres import PostgresServer
from tests.unit.catalog.helpers import NOVEMBER, open_image, open_rollout

SECRET = "hunter2-s3cret"


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


# Migrations


def test_migrations_and_models_agree(url: str) -> None:
    with Catalog(url) as catalog:
        catalog.migrate()
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert context.get_current_revision() == "0004"
        assert compare_metadata(context, Base.metadata) == []
        tables = set(inspect(connection).get_table_names())
    engine.dispose()
    assert tables == {*Base.metadata.tables, VERSION_TABLE}


def test_partial_indexes_are_the_same_in_models_and_migrations(url: str) -> None:
    with Catalog(url) as catalog:
        catalog.migrate()
    engine = create_engine(url)
    indexes = inspect(engine).get_indexes
    found = {
        index["name"]: str(index["dialect_options"][f"{engine.dialect.name}_where"])
        for table in ("images", "rollouts")
        for index in indexes(table)
        if f"{engine.dialect.name}_where" in index["dialect_options"]
    }
    engine.dispose()
    assert set(found) == {"uq_images_in_flight", "uq_rollouts_current"}
    for rung in ("candidate", "tested", "certified", "staged"):
        assert f"'{rung}'" in found["uq_images_in_flight"]
    assert "'released'" not in found["uq_images_in_flight"]
    assert "'open'" in found["uq_rollouts_current"]
    assert "'halted'" in found["uq_rollouts_current"]


def test_migrating_again_changes_nothing(catalog: Catalog) -> None:
    image = open_image(catalog)
    catalog.migrate()
    assert catalog.images.get(image.family, image.version) == image


def test_a_database_of_a_newer_release_is_left_alone(catalog: Catalog, migrated_url: str) -> None:
    engine = create_engine(migrated_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE catalog_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(InvalidConfig, match=r"not of this release.*9999"):
        catalog.migrate()


def test_a_database_without_tables_says_what_to_do(url: str) -> None:
    with Catalog(url) as catalog:
        for ask in (lambda: catalog.images.in_flight("debian-base"), lambda: open_image(catalog)):
            with pytest.raises(InvalidConfig, match="Run the migrations once"):
                ask()


# Where it is kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///relative.db",
        "sqlite:///:memory:",
        "mysql://u:p@h/d",
        "postgresql+asyncpg://h/d",
    ],
)
def test_only_databases_that_can_hold_a_catalog_are_accepted(url: str) -> None:
    with pytest.raises(InvalidConfig, match="Write sqlite:////absolute"):
        Catalog(url)


def test_naming_a_database_opens_nothing(tmp_path: Path) -> None:
    Catalog(sqlite_url(tmp_path / "deep" / "catalog.db")).close()
    Catalog("postgresql://u:p@192.0.2.1/nowhere").close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    with Catalog(sqlite_url(tmp_path / "deep" / "down" / "catalog.db")) as catalog:
        catalog.migrate()
        open_image(catalog)
    assert (tmp_path / "deep" / "down" / "catalog.db").is_file()


def test_the_environment_names_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_CATALOG_URL", sqlite_url(tmp_path / "there.db"))
    assert "there.db" in repr(Catalog.from_environment())
    monkeypatch.delenv("PHOENIX_CATALOG_URL")
    assert repr(Catalog.from_environment()) == f"Catalog('{catalog_module.DEFAULT_URL}')"


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    catalog = Catalog(sqlite_url(tmp_path / "file" / "catalog.db"))
    for ask in (catalog.migrate, lambda: open_image(catalog)):
        with pytest.raises(InvalidConfig, match=r"Remedy: Make it writable .* PHOENIX_CATALOG_URL"):
            ask()


def test_a_path_that_is_a_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").mkdir()
    with pytest.raises(InvalidConfig, match="PHOENIX_CATALOG_URL"):
        Catalog(sqlite_url(tmp_path / "catalog.db")).migrate()


def test_a_file_that_is_no_database_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_text("my diary, page one. " * 100)
    with pytest.raises(PermanentError, match=r"not a database.*backup"):
        Catalog(sqlite_url(tmp_path / "catalog.db")).migrate()
    assert (tmp_path / "catalog.db").read_text().startswith("my diary")


def test_sqlite_is_set_up_for_many_readers_and_safe_writes(tmp_path: Path) -> None:
    catalog = Catalog(sqlite_url(tmp_path / "catalog.db"))
    catalog.migrate()
    with catalog.events._database.read() as session:
        values = {
            name: session.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert values == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 30000}


# Moments


def test_moments_come_back_aware_and_in_utc(catalog: Catalog, clock: ManualClock) -> None:
    clock.advance(timedelta(microseconds=123456))
    image = open_image(catalog)
    assert image.created_at == clock.now()
    kept = catalog.images.get(image.family, image.version).created_at
    assert kept == clock.now()
    assert kept is not None
    assert kept.utcoffset() == timedelta(0)


class _FarAway:
    """A clock that keeps the promise of aware moments, though not of UTC."""

    def now(self) -> datetime:
        return datetime(2026, 11, 1, 12, tzinfo=timezone(timedelta(hours=9)))


def test_moments_of_other_zones_are_kept_in_utc(migrated_url: str) -> None:
    with Catalog(migrated_url, _FarAway()) as catalog:
        open_image(catalog)
        assert catalog.images.list_images("debian-base")[0].created_at == datetime(2026, 11, 1, 3, tzinfo=UTC)
        catalog.events.verify()


# When it does not answer


def test_a_locked_sqlite_file_is_unavailable(tmp_path: Path) -> None:
    catalog = Catalog(sqlite_url(tmp_path / "catalog.db"), lock_timeout=timedelta(seconds=0.1))
    catalog.migrate()
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="held the catalog for too long"):
        open_image(catalog)
    assert catalog.images.in_flight("debian-base") is None
    other.execute("ROLLBACK")
    other.close()
    assert open_image(catalog).window == NOVEMBER
    catalog.close()


@pytest.mark.postgres
def test_a_locked_postgresql_row_is_unavailable(postgres_url: str) -> None:
    catalog = Catalog(postgres_url, lock_timeout=timedelta(seconds=1))
    catalog.migrate()
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("SELECT * FROM chain FOR UPDATE"))
        with pytest.raises(Unavailable, match="lock timeout"):
            open_image(catalog)
    engine.dispose()
    assert open_image(catalog).window == NOVEMBER
    catalog.close()


@pytest.mark.postgres
def test_a_holder_that_stops_in_the_middle_is_cut_off(postgres_url: str) -> None:
    stuck = Catalog(postgres_url, lock_timeout=timedelta(seconds=1))
    stuck.migrate()
    other = Catalog(postgres_url, lock_timeout=timedelta(seconds=30))

    def stop_in_the_middle() -> None:
        with stuck.events._database.write() as tx:
            tx.event("test", "never", "nobody", {})
            assert open_image(other).window == NOVEMBER  # waits until the server has ended the stuck transaction

    with pytest.raises(Unavailable):
        stop_in_the_middle()
    assert [event.kind for event in other.events.list_events()] == ["image.opened"]
    other.events.verify()
    stuck.close()
    other.close()


@pytest.mark.postgres
def test_a_server_that_goes_away_is_unavailable_until_it_comes_back() -> None:
    server = PostgresServer()
    try:
        server.start()
        url = server.url(server.create_database())
        with Catalog(url) as catalog:
            catalog.migrate()
            open_image(catalog)
            server.stop()
            for ask in (
                lambda: catalog.images.in_flight("debian-base"),
                lambda: open_rollout(catalog),
                catalog.migrate,
            ):
                with pytest.raises(Unavailable):
                    ask()
            server.start()
            assert catalog.images.in_flight("debian-base") is not None
    finally:
        server.remove()


@pytest.mark.postgres
def test_postgresql_says_what_is_wrong_with_the_url(postgres_server: PostgresServer) -> None:
    with Catalog(postgres_server.url("nowhere")) as catalog, pytest.raises(InvalidConfig, match="Create it"):
        catalog.migrate()
    wrong = postgres_server.url("postgres", password=SECRET, host="127.0.0.1", port=postgres_server.port, query={})
    with Catalog(wrong) as catalog, pytest.raises(AuthenticationFailed, match="user and password"):
        catalog.migrate()


@pytest.mark.postgres
def test_postgresql_rights_that_lack_are_named(postgres_server: PostgresServer, postgres_url: str) -> None:
    with Catalog(postgres_url) as catalog:
        catalog.migrate()
    postgres_server.execute("DROP ROLE IF EXISTS guest")
    postgres_server.execute("CREATE ROLE guest LOGIN")
    guest = postgres_url.replace("phoenix@", "guest@")
    with Catalog(guest) as catalog, pytest.raises(InvalidConfig, match=r"permission denied.*Grant the rights"):
        catalog.images.in_flight("debian-base")


@pytest.mark.postgres
def test_a_url_without_a_driver_means_psycopg2(postgres_url: str) -> None:
    with Catalog(postgres_url.replace("postgresql+psycopg2:", "postgresql:")) as catalog:
        catalog.migrate()
        assert open_image(catalog).window == NOVEMBER


@pytest.mark.postgres
def test_the_password_is_never_told(caplog: pytest.LogCaptureFixture, postgres_server: PostgresServer) -> None:
    caplog.set_level(1)
    told = []
    place = f"127.0.0.1:{postgres_server.port}"
    for url in (
        f"postgresql://u:{SECRET}@{place}/db",
        f"postgresql://u:{SECRET}@127.0.0.1:1/db",
        f"postgresql://u:{SECRET}@host:{SECRET}/db",
        f"mysql://u:{SECRET}@host/db",
        f"sqlite://u:{SECRET}@/catalog.db",
        f"{SECRET} is no URL",
    ):
        try:
            with Catalog(url) as catalog:
                told.append(repr(catalog))
                catalog.migrate()
        except (InvalidConfig, Unavailable, AuthenticationFailed) as error:
            told += [str(error), repr(error), "".join(traceback.format_exception(error))]
    assert len(told) >= 3 * 6
    assert SECRET not in "\n".join(told) + caplog.text


# Processes


def test_a_forked_child_speaks_on_connections_of_its_own(catalog: Catalog) -> None:
    open_image(catalog)
    child = os.fork()
    if child == 0:
        try:
            catalog.events.append("test", "child", "child", {})
            catalog.close()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    catalog.events.append("test", "parent", "parent", {})
    assert [event.subject for event in catalog.events.list_events(limit=2)] == ["parent", "child"]
    catalog.events.verify()


def test_a_closed_catalog_opens_again(catalog: Catalog) -> None:
    open_image(catalog)
    catalog.close()
    catalog.close()
    assert catalog.images.in_flight("debian-base") is not None


def test_records_need_no_database_library() -> None:
    script = (
        "import sys; import phoenix_fleet.catalog; from phoenix_fleet.catalog.records import Ticket; "
        "assert not {'sqlalchemy', 'alembic', 'psycopg2'} & set(sys.modules); "
        "from phoenix_fleet.catalog import Catalog; assert 'sqlalchemy' in sys.modules"
    )
    folder = str(Path(catalog_module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_there_is_nothing_else_to_import() -> None:
    import phoenix_fleet.catalog

    with pytest.raises(AttributeError, match="no attribute 'Ledger'"):
        _ = phoenix_fleet.catalog.Ledger
