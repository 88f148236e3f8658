"""An app hands a user's own history over: the functions, what they refuse, two sessions at once."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.exc import DBAPIError

from spotify_pipeline import app as contract
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import add_user, cause

END = datetime(2024, 3, 1, 12, 34, 56, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROW = {
    "ended_at": "2024-03-01T12:34:56Z",
    "ms_played": 213_000,
    "track_id": "4uLU6hMCjMI75M1A2tKUQC",
    "track_name": "Song",
    "artist_name": "Artist",
    "album_name": None,
    "offline_started_at": None,
}
FILE = {
    "name": "endsong_0.json",
    "source": "extended",
    "counts": {"podcast": 2, "malformed": 1},
    "first_at": "2024-03-01T10:00:00Z",
    "last_at": "2024-03-01T12:34:56Z",
    "malformed": [[7, "ts is not a time"]],
}
ADD = text("SELECT spotify_pipeline.add_history_rows(:id, :number, :file, CAST(:rows AS jsonb))")
CLOSE = text("SELECT spotify_pipeline.close_history_import(:id, CAST(:files AS jsonb))")
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


def add(app: Connection, import_id: int, *rows: object, number: int = 0, file: int = 0) -> None:
    values = {"id": import_id, "number": number, "file": file, "rows": json.dumps(rows)}
    app.execute(ADD, values)


def close(app: Connection, import_id: int, *files: object) -> None:
    app.execute(CLOSE, {"id": import_id, "files": json.dumps(files or [FILE])})


def refused(call: Callable[[], object]) -> tuple[str | None, str | None]:
    """SQLSTATE and sentence of the refusal."""
    try:
        call()
    except contract.Refused as refusal:
        return refusal.sqlstate, refusal.message
    except DBAPIError as error:
        return cause(error).sqlstate, cause(error).diag.message_primary
    return None, None


def state(call: Callable[[], object]) -> str | None:
    return refused(call)[0]


@pytest.fixture
def eve(connection: Connection) -> str:
    return add_user(connection, "eve", connection="disconnected")


def test_a_disconnected_user_hands_a_history_over_and_reads_how_far_it_is(
    app: Connection, connection: Connection, eve: str
) -> None:
    import_id = contract.open_history_import(app, eve)
    row = SimpleNamespace(**ROW | {"ended_at": END, "offline_started_at": END - HOUR})
    account = SimpleNamespace(**ROW | {"ended_at": END, "track_id": None})
    contract.add_history_rows(app, import_id, 0, 0, [row, row])
    contract.add_history_rows(app, import_id, 1, 1, [account])
    (receipt,) = contract.history_receipts(app, eve)
    assert (receipt.import_id, receipt.status, receipt.rows_read) == (import_id, "open", 3)
    files = [
        contract.HistoryFile("a.json", "extended", {"silent": 4}, END - HOUR, END),
        contract.HistoryFile("b.json", "account", {}, END, END, [(3, "not an object")]),
    ]
    contract.close_history_import(app, import_id, files)
    contract.close_history_import(app, import_id, files)
    contract.discard_history_import(app, import_id)
    (receipt,) = contract.history_receipts(app, eve)
    assert (receipt.status, receipt.rows_read, receipt.files) == ("closed", 3, [])
    stored = connection.execute(select(t.history_import_batches)).mappings().all()
    assert [(batch["file"], batch["source"], batch["row_count"]) for batch in stored] == [
        (0, "extended", 2),
        (1, "account", 1),
    ]
    assert (stored[0]["first_at"], stored[0]["last_at"]) == (END, END)
    assert state(lambda: contract.open_history_import(app, eve)) == contract.BUSY
    assert state(lambda: add(app, import_id, ROW, number=2)) == contract.BUSY
    contract.forget_user(app, eve)
    left = select(func.count()).select_from(t.history_import_batches)
    assert connection.scalar(left) == 0
    assert contract.history_receipts(app, eve) == []


def test_a_session_with_backslashes_in_strings_hands_a_history_over(
    app: Connection, eve: str
) -> None:
    # The body of a function is parsed under the settings of the session that calls it.
    app.execute(text("SET LOCAL standard_conforming_strings = off"))
    import_id = contract.open_history_import(app, eve)
    add(app, import_id, ROW)
    close(app, import_id)
    sql = Path(contract.__file__).parent / "storage" / "sql"
    assert [path.name for path in sql.iterdir() if "\\" in path.read_text()] == []


def test_only_the_documented_fields_of_a_row_are_stored(
    app: Connection, connection: Connection, eve: str
) -> None:
    import_id = contract.open_history_import(app, eve)
    add(app, import_id, ROW | {"ip_addr": "203.0.113.77", "username": "secret"})
    content = connection.scalar(select(t.history_import_batches.c.content))
    assert content == [list(ROW.values())]


def test_a_batch_sent_again_replaces_itself(
    app: Connection, connection: Connection, eve: str
) -> None:
    import_id = contract.open_history_import(app, eve)
    add(app, import_id, ROW, ROW)
    add(app, import_id, ROW)
    assert connection.scalar(select(t.history_import_batches.c.row_count)) == 1


WRONG_ROWS: list[tuple[object, str]] = [
    ("x", "it is not an object"),
    (ROW | {"ended_at": "yesterday"}, "ended_at is not a time"),
    (ROW | {"ended_at": "2024-03-01 12:34:56"}, "ended_at is not a time"),
    (ROW | {"ended_at": "infinity"}, "ended_at is not a time"),
    (ROW | {"ended_at": None}, "ended_at is not a time"),
    (ROW | {"ended_at": "2023-02-30T12:00:00Z"}, "a time does not exist"),
    (ROW | {"ms_played": 0}, "ms_played is not"),
    (ROW | {"ms_played": 86_400_001}, "ms_played is not"),
    (ROW | {"ms_played": 1.5}, "ms_played is not"),
    (ROW | {"ms_played": "5"}, "ms_played is not"),
    (ROW | {"track_id": "spotify:track:4uLU6hMCjMI75M1A2tKUQC"}, "track_id is not"),
    (ROW | {"track_id": 5}, "track_id is not"),
    (ROW | {"track_name": None}, "a name is not"),
    (ROW | {"artist_name": "x" * 1001}, "a name is not"),
    (ROW | {"album_name": 5}, "a name is not"),
    (ROW | {"offline_started_at": "2024-03-01T12:34:57Z"}, "offline_started_at is not"),
    (ROW | {"offline_started_at": "2024-01-01T00:00:00Z"}, "offline_started_at is not"),
    (ROW | {"offline_started_at": "2024-03-01T12:00:00Z", "track_id": None}, "offline_started_at"),
]


def test_a_row_that_breaks_a_rule_is_refused_by_its_position(app: Connection, eve: str) -> None:
    import_id = contract.open_history_import(app, eve)
    for row, sentence in WRONG_ROWS:
        code, message = refused(lambda row=row: add(app, import_id, ROW, row))
        assert code == "22023", row
        assert message is not None
        assert message.startswith("The rows cannot be stored: "), row
        assert sentence in message, row
        assert "row 1 of the batch" in message or "a time does not exist" in message, row
    mixed = lambda: add(app, import_id, ROW, ROW | {"track_id": None})  # noqa: E731
    assert refused(mixed)[1] == (
        "The rows cannot be stored: rows of one file all have a track_id, or none has."
    )


@pytest.mark.parametrize(
    "values",
    [
        {"rows": "{}"},
        {"rows": "[]"},
        {"rows": None},
        {"rows": json.dumps([ROW] * 5001)},
        {"rows": json.dumps([ROW | {"more": "x" * 8_000_000}])},
        {"number": -1},
        {"number": None},
        {"file": 1000},
        {"file": None},
    ],
    ids=["object", "none", "null", "5001", "8 MB", "number", "no number", "file", "no file"],
)
def test_a_batch_that_breaks_a_rule_is_refused(
    app: Connection, eve: str, values: dict[str, Any]
) -> None:
    import_id = contract.open_history_import(app, eve)
    right = {"id": import_id, "number": 0, "file": 0, "rows": json.dumps([ROW])}
    assert state(lambda: app.execute(ADD, right | values)) == "22023"


WRONG_FILES: list[tuple[object, str]] = [
    ("x", "it is not an object"),
    (FILE | {"name": ""}, "name is not"),
    (FILE | {"name": "x" * 301}, "name is not"),
    (FILE | {"source": "other"}, "source is not"),
    (FILE | {"source": None}, "source is not"),
    (FILE | {"source": "account"}, "are not those of its rows"),
    (FILE | {"counts": []}, "counts is not"),
    (FILE | {"counts": {"new": 1}}, "counts is not"),
    (FILE | {"counts": {"silent": -1}}, "counts is not"),
    (FILE | {"counts": {"silent": 1.5}}, "counts is not"),
    (FILE | {"counts": {"silent": "1"}}, "counts is not"),
    (FILE | {"malformed": None}, "malformed is not"),
    (FILE | {"malformed": [[1]]}, "malformed is not"),
    (FILE | {"malformed": [["1", "x"]]}, "malformed is not"),
    (FILE | {"malformed": [[1, "x"]] * 101}, "malformed is not"),
    (FILE | {"first_at": None}, "first_at and last_at are not"),
    (FILE | {"first_at": "2024-03-02T00:00:00Z"}, "first_at and last_at are not"),
    (FILE | {"last_at": "infinity"}, "first_at and last_at are not"),
    (FILE | {"first_at": "2023-02-30T00:00:00Z"}, "a time does not exist"),
    (FILE | {"last_at": "2024-03-01T12:34:55Z"}, "are not those of its rows"),
    (FILE | {"first_at": None, "last_at": None}, "are not those of its rows"),
]


def test_files_that_break_a_rule_are_refused_and_the_import_stays_open(
    app: Connection, eve: str
) -> None:
    import_id = contract.open_history_import(app, eve)
    add(app, import_id, ROW)
    for file, sentence in WRONG_FILES:
        code, message = refused(lambda file=file: close(app, import_id, file))
        assert (code, sentence in (message or "")) == ("22023", True), (file, message)
    add(app, import_id, ROW, number=1, file=1)
    for files in ("{}", "[]", None, json.dumps([FILE])):
        values = {"id": import_id, "files": files}
        assert state(lambda values=values: app.execute(CLOSE, values)) == "22023", files
    close(app, import_id, FILE, FILE)
    assert contract.history_receipts(app, eve)[0].status == "closed"


def test_more_rows_than_an_import_takes_are_refused_and_what_was_added_stays(
    app: Connection, connection: Connection, eve: str
) -> None:
    limits = connection.scalar(
        text("SELECT pg_get_functiondef('spotify_pipeline.history_limits'::regproc)")
    )
    connection.execute(text(limits.replace("2000000", "3")))
    import_id = contract.open_history_import(app, eve)
    add(app, import_id, ROW, ROW)
    assert state(lambda: add(app, import_id, ROW, ROW, number=1)) == contract.TOO_LARGE
    add(app, import_id, ROW, ROW, ROW)
    assert contract.history_receipts(app, eve)[0].rows_read == 3


def test_a_new_upload_takes_the_place_of_one_that_was_never_closed(
    app: Connection, eve: str
) -> None:
    broken = contract.open_history_import(app, eve)
    add(app, broken, ROW)
    again = contract.open_history_import(app, eve)
    assert state(lambda: add(app, broken, ROW)) == contract.UNKNOWN_USER
    assert state(lambda: close(app, broken)) == contract.UNKNOWN_USER
    assert [receipt.import_id for receipt in contract.history_receipts(app, eve, 9)] == [again]
    contract.discard_history_import(app, again)
    contract.discard_history_import(app, again)
    assert contract.history_receipts(app, eve) == []
    assert state(lambda: contract.open_history_import(app, "finn")) == contract.UNKNOWN_USER


@pytest.mark.parametrize("level", LEVELS)
def test_two_sessions_never_have_two_unfinished_imports_of_a_user(
    app_engine: Engine, connection: Connection, eve: str, level: str
) -> None:
    engine = app_engine.execution_options(isolation_level=level)

    def upload(_: int) -> str | None:
        def call() -> None:
            with engine.begin() as conn:
                import_id = contract.open_history_import(conn, eve)
            with engine.begin() as conn:
                add(conn, import_id, ROW)
            with engine.begin() as conn:
                close(conn, import_id)

        return state(call)

    with ThreadPoolExecutor(4) as threads:
        states = set(threads.map(upload, range(12)))
    assert states <= {None, "SP423", "SP404", "40001"}
    assert None in states
    assert connection.scalar(select(func.count()).select_from(t.history_imports)) == 1


def test_an_upload_waits_for_no_sync_of_its_user(
    app_engine: Engine, engine: Engine, eve: str
) -> None:
    with engine.begin() as sync:
        sync.execute(update(t.users).values(display_name="Eve"))
        sync.execute(update(t.sync_state).values(consecutive_failures=1))
        with app_engine.begin() as app:
            app.execute(text("SET LOCAL lock_timeout = '2s'"))
            import_id = contract.open_history_import(app, eve)
            add(app, import_id, ROW)
            close(app, import_id)
