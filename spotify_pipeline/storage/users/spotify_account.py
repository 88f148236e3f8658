"""The Spotify account of a user: set once, never changed, and never shared by two users."""

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from spotify_pipeline.domain.model import Profile
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.queries import SealedToken, is_stored


class AnotherAccount(Exception):
    """The user is connected to another Spotify account than this one."""


class AccountTaken(Exception):
    """The Spotify account belongs to another user, `owner`."""

    def __init__(self, owner: str) -> None:
        super().__init__("the account belongs to another user")
        self.owner = owner


def owner_of(conn: Connection, profile: Profile) -> str | None:
    """The user with this Spotify account, under either of its ids; None: no user has it."""
    u = t.users
    owner: str | None = conn.scalar(
        select(u.c.user_id)
        .where(u.c.account_id.in_(profile.ids))
        .order_by(u.c.account_id != profile.account)
        .limit(1)
    )
    return owner


def refuse_account(conn: Connection, user_id: str, token: SealedToken) -> None:
    """Mark the user needs_reauth, because this token, if still stored, is of another account."""
    u = t.users
    stored = select(t.user_tokens.c.user_id).where(is_stored(user_id, token)).exists()
    conn.execute(update(u).where(u.c.user_id == user_id, stored).values(connection="needs_reauth"))


def link_account(conn: Connection, user_id: str, profile: Profile) -> None:
    """Store the Spotify account of a registered user. Raises AnotherAccount, AccountTaken.

    Of two transactions that link one account at once, the second raises IntegrityError.
    """
    u = t.users
    mine = select(u.c.account_id).where(u.c.user_id == user_id)
    # A known account never changes, so it is read without a lock, for which an app that requests a
    # sync and does not commit would make us wait.
    if conn.scalar(mine) == profile.account:
        return
    known = conn.scalar(mine.with_for_update())
    if known == profile.account:
        return
    if known is not None and known not in profile.ids:
        raise AnotherAccount
    owner = owner_of(conn, profile)
    if owner not in (None, user_id):
        raise AccountTaken(owner)
    conn.execute(update(u).where(u.c.user_id == user_id).values(account_id=profile.account))


def learn_account(conn: Connection, user_id: str, profile: Profile) -> bool:
    """Store the account of a token if the user's is not known yet; False: the user has another one.

    An account that another user has, or gets at this moment, is not stored.
    """
    try:
        with conn.begin_nested():
            link_account(conn, user_id, profile)
    except AnotherAccount:
        return False
    except (AccountTaken, IntegrityError):
        pass
    return True
