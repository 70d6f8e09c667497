"""JSON from outside, in a process whose recursion limit a library has raised.

py_ecc (beneath web3 and eth-account) sets Python's recursion limit to 100,000, and from then on the standard parser does not
refuse what is nested too deep: it overflows the stack, which ends the process.
"""

from __future__ import annotations

import json
from typing import Any

_MOST_BRACKETS = 10_000  # so many levels fit on an 8 MiB stack; a block of several thousand logs has as many


def load_json(text: str | bytes) -> Any:
    """The value. Raises ValueError for what is no JSON, and for what has more than 10,000 opening brackets."""
    opened = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if opened > _MOST_BRACKETS:
        raise ValueError(f"{opened} opening brackets; accepted are up to {_MOST_BRACKETS}")
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}; accepted is a finite number")
