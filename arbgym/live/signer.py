"""The key that signs. It stays in a closure: no attribute, repr, copy or pickle of a signer shows it.

Signatures are libsecp256k1's where coincurve is installed, else those of eth-keys' own curve: the same bytes (RFC 6979), later.
The sender's transactions are encoded here, byte for byte as eth-account does, whose way, which knows every type, takes several
times as long as the signature.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak
from rlp import encode

from arbgym.live.terms import LiveError

PRIVATE_KEY = "ARBGYM_PRIVATE_KEY"
PASSWORD = "ARBGYM_KEYSTORE_PASSWORD"
_TYPE_2 = b"\x02"
_ADDRESS_BYTES = 20
_FIELDS = frozenset(("type", "chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas", "to", "value", "data"))


class SignerError(LiveError):
    """A key could not be read or used. The message never holds it, nor a part of it."""


class Signer:
    """Signs transactions and texts as ``address`` (with the checksum's capitals)."""

    __slots__ = ("_account", "_sign_hash", "address")

    def __init__(self, private_key: bytes) -> None:
        account, failure = _attempt(Account.from_key, private_key)
        del private_key  # a traceback with local variables must not show it
        if failure:
            raise SignerError(f"the key is no private key ({failure}); accepted is 32 bytes, 1 to the curve's order")
        self.address: str = account.address
        self._account: Callable[[], Any] = lambda: account
        self._sign_hash = _hash_signer(bytes(account.key))

    @classmethod
    def generate(cls) -> Signer:
        """A fresh key, for what must be signed by somebody but holds no funds."""
        return cls(bytes(Account.create().key))

    def sign(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """(raw transaction, its hash as 0x...) of a transaction with fields as in JSON-RPC, numbers as integers."""
        if transaction.keys() == _FIELDS:
            raw, failure = _attempt(_signed, transaction, self._sign_hash)
        else:  # a deployment, which has no "to"
            signed, failure = _attempt(self._account().sign_transaction, dict(transaction))
            raw = b"" if failure else bytes(signed.raw_transaction)
        if failure:
            raise SignerError(f"transaction with {sorted(transaction)} ({failure}); accepted is type 2 with all of its fields")
        return raw, "0x" + keccak(raw).hex()

    def sign_text(self, text: str) -> str:
        """The signature (0x...) of a text as of EIP-191, version 0x45."""
        return "0x" + bytes(self._account().sign_message(encode_defunct(text=text)).signature).hex()

    def canaries(self) -> Iterator[str]:
        """The key as it could appear in an output, for whoever keeps it out of them."""
        key = bytes(self._account().key)
        yield key.hex()
        yield key.hex().upper()
        yield str(int.from_bytes(key))

    def __repr__(self) -> str:
        return f"Signer({self.address})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SignerError("a signer cannot be copied or pickled: its key stays in one place")


def _hash_signer(private_key: bytes) -> Callable[[bytes], bytes]:
    """What signs hashes (32 bytes): r and s, 32 bytes each, and the parity of R."""
    try:
        from coincurve import PrivateKey as Curve
    except ImportError:
        key = PrivateKey(private_key)
        return lambda digest: key.sign_msg_hash(digest).to_bytes()
    curve = Curve(private_key)  # kept, as making it takes twice as long as a signature
    return lambda digest: bytes(curve.sign_recoverable(digest, hasher=None))


def _signed(transaction: Mapping[str, Any], sign_hash: Callable[[bytes], bytes]) -> bytes:
    """A raw transaction of type 2 without an access list (EIP-1559): 0x02 and the RLP of its fields and of the signature.

    ``transaction`` has just _FIELDS. Raises ValueError and others for values that are none.
    """
    to = _bytes(transaction["to"])
    if transaction["type"] != 2 or len(to) != _ADDRESS_BYTES:
        raise ValueError
    fields: list[Any] = [
        *(_number(transaction[name]) for name in ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")),
        to,
        _number(transaction["value"]),
        _bytes(transaction["data"]),
        [],
    ]
    signature = sign_hash(keccak(_TYPE_2 + encode(fields, infer_serializer=False)))
    fields += [_number(int.from_bytes(part)) for part in (signature[64:], signature[:32], signature[32:64])]
    signed: bytes = encode(fields, infer_serializer=False)
    return _TYPE_2 + signed


def _number(value: int) -> bytes:
    """As RLP writes numbers: big-endian without leading zeros, so that 0 is empty."""
    return value.to_bytes((value.bit_length() + 7) // 8)


def _bytes(value: str) -> bytes:
    if not value.startswith("0x"):
        raise ValueError
    return bytes.fromhex(value[2:])


def load_signer(keystore: Path | None, environment: Mapping[str, str] = os.environ) -> Signer:
    """The signer of a keystore file (version 3), or of the raw key in ARBGYM_PRIVATE_KEY.

    The keystore's password is ARBGYM_KEYSTORE_PASSWORD, or asked for on a terminal. Raises SignerError, with what is accepted.
    """
    found = _from_keystore(keystore, environment) if keystore is not None else _from_environment(environment)
    del environment  # a traceback with local variables must not show it
    if isinstance(found, str):
        raise SignerError(found)
    return found


def _from_environment(environment: Mapping[str, str]) -> Signer | str:
    """The signer, or what is wrong. As in the functions below no exception leaves here: its frames would hold the key."""
    raw = environment.get(PRIVATE_KEY, "").strip()
    if not raw:
        return f"no key; accepted is a keystore file (version 3) or 64 hexadecimal digits in {PRIVATE_KEY}"
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", raw):
        return f"{PRIVATE_KEY} has {len(raw)} characters; accepted is 64 hexadecimal digits, with or without 0x before them"
    signer, failure = _attempt(Signer, bytes.fromhex(raw.removeprefix("0x")))
    return f"{PRIVATE_KEY} is no private key ({failure}); accepted is 1 to the curve's order" if failure else signer


def _from_keystore(path: Path, environment: Mapping[str, str]) -> Signer | str:
    if PRIVATE_KEY in environment:
        return f"two keys: a keystore file and {PRIVATE_KEY}; accepted is one of them"
    held, failure = _attempt(json.loads, _attempt(path.read_text)[0])
    if failure or not isinstance(held, dict) or held.get("version") != 3:
        return f"keystore = {path} cannot be read as one; accepted is a keystore file, version 3"
    password = environment.get(PASSWORD)
    if password is None:
        if not sys.stdin.isatty():
            return f"no password for the keystore; accepted is {PASSWORD}, or a terminal to ask on"
        password = getpass.getpass(f"Password of {path.name}: ")
    key, failure = _attempt(Account.decrypt, held, password)
    return f"keystore = {path} ({failure}); accepted is its password, and an undamaged file" if failure else Signer(bytes(key))


def _attempt(action: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """(what ``action`` returns, ""), or (None, its exception's name): the exception's own words and frames may hold the key."""
    try:
        return action(*arguments), ""
    except Exception as error:  # noqa: BLE001  whatever it is, it must not get out
        return None, type(error).__name__
