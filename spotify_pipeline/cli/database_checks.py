"""The checks of `doctor` that ask the databases."""

import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine

from spotify_pipeline.cli.budget_check import api_budget
from spotify_pipeline.cli.findings import NOTE, OK, PROBLEM, Finding, guarded
from spotify_pipeline.cli.output import count, instant
from spotify_pipeline.domain.sealing import Keyring, SealError
from spotify_pipeline.settings import Settings
from spotify_pipeline.storage import inspection, roles
from spotify_pipeline.storage.database import dagster_url, open_engine, reach_dagster
from spotify_pipeline.storage.engine import check_server, make_engine, server_version
from spotify_pipeline.storage.schema import check_revision, current_revision
from spotify_pipeline.sync.keys import KEY_FILE, load_keyring

# A poll may wait for a nightly run or for a restart; for longer it should not.
PATIENCE = timedelta(hours=1)


def all_checks(settings: Settings) -> Iterator[Finding]:
    """Database, keys, budget, users and Dagster's storage."""
    if settings.database_url is None and not (settings.home / "postgres").exists():
        yield Finding(
            "database", PROBLEM, "there is none yet", "run `spotify-pipeline init-db` to make it"
        )
        return
    ready = True
    for finding in guarded("database", database(settings)):
        ready &= finding.status != PROBLEM
        yield finding
    if ready:
        engine = open_engine(settings)
        try:
            yield from guarded("token keys", keys(settings, engine))
            yield from guarded("api budget", api_budget(settings, engine))
            yield from guarded("users", standing(engine))
        finally:
            engine.dispose()
    yield from guarded("dagster storage", dagster_storage(settings))


def database(settings: Settings) -> Iterator[Finding]:
    """Reachable, new enough, at this version's revision, closed to other roles."""
    engine = open_engine(settings)
    try:
        with engine.connect() as conn:
            whose = "own server" if settings.database_url else "embedded"
            yield Finding("database", OK, f"PostgreSQL {server_version(conn)}, {whose}")
            check_server(conn)
            yield from access("database access", conn)
        check_revision(engine)
        yield Finding("schema", OK, f"revision {current_revision(engine)}")
        with engine.connect() as conn:
            yield app_role(conn, settings.app_role)
    finally:
        engine.dispose()


def access(check: str, conn: Connection) -> Iterator[Finding]:
    """Who may log in to this database, and make temporary objects there."""
    if inspection.open_to_anyone(conn):
        name = inspection.database_name(conn)
        yield Finding(
            check,
            NOTE,
            f"every role of the server may connect to the database {name} or make temporary "
            "objects there",
            f'REVOKE CONNECT, TEMPORARY ON DATABASE "{name}" FROM PUBLIC, and GRANT CONNECT to '
            "those who need it",
        )


