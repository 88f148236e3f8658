import base64
import json
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PublicKey, SealedBox

from spotify_pipeline.domain.sealing import BadKeys, Keyring, SealError, new_key, seal

TOKEN = "AQD-refresh-token-text"


@pytest.fixture(name="entry")
def _entry() -> tuple[str, str]:
    return new_key()


def _sealed_text(public_key: bytes, text: str) -> bytes:
    return SealedBox(PublicKey(public_key)).encrypt(text.encode())


# Unicode without surrogates: the range of user ids in the database.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(user_id=texts, token=texts)
def test_a_sealed_token_opens_with_its_key_for_its_user(user_id, token):
    key_id, entry = new_key()
    keyring = Keyring.parse(entry)
    sealed = seal(keyring.public_key(key_id), user_id, token)
    assert keyring.open(key_id, sealed, user_id) == token
    assert keyring.open(key_id, memoryview(sealed), user_id) == token


def test_sealing_twice_never_gives_the_same_bytes(entry):
    public_key = Keyring.parse(entry[1]).public_key(entry[0])
    assert seal(public_key, "anna", TOKEN) != seal(public_key, "anna", TOKEN)


def test_the_sealed_text_is_the_documented_json(entry):
    key_id, text = entry
    keyring = Keyring.parse(text)
    sealed = seal(keyring.public_key(key_id), "anna é", TOKEN)
    plain = SealedBox(keyring.keys[key_id]).decrypt(sealed)
    assert json.loads(plain.decode("utf-8")) == {
        "v": 1,
        "user_id": "anna é",
        "refresh_token": TOKEN,
    }


def test_a_token_does_not_open_with_another_key(entry):
    key_id, text = entry
    sealed = seal(Keyring.parse(text).public_key(key_id), "anna", TOKEN)
    other = new_key()[1].partition(":")[2]
    with pytest.raises(SealError, match="does not open"):
        Keyring.parse(f"{key_id}:{other}").open(key_id, sealed, "anna")


def test_a_sealed_token_copied_to_another_user_does_not_open(entry):
    key_id, text = entry
    keyring = Keyring.parse(text)
    sealed = seal(keyring.public_key(key_id), "anna", TOKEN)
    with pytest.raises(SealError, match="another user"):
        keyring.open(key_id, sealed, "bert")


@given(data=st.data())
def test_any_corruption_or_truncation_of_a_sealed_token_is_refused(data):
    key_id, text = new_key()
    keyring = Keyring.parse(text)
    sealed = bytearray(seal(keyring.public_key(key_id), "anna", TOKEN))
    place = data.draw(st.integers(0, len(sealed) - 1))
    if data.draw(st.booleans()):
        sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del sealed[place:]
    with pytest.raises(SealError):
        keyring.open(key_id, bytes(sealed), "anna")


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        "{}",
        '{"v":2,"user_id":"anna","refresh_token":"t"}',
        '{"v":true,"user_id":"anna","refresh_token":"t"}',
        '{"v":1,"user_id":"anna"}',
        '{"v":1,"user_id":"anna","refresh_token":""}',
        '{"v":1,"user_id":"anna","refresh_token":7}',
        '{"v":1,"user_id":null,"refresh_token":"t"}',
        "[" * 100_000,
    ],
)
def test_content_of_another_form_is_refused(entry, content):
    keyring = Keyring.parse(entry[1])
    sealed = _sealed_text(keyring.public_key(entry[0]), content)
    with pytest.raises(SealError):
        keyring.open(entry[0], sealed, "anna")


def test_the_first_key_is_current_and_older_ones_still_open(entry):
    old_id, old_text = entry
    sealed = seal(Keyring.parse(old_text).public_key(old_id), "anna", TOKEN)
    new_id, new_text = new_key()
    for joined in (f"{new_text},{old_text}", f"\n{new_text}\n\n {old_text} \n"):
        keyring = Keyring.parse(joined)
        assert keyring.current_id == new_id
        assert keyring.key_ids == (new_id, old_id)
        assert keyring.open(old_id, sealed, "anna") == TOKEN


def test_an_unknown_key_id_is_named(entry):
    keyring = Keyring.parse(entry[1])
    with pytest.raises(SealError, match="'gone'"):
        keyring.open("gone", b"x", "anna")
    with pytest.raises(SealError, match="'gone'"):
        keyring.public_key("gone")


@pytest.mark.parametrize(("user_id", "token"), [("", "t"), ("anna", ""), ("\ud800", "t")])
def test_a_token_that_could_not_be_opened_is_not_sealed(entry, user_id, token):
    public_key = Keyring.parse(entry[1]).public_key(entry[0])
    with pytest.raises(SealError):
        seal(public_key, user_id, token)


def test_a_public_key_of_the_wrong_length_is_refused():
    with pytest.raises(SealError, match="32-byte"):
        seal(b"short", "anna", TOKEN)


def test_keys_of_a_wrong_form_are_refused_without_showing_them(entry):
    secret = entry[1].partition(":")[2]
    wrong = [
        "",
        " ,\n",
        secret,
        f":{secret}",
        f"bad id:{secret}",
        f"k:{secret}x",
        f"k:{secret[:-8]}",
        f"{entry[1]},{entry[1]}",
        f"{entry[1]},k:{secret}!!",
    ]
    for text in wrong:
        with pytest.raises(BadKeys) as caught:
            Keyring.parse(text)
        assert secret[:12] not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None


def test_no_repr_and_no_error_shows_a_key_or_a_token(entry):
    key_id, text = entry
    keyring = Keyring.parse(text)
    secret = text.partition(":")[2]
    raw = base64.b64decode(secret)
    for shown in (repr(keyring), str(keyring), f"{keyring}"):
        assert key_id in shown
        assert secret not in shown
        assert repr(raw)[2:-1] not in shown
    sealed = _sealed_text(keyring.public_key(key_id), f'{{"refresh_token": "{TOKEN}"')
    with pytest.raises(SealError) as caught:
        keyring.open(key_id, sealed, "anna")
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    # An error reporter that walks contexts would find the plain text in a JSONDecodeError's `doc`.
    assert caught.value.__context__ is None
    assert TOKEN.encode() not in pickle.dumps(caught.value)


def test_a_key_id_is_the_fingerprint_of_the_key(entry):
    assert entry[1].startswith(entry[0] + ":")
    assert new_key()[0] != entry[0]
