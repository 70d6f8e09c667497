"""The executor contract (``contracts/ArbExecutor.sol``) as Python sees it: its calldata, its errors, its simulation.

A route is one cycle: the quote token is borrowed, traded along the legs and repaid within one transaction, which reverts unless
the gain reaches the route's minimum. Addresses are in lower case, amounts in raw units.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from arbgym.live.terms import Call, Endpoint, LiveError, Refused, Unknown

# Ways to borrow, by the names of arbgym.market.lender, and the contract's number for each. Flash swaps are one to it: the first
# leg's kind says which. ``maker`` is any ERC-3156 lender.
FUNDINGS: Mapping[str, int] = MappingProxyType(
    {"uniswap_v2_flash_swap": 0, "uniswap_v3_flash_swap": 0, "balancer_v2": 1, "morpho_blue": 2, "aave_v3": 3, "maker": 4}
)
# Where a dry run pretends that the contract stands: the end of keccak256("arbgym executor"), which nobody has a key to.
DRY_RUN_ADDRESS = "0x5bb4d138e58b3c5111d6356faa6262b71223d7ec"

_FLASH_SWAPS = {"v2": "uniswap_v2_flash_swap", "v3": "uniswap_v3_flash_swap"}
_LOANS = {number: name for name, number in FUNDINGS.items() if number}
_KINDS: tuple[Literal["v2", "v3"], ...] = ("v2", "v3")
_ADDRESS = re.compile("0x[0-9a-f]{40}")
_EXECUTE = "f40cf67f"  # the selector of execute
_HEAD_WORDS, _LEG_WORDS = 8, 5
_NOBODY = "0x" + 40 * "0"
# The storage word of a contract that is not within a call (``expected`` = IDLE).
_IDLE_STORAGE = MappingProxyType({"0x" + 64 * "0": "0x" + 63 * "0" + "1"})
_AMPLE_WEI = hex(2**128)
LEAST_GAS = 21_000  # of any transaction
_NO_SUCH_METHOD = (-32601, -32602, -32004)  # not found, not with these parameters, not supported


class WouldRevert(LiveError):
    """The node executed the call and it reverts. ``reason`` is in words, ``data`` what the revert returned (0x...)."""

    def __init__(self, reason: str, data: str = "0x") -> None:
        self.reason, self.data = reason, data
        super().__init__(f"the transaction would revert: {reason}")


def _check_address(field: str, value: str) -> None:
    if not (isinstance(value, str) and _ADDRESS.fullmatch(value)):
        raise ValueError(f"{field} = {value!r}; accepted is 0x and 40 hexadecimal digits in lower case")


def _check_integer(field: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{field} = {value!r}; accepted are integers from {low} to {high}")


@dataclass(frozen=True, slots=True)
class Leg:
    """One exact-input swap. Raises ValueError, naming the field."""

    pool: str
    token_in: str
    kind: Literal["v2", "v3"]
    zero_for_one: bool
    fee_ppm: int  # of the input; the contract computes with it where the pool is a V2 one

    def __post_init__(self) -> None:
        _check_address("pool", self.pool)
        _check_address("token_in", self.token_in)
        if self.kind not in _KINDS:
            raise ValueError(f"kind = {self.kind!r}; accepted are {', '.join(_KINDS)}")
        if not isinstance(self.zero_for_one, bool):
            raise ValueError(f"zero_for_one = {self.zero_for_one!r}; accepted are True and False")
        _check_integer("fee_ppm", self.fee_ppm, 0, 999_999)


@dataclass(frozen=True, slots=True)
class Route:
    """A cycle and its terms; the first leg's ``token_in`` is the quote token. Raises ValueError, naming the field."""

    funding: str  # one of FUNDINGS
    lender: str | None  # its address; None for a flash swap, where the first leg's pool lends
    amount_in_raw: int  # quote token
    minimum_profit_raw: int  # quote token, after pool and loan fees, before gas and tip
    last_block: int  # by the chain's own block.number; the contract reverts in later blocks
    legs: tuple[Leg, ...]

    def __post_init__(self) -> None:
        if self.funding not in FUNDINGS:
            raise ValueError(f"funding = {self.funding!r}; accepted are {', '.join(FUNDINGS)}")
        if len(self.legs) < 2:
            raise ValueError(f"legs = {self.legs!r}; accepted are two or more")
        if FUNDINGS[self.funding]:
            _check_address("lender", self.lender or "")
        elif self.lender is not None:
            raise ValueError(f"lender = {self.lender!r}; accepted is None, as the first leg's pool lends in a flash swap")
        elif self.funding != (accepted := _FLASH_SWAPS[self.legs[0].kind]):
            raise ValueError(f"funding = {self.funding!r} with a {self.legs[0].kind} pool first; accepted is {accepted}")
        # a V3 pool reads the amount as a signed word
        _check_integer("amount_in_raw", self.amount_in_raw, 1, 2**255 - 1)
        _check_integer("minimum_profit_raw", self.minimum_profit_raw, 0, 2**256 - 1)
        _check_integer("last_block", self.last_block, 0, 2**256 - 1)

    @property
    def quote(self) -> str:
        """The quote token's address."""
        return self.legs[0].token_in