def app_role(conn: Connection, role: str) -> Finding:
    """The app's role is there and may do what the contract says, no less and no more."""
    if not roles.exists(conn, role):
        return Finding(
            "app role",
            NOTE,
            f"there is no role {role}, so no app can ask for syncs with it",
            f"{roles.create_statement(conn, role)}, then `spotify-pipeline init-db`",
        )
    found = roles.rights(conn, role)
    if lacking := sorted(roles.CONTRACT - found):
        return Finding(
            "app role", PROBLEM, f"{role} lacks {listed(lacking)}", "run `spotify-pipeline init-db`"
        )
    if excess := sorted(found - roles.CONTRACT):
        return Finding(
            "app role",
            PROBLEM,
            f"{role} has more rights than the contract: {listed(excess)}",
            "run `spotify-pipeline init-db`; if they stay, they come with an attribute of the role "
            "or with a role that it is a member of",
        )
    return Finding("app role", OK, f"{role} has the {len(found)} rights of the contract")


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def keys(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """The keys are there, and each opens a token that was sealed for it."""
    path = settings.home / KEY_FILE
    embedded = settings.token_keys is None and settings.database_url is None
    with engine.connect() as conn:
        stored = inspection.stored_keys(conn)
    if embedded and not path.exists() and not stored:
        yield Finding("token keys", OK, f"{path} is made with the first token")
        return
    keyring = load_keyring(settings, engine)
    where = str(path) if embedded else "SPOTIFY_PIPELINE_TOKEN_KEYS"
    yield Finding("token keys", OK, f"{', '.join(keyring.key_ids)} from {where}, first is current")
    if embedded and stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding("token keys", PROBLEM, f"{path} is open to others", f"chmod 600 {path}")
    for key in stored:
        yield _opened(keyring, key)


def _opened(keyring: Keyring, key: inspection.StoredKey) -> Finding:
    name, tokens = f"token key {key.key_id}", count(key.tokens, "token")
    try:
        keyring.open(key.key_id, key.sealed_refresh_token, key.user_id)
    except SealError as error:
        return Finding(
            name,
            PROBLEM,
            f"{tokens} cannot be read. {error}",
            "put that key back from your backup, or have these users reconnect",
        )
    return Finding(name, OK, f"opens its {tokens} (one was tried)")


def standing(engine: Engine) -> Iterator[Finding]:
    """How the users are connected, and whether anybody waits too long."""
    with engine.connect() as conn:
        by_connection = inspection.users_by_connection(conn)
        failures = inspection.failures_by_code(conn)
        late = inspection.overdue(conn, datetime.now(UTC), PATIENCE)
        unserved = inspection.unserved_requests(conn)
    total = count(sum(by_connection.values()), "user")
    detail = ", ".join(f"{number:,} {name}" for name, number in by_connection.items())
    yield Finding("users", OK, f"{total}: {detail}" if detail else total)
    if by_connection.get("suspect"):
        yield Finding(
            "users",
            PROBLEM,
            f"{by_connection['suspect']:,} were refused while many others were",
            "check the app in the Spotify developer dashboard; they are tried again every hour",
        )
    if by_connection.get("needs_reauth"):
        yield Finding(
            "users",
            NOTE,
            f"{by_connection['needs_reauth']:,} have to reconnect Spotify",
            "`spotify-pipeline users list --failed` names them",
        )
    yield _failures(failures)
    yield _waiting(late)
    yield _requests(unserved)


def _failures(by_code: Mapping[str, int]) -> Finding:
    if not by_code:
        return Finding("last syncs", OK, "nobody's has failed")
    codes = ", ".join(f"{number:,} {code}" for code, number in by_code.items())
    return Finding(
        "last syncs",
        NOTE,
        f"{count(sum(by_code.values()), 'user')} failed: {codes}",
        "`spotify-pipeline users list --failed` names them and says what to do",
    )


def _waiting(late: inspection.Overdue) -> Finding:
    if not late.users:
        return Finding("past due", OK, "nobody waits for longer than an hour")
    return Finding(
        "past due",
        PROBLEM,
        f"the plays of {count(late.users, 'user')} should have been collected, "
        f"the first since {instant(late.since)}",
        "run `spotify-pipeline dev` or another Dagster daemon, or `spotify-pipeline sync --due`",
    )


def _requests(unserved: inspection.Overdue) -> Finding:
    if not unserved.users:
        return Finding("requests", OK, "none waits for longer than 5 minutes")
    return Finding(
        "requests",
        PROBLEM,
        f"{count(unserved.users, 'request')} waited longer than 5 minutes for a run, "
        f"the first since {instant(unserved.since)}",
        "switch on sync_request_sensor in Dagster (Automation), and see that "
        "`spotify-pipeline dev` or another Dagster daemon runs",
    )


def dagster_storage(settings: Settings) -> Iterator[Finding]:
    """Dagster's own database can be reached."""
    made = "are there" if reach_dagster(settings) else "are made at its first start"
    yield Finding("dagster storage", OK, f"can be reached; its tables {made}")
    engine = make_engine(dagster_url(settings), pool_size=1)
    try:
        with engine.connect() as conn:
            yield from access("dagster access", conn)
            if names := inspection.switched_off(conn):
                yield Finding(
                    "dagster automation",
                    PROBLEM,
                    f"switched off in Dagster: {', '.join(names)}",
                    "switch them on in Dagster under Automation, unless you meant it",
                )
    finally:
        engine.dispose()
