"""Seals refresh tokens so that only the pipeline can read them.

The app knows a public key and can only seal; the keyring holds the private keys and can open.
A sealed token is libsodium's `crypto_box_seal` of the UTF-8 JSON
`{"v":1,"user_id":…,"refresh_token":…}`: the user id inside is checked on opening, so a row copied
to another user does not open. No error, text or repr of this module contains a key or a token.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from spotify_pipeline.errors import PipelineError

_VERSION = 1
_KEY_BYTES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class SealError(PipelineError, ValueError):
    """A sealed token cannot be used: unknown or wrong key, tampered with, or another user's."""


class BadKeys(ValueError):
    """A keyring entry is not of the form `key_id:base64`. Names the entry, never the key."""


@dataclass(frozen=True)
class Keyring:
    """The private keys by key id; `current_id` is the one that new tokens are sealed for.

    Rotation: put the new key first and keep the old ones until no stored token names them.
    """

    current_id: str
    keys: Mapping[str, PrivateKey] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Keyring":
        """Reads `key_id:base64` entries separated by commas or newlines; the first is current.

        Empty entries are ignored. Raises BadKeys.
        """
        entries = [entry.strip() for entry in re.split(r"[,\n]", text)]
        keys: dict[str, PrivateKey] = {}
        for number, entry in enumerate(filter(None, entries), start=1):
            key_id, _, encoded = entry.partition(":")
            secret = _decode(encoded)
            if not _KEY_ID.fullmatch(key_id) or secret is None:
                raise BadKeys(
                    f"Token key {number} is not of the form key_id:base64 with 32 bytes. "
                    "Make one with `spotify-pipeline keys new`."
                )
            if key_id in keys:
                raise BadKeys(f"Token key {number} repeats the key id of an earlier one.")
            keys[key_id] = PrivateKey(secret)
        if not keys:
            raise BadKeys("There is no token key. Make one with `spotify-pipeline keys new`.")
        return cls(current_id=next(iter(keys)), keys=keys)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """All key ids, the current one first."""
        return tuple(self.keys)

    def public_key(self, key_id: str) -> bytes:
        """The 32 bytes the app seals with; safe to publish. Raises SealError for an unknown id."""
        return bytes(self._key(key_id).public_key)

    def open(self, key_id: str, sealed: bytes, user_id: str) -> str:
        """The refresh token inside `sealed`, if it was sealed for this key and this user.

        Raises SealError.
        """
        # memoryview and bytearray are what database drivers hand out for bytea.
        plain = _decrypt(self._key(key_id), bytes(sealed))
        if plain is None:
            raise SealError("The sealed token does not open with its key, or was altered.")
        content = _read(plain)
        if content is None:
            raise SealError("The sealed token opens, but its content is not of the known form.")
        owner, refresh_token = content
        if owner != user_id:
            raise SealError("The sealed token belongs to another user.")
        return refresh_token

    def _key(self, key_id: str) -> PrivateKey:
        key = self.keys.get(key_id)
        if key is None:
            raise SealError(f"There is no token key with the id {key_id!r} in the keyring.")
        return key


def new_key() -> tuple[str, str]:
    """A fresh random key as (key_id, text); the text is the `key_id:base64` entry and is secret.

    The id is a fingerprint of the public key, so it reveals nothing and never repeats.
    """
    key = PrivateKey.generate()
    key_id = hashlib.sha256(bytes(key.public_key)).hexdigest()[:12]
    return key_id, f"{key_id}:{base64.b64encode(bytes(key)).decode('ascii')}"


def seal(public_key: bytes, user_id: str, refresh_token: str) -> bytes:
    """Seals a user's refresh token for the holder of the private key; every call differs.

    Raises SealError when the key is not 32 bytes, or a text is empty or not valid Unicode.
    """
    plain = _write(user_id, refresh_token)
    if plain is None or len(public_key) != _KEY_BYTES:
        raise SealError("A token is sealed from a 32-byte public key, a user id and a token.")
    return SealedBox(PublicKey(public_key)).encrypt(plain)


# The helpers below return None instead of raising: a caught exception would stay on the new one as
# its context, and those of JSON and Unicode contain the whole plain text, token included.


def _decode(encoded: str) -> bytes | None:
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return secret if len(secret) == _KEY_BYTES else None


def _decrypt(key: PrivateKey, sealed: bytes) -> bytes | None:
    try:
        return SealedBox(key).decrypt(sealed)
    except (CryptoError, ValueError):
        return None


def _write(user_id: str, refresh_token: str) -> bytes | None:
    if not user_id or not refresh_token:
        return None
    content = {"v": _VERSION, "user_id": user_id, "refresh_token": refresh_token}
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return None


def _read(plain: bytes) -> tuple[str, str] | None:
    try:
        content = json.loads(plain)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    version, owner, token = (content.get(name) for name in ("v", "user_id", "refresh_token"))
    if type(version) is not int or version != _VERSION:
        return None
    if not isinstance(owner, str) or not isinstance(token, str) or not token:
        return None
    return owner, token