# ---------------------------------------------------------------------------------------------------------------- calldata
def encode(route: Route) -> str:
    """Calldata of ``execute(route)``, 0x...; hand-made words, as the general ABI encoder takes a hundred times as long."""
    lender = route.lender or _NOBODY
    words = [
        f"{32:064x}{FUNDINGS[route.funding]:064x}{lender[2:]:0>64}{route.amount_in_raw:064x}{route.minimum_profit_raw:064x}"
        f"{route.last_block:064x}{6 * 32:064x}{len(route.legs):064x}"
    ]
    for leg in route.legs:
        kind = _KINDS.index(leg.kind)
        words.append(f"{leg.pool[2:]:0>64}{leg.token_in[2:]:0>64}{kind:064x}{leg.zero_for_one:064x}{leg.fee_ppm:064x}")
    return f"0x{_EXECUTE}{''.join(words)}"


def decode(data: str) -> Route:
    """The route in calldata of ``execute``, exactly as ``encode`` writes it. Raises ValueError for anything else."""
    body = data.removeprefix(f"0x{_EXECUTE}")
    count, rest = divmod(len(body), 64)
    legs, loose = divmod(count - _HEAD_WORDS, _LEG_WORDS)
    if body == data or rest or loose or legs < 2 or not re.fullmatch("[0-9a-f]*", body):
        raise ValueError(f"data = {data[:80]!r} of {len(data)} characters; accepted is calldata of execute")
    words = [int(body[start : start + 64], 16) for start in range(0, len(body), 64)]
    _, number, lender, amount_in, minimum_profit, last_block, _, _ = words[:_HEAD_WORDS]
    found = []
    for start in range(_HEAD_WORDS, len(words), _LEG_WORDS):
        pool, token_in, kind, zero_for_one, fee_ppm = words[start : start + _LEG_WORDS]
        _check_integer("kind", kind, 0, len(_KINDS) - 1)
        found.append(Leg(f"0x{pool:040x}", f"0x{token_in:040x}", _KINDS[kind], bool(zero_for_one), fee_ppm))
    if number and number not in _LOANS:
        raise ValueError(f"funding = {number}; accepted are 0 to {max(_LOANS)}")
    funding = _LOANS[number] if number else _FLASH_SWAPS[found[0].kind]
    route = Route(funding, f"0x{lender:040x}" if number else None, amount_in, minimum_profit, last_block, tuple(found))
    if encode(route) != data:
        raise ValueError(f"data = {data[:80]!r}...; accepted is calldata of execute as encode writes it")
    return route


# ---------------------------------------------------------------------------------------------------------------- reverts
# Of each error of the contract, and of Solidity's own two: the selector, and the words with a place for each argument.
_ERRORS: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "30cd7471": ("NotOwner: the sender is not the contract's owner", 0),
        "b5dfd9e5": ("Reentered: called from within a call", 0),
        "388b0173": ("TooLate: block {0} is past the last one allowed, {1}", 2),
        "2c50d7a6": ("TooFewLegs: {0} legs; accepted are two or more", 1),
        "0eb2a9d5": ("NotExpected: a callback of {0:#042x} that was not asked for", 1),
        "3d0120a7": ("NotCalledBack: {0:#042x} did not call back", 1),
        "5dfaeb7e": ("TooMuchAsked: {0} asked for; accepted is up to {1}", 2),
        "843e30ec": ("NotProfitable: a gain of {0} raw where {1} was wanted", 2),
        "58294a43": ("TokenRefused: token {0:#042x} refused a transfer or an approval", 1),
        "f7c02440": ("NotSent: the owner does not take the chain's own coin", 0),
    }
)
_ERROR_STRING, _PANIC = "08c379a0", "4e487b71"
_PANICS = MappingProxyType(
    {
        0x01: "an assertion failed",
        0x11: "arithmetic overflow",
        0x12: "division by zero",
        0x21: "a number that is no member of the enumeration",
        0x22: "a storage byte array that is badly encoded",
        0x31: "pop of an empty array",
        0x32: "index out of bounds",
        0x41: "too much memory",
        0x51: "call of an empty function pointer",
    }
)
_LONGEST_REASON = 200  # characters; it is a stranger's text, and goes into logs


