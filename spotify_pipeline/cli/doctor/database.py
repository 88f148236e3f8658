"""The checks of `doctor` that ask the databases."""

import stat
from collections.abc import Iterator, Sequence

from spotify_pipeline.cli.doctor.budget import probed, rate_limits
from spotify_pipeline.cli.doctor.finding import NOTE, OK, PROBLEM, Finding, guarded
from spotify_pipeline.domain.sealing import Keyring, SealError
from spotify_pipeline.settings import Settings
from spotify_pipeline.storage.checks import inspection, rules
from spotify_pipeline.storage.checks.inspection import all_differences
from spotify_pipeline.storage.checks.queries import Scope, all_users, slice_of_the_hour
from spotify_pipeline.storage.checks.repair import repair_future_instants
from spotify_pipeline.storage.postgres import roles
from spotify_pipeline.storage.postgres.database import (
    is_missing,
    open_dagster_engine,
    open_engine,
    reach_dagster,
)
from spotify_pipeline.storage.postgres.engine import (
    POOLED,
    check_server,
    database_now,
    server_version,
)
from spotify_pipeline.storage.postgres.schema import check_revision, current_revision
from spotify_pipeline.storage.postgres.types import Connection, Engine
from spotify_pipeline.sync.admin.keys import KEY_FILE, load_keyring
from spotify_pipeline.sync.pipeline import check_clock
from spotify_pipeline.terminal import count, instant


def all_checks(
    settings: Settings, *, probe: bool = False, mend: bool = False, deep: bool = False
) -> Iterator[Finding]:
    """Database, keys, budget, users and Dagster's storage."""
    if is_missing(settings):
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
            yield from guarded("clock", clock(engine))
            if mend:
                yield from guarded("instants", mended(engine))
            yield from guarded("instants", instants(engine))
            if probe:
                yield from guarded("probe", probed(settings))
            yield from guarded("api budget", rate_limits(settings, engine))
            yield from guarded("users", users(engine))
            if deep:
                yield from guarded("deep", whole_tables(engine))
        finally:
            engine.dispose()
    yield from guarded("dagster storage", dagster_storage(settings))


def database(settings: Settings) -> Iterator[Finding]:
    """Reachable, new enough, at this version's revision, closed to other roles."""
    engine = open_engine(settings)
    try:
        with engine.connect() as conn:
            whose = "own server" if settings.database_url else "embedded"
            pooled = ", through a connection pooler" if conn.info.get(POOLED) else ""
            yield Finding("database", OK, f"PostgreSQL {server_version(conn)}, {whose}{pooled}")
            check_server(conn)
            yield connections(inspection.connections(conn))
            yield from read_only(conn)
            yield from access("database access", conn)
        check_revision(engine)
        yield Finding("schema", OK, f"revision {current_revision(engine)}")
        with engine.connect() as conn:
            yield role_rights(conn, "app role", settings.app_role, roles.CONTRACT)
            yield role_rights(conn, "analyst role", settings.analyst_role, roles.ANALYST_CONTRACT)
    finally:
        engine.dispose()


def connections(found: inspection.Connections) -> Finding:
    """Whether the server has connections left for a run and for the processes of Dagster."""
    detail = f"{found.used:,} of {found.most:,} in use, {max(found.left, 0):,} left for us"
    if found.left * 5 >= found.most_of_ours:
        return Finding("connections", OK, detail)
    return Finding(
        "connections",
        PROBLEM,
        f"{detail}; {found.holder} holds {found.held:,}",
        "close sessions that are not needed, give the app's login a limit (ALTER ROLE … CONNECTION "
        "LIMIT 20), or raise max_connections or the limit of the pipeline's user or database",
    )


def read_only(conn: Connection) -> Iterator[Finding]:
    """Whether the database can be written, and whether it is read-only by default."""
    if inspection.is_read_only(conn):
        yield Finding(
            "database",
            PROBLEM,
            "it is read-only, as a standby is, so nothing can be stored",
            "correct SPOTIFY_PIPELINE_DATABASE_URL, or promote the server",
        )
    elif inspection.is_read_only_by_default(conn):
        yield Finding(
            "database",
            NOTE,
            "default_transaction_read_only is on here, and the pipeline writes all the same",
            "find out who set it: some hosts do when a disk is nearly full",
        )


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


def role_rights(conn: Connection, check: str, role: str, contract: frozenset[str]) -> Finding:
    """The role is there and may do what its contract says, no less and no more."""
    if not roles.exists(conn, role):
        return Finding(
            check,
            NOTE,
            f"there is no role {role}, so no login can have its rights",
            f"{roles.create_statement(conn, role)}, then `spotify-pipeline init-db`",
        )
    found = roles.rights(conn, role)
    if lacking := sorted(contract - found):
        return Finding(
            check, PROBLEM, f"{role} lacks {listed(lacking)}", "run `spotify-pipeline init-db`"
        )
    if excess := sorted(found - contract):
        return Finding(
            check,
            PROBLEM,
            f"{role} has more rights than the contract: {listed(excess)}",
            "run `spotify-pipeline init-db`; if they stay, they come with an attribute of the role "
            "or with a role that it is a member of",
        )
    return Finding(check, OK, f"{role} has the {len(found)} rights of the contract")


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


def clock(engine: Engine) -> Iterator[Finding]:
    """This machine's clock is the database's; an error says how far they are apart."""
    check_clock(engine)
    yield Finding("clock", OK, "it is the database's, to the minute")


