"""The key signs, and is seen nowhere."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from arbgym.live.signer import PASSWORD, PRIVATE_KEY, Signer, SignerError, load_signer

KEY = bytes.fromhex("c0ffee" + 26 * "1d" + "0badf00d"[:6])
CANARIES = (KEY.hex(), KEY.hex().upper(), str(int.from_bytes(KEY)), str(KEY), repr(KEY)[2:-1], str(list(KEY))[1:-1])
WORD = "correct-horse-battery-canary"
TRANSACTION = {
    "type": 2,
    "chainId": 31337,
    "nonce": 3,
    "to": "0x" + 20 * "11",
    "value": 0,
    "data": "0xabcd",
    "gas": 21_000,
    "maxFeePerGas": 10**10,
    "maxPriorityFeePerGas": 10**9,
}


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keystore.json"
    path.write_text(json.dumps(Account.encrypt(KEY, WORD, kdf="pbkdf2", iterations=1000)))
    return path


def clean(*texts: str) -> None:
    for text in texts:
        for canary in (*CANARIES, WORD):
            assert canary.lower() not in text.lower()


def told_by(action: Callable[[], Any]) -> str:
    """All that an exception tells, with the local variables of its frames and of its causes' frames."""
    with pytest.raises(SignerError) as caught:
        action()
    found: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        # the frame of this test holds the key on purpose
        own = [frame for frame in told.stack if "tests/live" in frame.filename]
        found += [repr(frame.locals) + str(frame.line) for frame in told.stack if frame not in own] + [str(error), repr(error)]
        assert error.__cause__ is None
        error = error.__context__
    return "\n".join(found)


def test_it_signs_as_the_account(keystore: Path) -> None:
    account = Account.from_key(KEY)
    for signer in (
        Signer(KEY),
        load_signer(None, {PRIVATE_KEY: KEY.hex()}),
        load_signer(None, {PRIVATE_KEY: " 0x" + KEY.hex().upper() + "\n"}),
        load_signer(keystore, {PASSWORD: WORD}),
    ):
        assert signer.address == account.address
        raw, digest = signer.sign(TRANSACTION)
        expected = account.sign_transaction(TRANSACTION)
        assert (raw, digest) == (bytes(expected.raw_transaction), "0x" + bytes(expected.hash).hex())
        assert Account.recover_transaction(raw) == signer.address
        assert Account.recover_message(encode_defunct(text="hello"), signature=signer.sign_text("hello")) == signer.address


def test_the_password_can_be_asked_for(keystore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: WORD)
    assert load_signer(keystore, {}).address == Signer(KEY).address


def test_the_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    signer = Signer(KEY)
    clean(repr(signer), str(signer), f"{signer}", f"{signer!r}", format(signer), str(dir(signer)))
    clean(
        *(repr(getattr(signer, name)) for name in dir(signer) if not callable(getattr(signer, name)) or name[:2] in ("_a", "_s"))
    )
    with pytest.raises(TypeError):
        vars(signer)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(SignerError) as caught:
            attempt(signer)
        clean(str(caught.value), repr(caught.value))
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("%s %r", signer, {"signer": signer})
        signer.sign(TRANSACTION)
        told_by(lambda: signer.sign({"type": 2}))
    clean(caplog.text)


def test_the_canaries_are_the_key_as_it_might_be_written() -> None:
    told = list(Signer(KEY).canaries())
    assert KEY.hex() in told and KEY.hex().upper() in told and str(int.from_bytes(KEY)) in told


@pytest.mark.parametrize(
    "environment",
    [
        {PRIVATE_KEY: KEY.hex()[:-1]},
        {PRIVATE_KEY: KEY.hex() + "0"},
        {PRIVATE_KEY: "x" + KEY.hex()[1:]},
        {PRIVATE_KEY: 64 * "f", "OTHER": KEY.hex()},  # beyond the curve's order
        {PRIVATE_KEY: 64 * "0", "OTHER": KEY.hex()},
        {PRIVATE_KEY: ""},
        {},
    ],
)
def test_a_bad_key_is_refused_without_being_told(environment: dict[str, str]) -> None:
    told = told_by(lambda: load_signer(None, environment))
    assert "accepted is" in told
    clean(told)
    for value in environment.values():
        assert not value or value not in told


def test_a_bad_keystore_is_refused_without_being_told(keystore: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    garbage = tmp_path / "garbage.json"
    garbage.write_bytes(b"\xff\xfe{")
    old = tmp_path / "old.json"
    old.write_text('{"version": 1}')
    half = tmp_path / "half.json"
    half.write_text('{"version": 3, "crypto": {}}')
    for path, environment in (
        (keystore, {PASSWORD: WORD + "x"}),
        (keystore, {PASSWORD: WORD, PRIVATE_KEY: KEY.hex()}),
        (keystore, {"OTHER": WORD}),
        (garbage, {PASSWORD: WORD}),
        (old, {PASSWORD: WORD}),
        (half, {PASSWORD: WORD}),
        (tmp_path / "missing.json", {PASSWORD: WORD}),
    ):
        told = told_by(lambda path=path, environment=environment: load_signer(path, environment))
        assert "accepted is" in told
        clean(told)


@given(
    fields=st.dictionaries(
        st.sampled_from(sorted(TRANSACTION)), st.none() | st.integers(-1, 2**300) | st.text(max_size=9) | st.floats(), max_size=9
    )
)
def test_whatever_is_to_be_signed_nothing_but_a_signer_error_comes_out(fields: dict[str, Any]) -> None:
    signer = Signer(KEY)
    try:
        raw, digest = signer.sign({**TRANSACTION, **fields})
    except SignerError as error:
        clean(str(error))
    else:
        assert Account.recover_transaction(raw) == signer.address and len(digest) == 66


_AMOUNTS = st.integers(0, 2**64) | st.sampled_from((0, 1, 127, 128, 255, 256, 2**255))


@given(
    numbers=st.fixed_dictionaries(
        dict.fromkeys(("chainId", "nonce", "value", "gas", "maxFeePerGas", "maxPriorityFeePerGas"), _AMOUNTS)
    ),
    to=st.binary(min_size=20, max_size=20),
    data=st.binary(max_size=600),
)
def test_a_transaction_is_byte_for_byte_that_of_eth_account(numbers: dict[str, int], to: bytes, data: bytes) -> None:
    transaction = {**TRANSACTION, **numbers, "to": to_checksum_address(to), "data": "0x" + data.hex()}
    expected = Account.from_key(KEY).sign_transaction(transaction)
    signed = Signer(KEY).sign(transaction)
    assert signed == (bytes(expected.raw_transaction), "0x" + bytes(expected.hash).hex())
    with patch.dict("sys.modules", coincurve=None):  # not installed
        assert Signer(KEY).sign(transaction) == signed


def test_generated_keys_differ() -> None:
    assert Signer.generate().address != Signer.generate().address
