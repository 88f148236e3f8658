"""Access tokens of one user: reused until shortly before they end, refreshed when needed.

The user's lease keeps two processes from refreshing the same user. Whatever a refresh returns is
committed before it is used, because the old refresh token may already be dead.

A token does not name its Spotify account, and plays of two accounts must not be mixed. So the first
use of a connection fetches the account: a user's first account is kept for good, and a token of
another one is refused. If another user already has the account, it stays unknown for this user (an
app may register one account under two ids) and the sync continues without this protection. If
Spotify does not return the account, a user with a known account waits and one without continues; no
access token is stored, so that the next sync fetches the account again.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from threading import RLock
from typing import TypeVar

from spotify_pipeline.domain.model import Profile
from spotify_pipeline.domain.sealing import Keyring, SealError, seal
from spotify_pipeline.spotify.errors import (
    BadResponse,
    MissingScope,
    OtherAccount,
    Reconnect,
    SpotifyError,
    SpotifyUnavailable,
)
from spotify_pipeline.spotify.oauth import Grant, OAuthClient
from spotify_pipeline.storage.postgres.locks import is_lock_timeout, limit_waits
from spotify_pipeline.storage.postgres.types import (
    Connection,
    Engine,
    InterfaceError,
    OperationalError,
)
from spotify_pipeline.storage.users.connection import (
    OUTAGE,
    claim_suspect_probe,
    clear_suspect,
    learn_account,
    record_refusal,
    refuse_account,
)
from spotify_pipeline.storage.users.key_rotation import lock_tokens
from spotify_pipeline.storage.users.queries import SealedToken, User, load_users, save_grant

# A token that ends during the sync would cost a 401 and a second refresh.
REUSE_SECONDS = 120
# Waits for a restart of Postgres while the only copy of a new token is in memory. Shorter than a
# lease, which cannot be renewed meanwhile.
SAVE_SECONDS = 25.0
SAVE_AGAIN_SECONDS = 0.5
REPLACED = "the connection was replaced meanwhile"

Result = TypeVar("Result")


class UserTokens:
    """The TokenSource of one user, for the length of a sync and for all its threads."""

    def __init__(
        self,
        user: User,
        engine: Engine,
        keyring: Keyring,
        oauth: OAuthClient,
        profile: Callable[[str], Profile],
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        assert user.token is not None
        self._user_id = user.user_id
        self._suspect = user.connection == "suspect"
        self._account_id = user.account_id
        self._token = user.token
        self._is_first_use = user.token.sealed_access_token is None
        self._engine = engine
        self._keyring = keyring
        self._oauth = oauth
        self._profile = profile
        self._sleep = sleep
        self._monotonic = monotonic
        self._opened: str | None = None
        self._is_refreshed = False
        self._failed: SpotifyError | None = None
        # Held during a refresh: the other threads of this sync wait for its result.
        self._lock = RLock()

    def access_token(self) -> str:
        """A token good for at least REUSE_SECONDS: the stored one, or a new one.

        Raises SpotifyError, SealError.
        """
        with self._lock:
            if self._opened is None:
                token = self._token
                left = token.access_seconds_left or 0
                if not token.sealed_access_token or left <= REUSE_SECONDS:
                    return self.refresh()
                self._opened = self._keyring.open(
                    token.key_id, token.sealed_access_token, self._user_id
                )
            return self._opened

    def refresh(self, refused: str | None = None) -> str:
        """Trade the refresh token for a new access token and commit both.

        Once only for threads whose calls were refused with one token.

        Raises SpotifyError, SealError. In an outage a refusal is SpotifyUnavailable: this user has
        nothing to do. What failed once in this sync is not asked again for its next step, and a
        token that is refused though this sync got it is not replaced.
        """
        with self._lock:
            if self._opened is not None and refused not in (None, self._opened):
                return self._opened
            if self._failed is None and self._is_refreshed:
                self._failed = BadResponse("token: the access token is refused, though it is new")
            if self._failed is None:
                try:
                    return self._refresh()
                except SpotifyError as error:
                    self._failed = error
            raise self._failed

    def _refresh(self) -> str:
        used = self._token
        refresh_token = self._keyring.open(used.key_id, used.sealed_refresh_token, self._user_id)
        grant = self._ask(refresh_token)
        rotated = grant.refresh_token not in (None, refresh_token)
        # Without a new refresh token the old one stays. It is sealed again all the same, so that
        # one key id holds for both.
        fresh = replace(
            used,
            key_id=self._keyring.current_id,
            sealed_refresh_token=self._seal(grant.refresh_token or refresh_token),
            sealed_access_token=self._seal(grant.access_token),
            access_seconds_left=float(grant.expires_in_seconds),
        )
        # Before the account is known, the next process shall check it again. Not deleted by another
        # UPDATE: of a row that a transaction has changed before, Postgres checks the foreign key,
        # which locks the user after the token (deadlock).
        refreshed = replace(fresh, sealed_access_token=None) if self._is_first_use else fresh

        def save(conn: Connection) -> None:
            # Locks the user before the token, as connect_user does (deadlock).
            if self._suspect:
                clear_suspect(conn, self._user_id)
            # Without a new refresh token nothing would be lost, and a process that took
            # over the lease may have stored newer tokens.
            if not self._save(conn, used, refreshed) and rotated:
                anew = self._sealed_anew(conn, refresh_token)
                if anew is not None:
                    self._save(conn, anew, refreshed)

        self._commit(save, must_be_kept=rotated)
        if self._is_first_use:
            self._settle_account(grant.access_token, fresh)
        self._token, self._opened = fresh, grant.access_token
        self._is_refreshed = True
        return grant.access_token

    def _save(self, conn: Connection, stored: SealedToken, fresh: SealedToken) -> bool:
        """Put the fresh tokens in the place of the stored ones, if they are still there."""
        return save_grant(
            conn,
            self._user_id,
            stored,
            key_id=fresh.key_id,
            sealed_refresh_token=fresh.sealed_refresh_token,
            sealed_access_token=fresh.sealed_access_token,
            expires_in=timedelta(seconds=fresh.access_seconds_left or 0),
        )

    def _settle_account(self, access_token: str, fresh: SealedToken) -> None:
        """Check whose Spotify account it is, recording it at first use, and store the access token.

        Raises OtherAccount and, for a user whose account is known, what hinders asking. Raises
        OperationalError (lock timeout) when another session keeps the user locked.
        """
        profile = None
        try:
            profile = self._profile(access_token)
        except MissingScope:
            # The other calls may work, and asking again would not help this connection.
            if self._account_id is not None:
                raise
        except SpotifyError:
            if self._account_id is not None:
                raise
            return

        def settle(conn: Connection) -> SpotifyError | None:
            if profile is not None and not learn_account(conn, self._user_id, profile):
                if profile.account_id is None:
                    # By the id that Spotify did not send it may be the same account.
                    return BadResponse("profile: without the account's id")
                refuse_account(conn, self._user_id, fresh)
                return OtherAccount()
            self._save(conn, fresh, fresh)
            return None

        if refusal := self._commit(settle, must_be_kept=False):
            raise refusal
        self._is_first_use = False

    def _sealed_anew(self, conn: Connection, refresh_token: str) -> SealedToken | None:
        """The stored token, if it is the one we used under another seal: keys were rotated."""
        lock_tokens(conn, self._user_id)
        users = load_users(conn, [self._user_id])
        stored = users[0].token if users else None
        if stored is None:
            return None
        try:
            opened = self._keyring.open(stored.key_id, stored.sealed_refresh_token, self._user_id)
        except SealError:
            # A rotation to a key that this process was started without: the same connection.
            return stored if stored.authorized_at == self._token.authorized_at else None
        return stored if opened == refresh_token else None

    def _ask(self, refresh_token: str) -> Grant:
        if self._suspect:
            with self._engine.begin() as conn:
                limit_waits(conn)
                if not claim_suspect_probe(conn, self._user_id):
                    raise SpotifyUnavailable(OUTAGE)
        try:
            return self._oauth.refresh(refresh_token)
        except Reconnect:
            with self._engine.begin() as conn:
                state = record_refusal(conn, self._user_id, self._token)
            if state == "needs_reauth":
                raise
        raise SpotifyUnavailable(OUTAGE if state else REPLACED)

    def _commit(self, save: Callable[[Connection], Result], *, must_be_kept: bool) -> Result:
        """Commits, again if need be: `save` is idempotent.

        A lock timeout is tried again only for what must be kept, because the new refresh token
        exists nowhere else: other users wait meanwhile.
        """
        deadline = self._monotonic() + SAVE_SECONDS
        while True:
            try:
                with self._engine.begin() as conn:
                    limit_waits(conn)
                    return save(conn)
            except (OperationalError, InterfaceError) as error:
                if self._monotonic() >= deadline:
                    raise
                if is_lock_timeout(error) and not must_be_kept:
                    raise
            self._sleep(SAVE_AGAIN_SECONDS)

    def _seal(self, secret: str) -> bytes:
        return seal(self._keyring.public_key(self._keyring.current_id), self._user_id, secret)