def mended(engine: Engine) -> Iterator[Finding]:
    """Instants of the future are taken back."""
    check_clock(engine)
    with engine.begin() as conn:
        users = repair_future_instants(conn)
    yield Finding("instants", OK, f"taken back what a wrong clock left of {count(users, 'user')}")


def instants(engine: Engine) -> Iterator[Finding]:
    """No stored instant lies further in the future than it can."""
    rule = rules.NO_FUTURE_INSTANTS
    with engine.connect() as conn:
        broken = rules.count_violations(conn, rule, Scope(database_now(conn))).users
        leases = inspection.leases_too_long(conn)
    if leases:
        yield Finding(
            "instants",
            NOTE,
            f"{count(leases, 'lease')} of sync_state end later than any can; they are ignored",
        )
    if broken:
        yield Finding(
            "instants",
            PROBLEM,
            f"{count(broken, 'user')} were fetched, are covered or due in the future: a sync under "
            "a wrong clock left that",
            f"`spotify-pipeline doctor --mend` takes it back; `{rule.command}` names them",
        )
    else:
        yield Finding("instants", OK, "none is in the future")


_DAEMON = "see that `spotify-pipeline dev` or another Dagster daemon runs"
# What waits too long: the rule, the check and its sentence when all is well; who waits, what is
# said of them, and what to do.
_WAITING = (
    (
        rules.POLLED_IN_TIME,
        "past due",
        "no user waits for longer than an hour",
        "user",
        "the plays of {} should have been collected",
        "run `spotify-pipeline dev` or another Dagster daemon, or `spotify-pipeline sync --due`",
    ),
    (
        rules.REQUESTS_SERVED,
        "requests",
        "none waits for longer than 5 minutes",
        "request",
        "{} waited longer than 5 minutes for a run",
        f"switch on sync_request_sensor in Dagster (Automation), and {_DAEMON}",
    ),
    (
        rules.UPLOADS_IMPORTED,
        "uploads",
        "none waits for longer than an hour",
        "upload",
        "{} waited longer than an hour for an import",
        f"switch on history_import_sensor in Dagster (Automation), and {_DAEMON}",
    ),
)


def users(engine: Engine) -> Iterator[Finding]:
    """How the users are connected, whose sync failed, and whether any waits too long."""
    with engine.connect() as conn:
        by_connection = inspection.users_by_connection(conn)
        failures = inspection.failures_by_code(conn)
        now = Scope(database_now(conn))
        waiting = [rules.count_violations(conn, rule, now) for rule, *_ in _WAITING]
        looked_at = slice_of_the_hour(conn, now.now).words
    total = count(sum(by_connection.values()), "user")
    detail = ", ".join(f"{number:,} {name}" for name, number in by_connection.items())
    yield Finding("users", OK, f"{total}: {detail}" if detail else total)
    yield Finding("hourly checks", OK, f"those that read plays, days or lists look at {looked_at}")
    if suspects := by_connection.get("suspect"):
        yield Finding(
            "users",
            PROBLEM,
            f"{suspects:,} were refused while many others were",
            "check the app in the Spotify developer dashboard; they are tried again every hour",
        )
    if ended := by_connection.get("needs_reauth"):
        yield Finding(
            "users",
            NOTE,
            f"{ended:,} have to reconnect Spotify",
            f"`{rules.NO_USER_RECONNECTS.command}` names them",
        )
    codes = ", ".join(f"{number:,} {code}" for code, number in failures.items())
    if failures:
        yield Finding(
            "last syncs",
            NOTE,
            f"{count(sum(failures.values()), 'user')} failed: {codes}",
            "`spotify-pipeline users list --failed` names them and says what to do",
        )
    else:
        yield Finding("last syncs", OK, "no user's has failed")
    for (_, check, fine, noun, wrong, to_do), found in zip(_WAITING, waiting, strict=True):
        if found.users:
            who = wrong.format(count(found.users, noun))
            yield Finding(check, PROBLEM, f"{who}, the first since {instant(found.since)}", to_do)
        else:
            yield Finding(check, OK, fine)


def whole_tables(engine: Engine) -> Iterator[Finding]:
    """Tables are as declared, and what constraints and triggers enforce holds for every row."""
    with engine.connect() as conn:
        drift = all_differences(conn)
        scope = all_users(conn, database_now(conn))
    if drift:
        yield Finding(
            "tables",
            PROBLEM,
            listed(drift),
            "restore again with constraints and triggers, into an empty database",
        )
    else:
        yield Finding("tables", OK, "as this version declares them")
    for rule in rules.DEEP:
        yield from guarded(rule.name, broken_rows(engine, rule, scope))


def broken_rows(engine: Engine, rule: rules.Rule, scope: Scope) -> Iterator[Finding]:
    """How many rows break the rule."""
    with engine.connect() as conn:
        found = rules.count_violations(conn, rule, scope)
    if found.rows:
        yield Finding(
            rule.name,
            PROBLEM,
            f"{count(found.rows, 'row')} of {count(found.users, 'user')}. {rule.description}",
            f"restore again with constraints and triggers; `{rule.command}` names the users",
        )
    else:
        yield Finding(rule.name, OK, rule.description)


def dagster_storage(settings: Settings) -> Iterator[Finding]:
    """Dagster's own database can be reached, and holds no tables of others."""
    # Only here: it imports Dagster.
    from spotify_pipeline.defs.instance.storage import check_dagster_database

    reachable = reach_dagster(settings)
    check_dagster_database(settings)
    made = "are there" if reachable else "are made at its first start"
    yield Finding("dagster storage", OK, f"can be reached; its tables {made}")
    engine = open_dagster_engine(settings)
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