def revert_reason(data: str) -> str:
    """What the data of a revert (0x...) say, in words: the contract's errors, Error(string), Panic. Never raises."""
    try:
        raw = bytes.fromhex(data.removeprefix("0x"))
    except ValueError:
        return "data that are not hexadecimal"
    if not raw:
        return "no reason given"
    selector, body = raw[:4].hex(), raw[4:]
    words = [int.from_bytes(body[start : start + 32]) for start in range(0, len(body) - 31, 32)]
    if selector == _ERROR_STRING and len(words) > 1:
        text = body[64 : 64 + min(words[1], _LONGEST_REASON)].decode(errors="replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text) or "an empty reason"
    if selector == _PANIC and words:
        return f"Panic: {_PANICS.get(words[0], f'code {words[0]:#x}')}"
    if selector in _ERRORS:
        text, arguments = _ERRORS[selector]
        if len(words) >= arguments:
            return text.format(*words)
    return f"an unknown error 0x{selector} with {len(body)} bytes"


# ------------------------------------------------------------------------------------------------------------- the contract
@cache
def artefact() -> Mapping[str, Any]:
    """The compiled contract: compiler, source_sha256, immutable_offsets, abi, bytecode, runtime_bytecode."""
    text = (files("arbgym.live") / "contracts" / "ArbExecutor.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)["ArbExecutor"]
    return MappingProxyType(found)


@cache
def runtime_code(owner: str) -> str:
    """The code (0x...) that stands on the chain once ``owner`` has deployed it."""
    _check_address("owner", owner)
    code = bytearray.fromhex(artefact()["runtime_bytecode"][2:])
    (places,) = artefact()["immutable_offsets"]  # the owner's are the only ones
    for place in places:
        code[place : place + 32] = bytes.fromhex(owner[2:]).rjust(32, b"\0")
    return f"0x{code.hex()}"


def _called(
    to: str, sender: str, data: str, block: str | int, deployed: bool, gas_limit: int | None, max_fee_wei: int | None
) -> list[Any]:
    """The parameters of ``eth_call``."""
    call = {"from": sender, "to": to, "data": data}
    if gas_limit is not None:
        call["gas"] = hex(gas_limit)
    if max_fee_wei is not None:
        call["maxFeePerGas"] = hex(max_fee_wei)
    return [call, hex(block) if isinstance(block, int) else block, *([] if deployed else [_pretended(to, sender)])]


def _profit(answer: Any, to: str) -> int:
    if answer == "0x":
        raise WouldRevert(f"no contract answers at {to}")
    if not (isinstance(answer, str) and re.fullmatch("0x[0-9a-fA-F]{64}", answer)):
        raise Unknown("eth_call", "malformed", f"{str(answer)[:80]!r}; accepted is one 32-byte word")
    return int(answer, 16)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a transaction does on the state at the end of a block."""

    profit_raw: int  # quote token
    gas_used: int  # paid for, less refunds; of a node without eth_simulateV1 what it asks for, which differs


class Simulator:
    """Asks a node for a transaction's profit and gas, in one message.

    The profit is by ``eth_call``; the gas by ``eth_simulateV1``, or by ``eth_estimateGas`` where the node has no such method.

    Args:
        deployed: the contract stands where it is called. If not, the node is asked to pretend so, with the sender as the owner
            and with coin enough for the gas, so that a dry run needs neither a contract nor a funded account.
    """

    def __init__(self, endpoint: Endpoint, *, deployed: bool) -> None:
        self._endpoint, self._deployed = endpoint, deployed
        self._measures = True  # the node has eth_simulateV1, as far as is known

    async def run(
        self,
        *,
        to: str,
        sender: str,
        data: str,
        block: str | int,
        time_s: int | None = None,
        gas_limit: int | None = None,
        max_fee_wei: int | None = None,
    ) -> Simulated:
        """What the very transaction does on the state at the end of ``block`` (number, hash or tag).

        Args:
            time_s: of the block it would be in: a V3 pool's first swap of a block writes down the time, which is gas.
            gas_limit: of the transaction; the node's own limit where not given.
            max_fee_wei: per gas; where it is given the node also checks that the sender could pay.

        Raises WouldRevert where the transaction reverts or there is no contract, Refused where the node refuses the call itself,
        Unknown where there is no trustworthy answer.
        """
        to, sender = to.lower(), sender.lower()
        called = _called(to, sender, data, block, self._deployed, gas_limit, max_fee_wei)
        measures = self._measures
        while True:
            question = self._gas_question(to, sender, data, called[1], time_s, measures)
            try:
                told = await self._endpoint.batch([("eth_call", called), question])
            except Refused as refused:
                if refused.method == "eth_simulateV1" and measures:
                    measures, self._measures = False, not _is_no_method(refused)
                    continue
                raise (_reverted(refused) if _is_revert(refused) else refused) from None
            if len(told) != 2:
                raise Unknown("eth_call", "malformed", f"{len(told)} answers; accepted are 2")
            profit_raw = _profit(told[0], to)
            return Simulated(profit_raw, _gas_of(told[1]) if measures else _gas("eth_estimateGas", told[1]))

    def _gas_question(self, to: str, sender: str, data: str, place: str, time_s: int | None, measures: bool) -> Call:
        call = {"from": sender, "to": to, "data": data}
        pretended = {} if self._deployed else _pretended(to, sender)
        if not measures:
            return "eth_estimateGas", [call, place, *([pretended] if pretended else [])]
        calls: dict[str, Any] = {"calls": [call]} | ({"stateOverrides": pretended} if pretended else {})
        if time_s is not None:
            calls["blockOverrides"] = {"time": hex(time_s)}
        return "eth_simulateV1", [{"blockStateCalls": [calls], "validation": False}, place]


def _is_no_method(refused: Refused) -> bool:
    return refused.code in _NO_SUCH_METHOD or re.search("method.* not ", refused.message.lower()) is not None


def _gas_of(answer: Any) -> int:
    """The gas of the one call in an answer to ``eth_simulateV1``."""
    try:
        (told,) = answer[0]["calls"]
        status, gas, returned = told["status"], told["gasUsed"], told["returnData"]
    except (TypeError, KeyError, IndexError, ValueError):
        raise Unknown("eth_simulateV1", "malformed", f"{str(answer)[:80]!r}; accepted is one block with one call") from None
    if status != "0x1":
        raise WouldRevert(revert_reason(returned) if isinstance(returned, str) else "no reason given")
    return _gas("eth_simulateV1", gas)


def _gas(method: str, told: Any) -> int:
    if isinstance(told, str) and re.fullmatch("0x[0-9a-fA-F]{1,12}", told) and (gas := int(told, 16)) >= LEAST_GAS:
        return gas
    raise Unknown(method, "malformed", f"gas {str(told)[:80]!r}; accepted is {LEAST_GAS} or more")


def _pretended(to: str, owner: str) -> dict[str, Any]:
    """State in which the contract of ``owner`` stands at ``to``, and the owner can pay for any gas."""
    return {to: {"code": runtime_code(owner), "stateDiff": dict(_IDLE_STORAGE)}, owner: {"balance": _AMPLE_WEI}}


def _reverted(refused: Refused) -> WouldRevert:
    said = re.search("0x(?:[0-9a-fA-F]{2})+$", refused.data)  # Parity's line writes "Reverted 0x..."
    return WouldRevert(revert_reason(said[0]) if said else refused.message, said[0] if said else "0x")


def _is_revert(refused: Refused) -> bool:
    """The EVM ran and gave up, in the words of geth, anvil and others. Codes: 3 is geth's for a revert, -32015 Parity's."""
    said = refused.message.lower()
    return refused.code in (3, -32015) or any(sign in said for sign in ("revert", "out of gas", "outofgas", "invalid opcode"))
