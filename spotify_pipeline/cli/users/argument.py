"""Users as the commands speak of them: the USER argument, who is unknown, who has trouble."""

import shlex
from collections.abc import Sequence

import click

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.errors import UsageError
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.storage.users.queries import ENDED, UserStatus, load_users
from spotify_pipeline.terminal import printable


def text_only(
    ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """Callback of the argument USER: the shell may pass bytes that are no text.

    Everything else about user ids is decided by the database.
    """
    try:
        "".join(value or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("a user id is text in UTF-8.", ctx, param) from None
    return value


one_user = click.argument("user_id", metavar="USER", callback=text_only)
some_users = click.argument("users", metavar="[USER]...", nargs=-1, callback=text_only)
timezone_option = click.option(
    "--timezone",
    metavar="ZONE",
    help="IANA time zone, such as Europe/Berlin, in whose local days listening is counted.",
)


def require_known(conn: Connection, user_ids: Sequence[str]) -> list[str]:
    """These users, each once, in their order. Raises UsageError for an unknown user."""
    wanted = list(dict.fromkeys(user_ids))
    known = {user.user_id for user in load_users(conn, wanted)}
    if missing := [user_id for user_id in wanted if user_id not in known]:
        raise unknown(*missing)
    return wanted


def quoted(user_id: str) -> str:
    """Quoted for a shell."""
    return shlex.quote(printable(user_id))


def as_argument(user_id: str) -> str:
    """The argument USER at the end of a command; one that begins with a dash is no option."""
    return f"-- {quoted(user_id)}" if user_id.startswith("-") else quoted(user_id)


def unknown(*user_ids: str) -> UsageError:
    """The error for unknown users."""
    names = ", ".join(printable(user_id) for user_id in user_ids)
    what = f"There is no user {names}" if len(user_ids) == 1 else f"There are no users {names}"
    return UsageError(
        f"{what}. `spotify-pipeline users list` shows all users, `users add` adds a user."
    )


def has_failed(status: UserStatus) -> bool:
    """Whether the user's last sync failed; connecting Spotify again is up to the user."""
    return status.last_error_code is not None and status.connection not in ENDED


def trouble(status: UserStatus) -> tuple[str, str] | None:
    """The code and what to do, if the user's last sync failed or Spotify refuses the user."""
    if status.last_error_code:
        code = ErrorCode(status.last_error_code)
        return code, status.last_error_message or WHAT_TO_DO[code]
    if status.connection == "needs_reauth":
        return ErrorCode.RECONNECT, WHAT_TO_DO[ErrorCode.RECONNECT]
    return None
