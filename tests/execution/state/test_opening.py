"""From a folder to a store: created whole, checked before touched, migrated once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.errors import BugError, MetaldError
from reconciler.execution.state import migrations
from reconciler.execution.state.migrations import Migration
from reconciler.execution.state.opening import (
    open_for_reading,
    open_for_writing,
    shipped_migrations,
)
from reconciler.execution.state.records import Event
from reconciler.execution.state.sqlite import SqliteReader, SqliteStore, open_reader, open_store
from reconciler.paths import StatePaths
from tests.execution.state.plans import WEB, begin, plan_of


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def content(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def write_directly(state: StatePaths, statement: str) -> None:
    connection = sqlite3.connect(state.database)
    with connection:
        connection.execute(statement)
    connection.close()


def next_migration(sql: str) -> tuple[Migration, ...]:
    shipped = shipped_migrations()
    return (*shipped, Migration(len(shipped) + 1, "next", sql, "sha"))


def test_the_state_is_for_its_owner_only(state: StatePaths) -> None:
    store = open_store(state)
    begin(store, plan_of(WEB))
    assert mode_of(state.root) == 0o700
    assert {mode_of(entry) for entry in state.root.iterdir()} == {0o600}
    store.close()


def test_a_folder_that_exists_keeps_its_mode(state: StatePaths) -> None:
    state.root.mkdir(mode=0o755)
    open_store(state).close()
    assert mode_of(state.root) == 0o755


def test_every_commit_reaches_the_disk(store: SqliteStore) -> None:
    with store._database.reading() as db:
        pragmas = [
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]


def header_overwritten(path: Path) -> None:
    path.write_bytes(b"x" * 100 + path.read_bytes()[100:])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_program(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [header_overwritten, emptied, of_another_program, cut_short])
@pytest.mark.parametrize("opened", [open_store, open_reader])
def test_what_is_no_sound_database_is_refused_untouched(
    state: StatePaths,
    damage: Callable[[Path], None],
    opened: Callable[[StatePaths], SqliteReader],
) -> None:
    open_store(state).close()
    damage(state.database)
    before = content(state.root)
    with pytest.raises(MetaldError) as caught:
        opened(state)
    assert type(caught.value) is MetaldError
    assert caught.value.subject == str(state.database)
    assert "nothing was changed" in caught.value.hint
    after = {name: data for name, data in content(state.root).items() if name in before}
    assert after == before


def test_damage_found_while_reading_is_named(state: StatePaths) -> None:
    store = open_store(state)
    store.add_events(Event(0.0, "vm/a/b", "Normal", "R", "m" * 500) for _ in range(1000))
    store.close()
    whole = bytearray(state.database.read_bytes())
    start = len(whole) // 2
    whole[start : start + 40_000] = b"\xff" * 40_000
    state.database.write_bytes(whole)
    damaged = open_store(state)
    with pytest.raises(MetaldError, match="damaged") as caught:
        damaged.events(limit=1000)
    assert "metald state restore" in caught.value.hint
    assert damaged.integrity() != ()
    damaged.close()


def test_a_sound_database_says_so(store: SqliteStore) -> None:
    begin(store, plan_of(WEB))
    assert store.integrity() == ()


def test_a_log_without_its_database_is_not_a_fresh_start(state: StatePaths) -> None:
    state.root.mkdir()
    log = state.database.with_name("state.db-wal")
    log.write_bytes(b"committed work")
    with pytest.raises(MetaldError, match="write-ahead log"):
        open_store(state)
    with pytest.raises(MetaldError, match="write-ahead log"):
        open_reader(state)
    assert content(state.root) == {"state.db-wal": b"committed work"}


def test_what_a_killed_creation_left_is_cleared(state: StatePaths) -> None:
    state.root.mkdir()
    (state.root / ".state.db.abc").write_bytes(b"half")
    store = open_store(state)
    assert not (state.root / ".state.db.abc").exists()
    store.close()


def test_migrations_run_once(state: StatePaths) -> None:
    open_store(state).close()
    grown = next_migration("CREATE TABLE more (x TEXT) STRICT;\nINSERT INTO more VALUES ('1');")
    for _ in range(2):
        database = open_for_writing(state, grown, now_s=5.0)
        with database.reading() as db:
            assert db.execute("SELECT count(*) FROM more").fetchone() == (1,)
            assert db.execute("SELECT number, sha256 FROM migrations").fetchall() == [
                (entry.number, entry.sha256) for entry in grown
            ]
        database.close()


def test_a_migration_that_fails_is_undone_as_a_whole(state: StatePaths) -> None:
    open_store(state).close()
    broken = next_migration("CREATE TABLE more (x TEXT) STRICT;\nINSERT INTO nowhere VALUES (1);")
    with pytest.raises(BugError, match="nowhere"):
        open_for_writing(state, broken, now_s=5.0)
    store = open_store(state)
    with store._database.reading() as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall() == []
    store.close()


@pytest.mark.parametrize("opened", [open_store, open_reader])
def test_a_newer_database_is_refused(
    state: StatePaths, opened: Callable[[StatePaths], SqliteReader]
) -> None:
    open_store(state).close()
    write_directly(state, "INSERT INTO migrations VALUES (999, 'later', 'sha', 0.0)")
    with pytest.raises(MetaldError, match="newer metald"):
        opened(state)


@pytest.mark.parametrize("opened", [open_store, open_reader])
def test_a_database_made_by_other_migrations_is_refused(
    state: StatePaths, opened: Callable[[StatePaths], SqliteReader]
) -> None:
    open_store(state).close()
    write_directly(state, "UPDATE migrations SET sha256 = 'edited'")
    with pytest.raises(MetaldError, match="differs"):
        opened(state)


def test_a_reader_migrates_nothing(state: StatePaths) -> None:
    open_store(state).close()
    with pytest.raises(MetaldError, match="older metald") as caught:
        open_for_reading(state, next_migration("CREATE TABLE more (x TEXT) STRICT;"))
    assert "metald apply" in caught.value.hint


def test_where_nothing_was_applied_a_reader_answers_empty_and_leaves_no_trace(
    state: StatePaths,
) -> None:
    reader = open_reader(state)
    ledger = reader.ledger(3.0)
    assert not reader.exists
    assert (ledger.managed, ledger.secret, ledger.now_s) == ({}, b"", 3.0)
    assert (reader.runs(10), reader.events(), reader.generations()) == ((), (), {})
    assert (reader.last_observation(), reader.good_documents("/specs")) == (None, {})
    assert not state.root.exists()
    reader.close()


def test_a_state_folder_that_is_a_file_is_an_error_not_an_absence(state: StatePaths) -> None:
    state.root.write_text("in the way")
    with pytest.raises(MetaldError, match="cannot be seen"):
        open_reader(state)
    with pytest.raises(MetaldError, match="cannot be made"):
        open_store(state)


def test_purge_leaves_no_file(state: StatePaths) -> None:
    store = open_store(state)
    begin(store, plan_of(WEB))
    reader = open_reader(state)
    store.purge()
    assert content(state.root) == {}
    assert set(reader.ledger(0.0).managed) == {WEB.address}, "who looked before still sees it"
    reader.close()


@pytest.mark.parametrize(
    "names", [[], ["0002_late.sql"], ["0001_a.sql", "0003_gap.sql"], ["0001_a.sql", "junk.sql"]]
)
def test_migration_files_are_numbered_without_gaps(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(BugError):
        migrations.load(tmp_path)
