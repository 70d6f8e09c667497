"""Recorded blocks: JSON lines, optionally gzipped, that give back the very views that a feed handed on.

The first line says what is watched; each further line is a view. Raw amounts are strings, so that no reader rounds them; a
concentrated pool's ticks are written in full once, then only what changed. Each line is flushed; what a killed process left of
its last line is left out on reading, and reported.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from arbgym.amm import ConcentratedPool, ConstantProductPool
from arbgym.live.book import constant_product
from arbgym.live.events import hexadecimal
from arbgym.live.feed import WatchedLender
from arbgym.live.plain_json import load_json
from arbgym.live.terms import ChainView, EndOfFeed, FeedBroken, Head, PoolModel, Reference, RivalTrade, WatchedPool

FORMAT, VERSION = "arbgym live recording", 1
_CHUNK = 2**16
_WORLD = {"block_time_s": 86_400.0, "native_price_ratio": 1e9}  # what a header's ``world`` may name, and the most of each
_Parsed = TypeVar("_Parsed")


class RecordingError(FeedBroken):
    """A recording cannot be read or begun: the message names the file, and where it is read the line and the field."""


@dataclass(frozen=True, slots=True)
class RecordingHeader:
    """What was recorded; pools and lenders in the order of the views.

    ``world`` is what the chain, and not the policy's configuration, decided in the recorded run: its block time and its coin's
    price. A replay that does not take it over would see other observations. Empty in recordings from before it was written.
    """

    chain_id: int
    pools: tuple[WatchedPool, ...]
    lenders: tuple[WatchedLender, ...]
    world: Mapping[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------------- writing
class Recorder:
    """Writes views to a new file ``path``, .jsonl, or gzipped .jsonl.gz.

    Raises RecordingError for another name, for what cannot be made, and for a file that is there: two runs in one file would be
    two chains' worth of reorganisations.
    """

    def __init__(self, path: Path, header: RecordingHeader) -> None:
        self._file = _new_file(path)
        self._zipped = gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=5) if path.suffix == ".gz" else None
        self._before: list[PoolModel | None] = [None] * len(header.pools)
        pools = [asdict(pool) for pool in header.pools]
        lenders = [asdict(lender) for lender in header.lenders]
        told = {"format": FORMAT, "version": VERSION, "chain_id": header.chain_id, "world": dict(header.world)}
        self._write(told | {"pools": pools, "lenders": lenders})

    def write(self, view: ChainView) -> None:
        """Add a block. Raises OSError (a full disk)."""
        head = asdict(view.head) | {"base_fee_wei": str(view.head.base_fee_wei)}
        pools = [_pool_written(pool, before) for pool, before in zip(view.pools, self._before, strict=True)]
        self._write(
            {
                "head": head,
                "pools": pools,
                "flow_base": view.flow_base,
                "lenders_raw": [str(raw) for raw in view.lenders_raw],
                "balance_wei": str(view.balance_wei),
                "reference": None if view.reference is None else asdict(view.reference),
                "rivals": [asdict(rival) for rival in view.rivals],
                "reorg_depth": view.reorg_depth,
                "newest": view.newest,
            }
        )
        self._before = list(view.pools)

    def close(self) -> None:
        """Finish the file, on the disk."""
        if self._file.closed:
            return
        if self._zipped is not None:
            self._zipped.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        written = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if self._zipped is not None:
            self._zipped.write(written)
            self._zipped.flush()
        else:
            self._file.write(written)
        self._file.flush()


def _new_file(path: Path) -> IO[bytes]:
    accepted = "accepted is a new file, .jsonl or .jsonl.gz, in a folder that is there"
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise RecordingError(f"--record {path}: its name ends otherwise; {accepted}")
    try:
        return path.open("xb")
    except OSError as error:
        raise RecordingError(f"--record {path}: {error.strerror or error}; {accepted}") from error


def _pool_written(pool: PoolModel, before: PoolModel | None) -> dict[str, Any]:
    if isinstance(pool, ConstantProductPool):
        return {"reserve0": str(pool.reserve0), "reserve1": str(pool.reserve1)}
    line: dict[str, Any] = {"sqrt_price_x96": str(pool.sqrt_price_x96), "tick": pool.tick, "liquidity": str(pool.liquidity)}
    now = _ticks(pool)
    if not isinstance(before, ConcentratedPool):
        return line | {"ticks": {str(tick): [str(number) for number in held] for tick, held in now.items()}}
    was = _ticks(before)
    changed: dict[str, Any] = {str(tick): [str(number) for number in held] for tick, held in now.items() if was.get(tick) != held}
    changed |= {str(tick): None for tick in was if tick not in now}
    return line | {"changed": changed} if changed else line


def _ticks(pool: ConcentratedPool) -> dict[int, tuple[int, int]]:
    """{tick: (net, gross)}."""
    gross = pool.liquidity_gross
    return {tick: (net, gross[tick]) for tick, net in pool.ticks.items()}


# ---------------------------------------------------------------------------------------------------------------- reading
class RecordedFeed:
    """A ``Feed`` of a recording: ``open`` gives its first view, ``next`` the others, then EndOfFeed.

    ``truncated`` is true once the end was met and its last line was not whole. Raises RecordingError for another format or
    version, and for a garbled line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: Iterator[tuple[int, bytes, bool]] = iter(())
        self._states: list[PoolModel | None] = []
        self.truncated = False
        self.header = read_header(path)

    async def open(self) -> ChainView:
        """The first view."""
        self._lines = _numbered_lines(self._path)
        next(self._lines)
        self._states = [None] * len(self.header.pools)
        self.truncated = False
        return await self.next()

    async def next(self) -> ChainView:
        """The next view. Raises EndOfFeed, RecordingError."""
        found = next(self._lines, None)
        if found is None:
            raise EndOfFeed(f"{self._path}: the recording is over")
        number, line, whole = found
        if not whole:
            self.truncated = True
            raise EndOfFeed(f"{self._path}: the recording is over; its last line, {number}, is not whole and left out")
        view = _view(_Line(self._path, number, line), self.header, self._states)
        self._states = list(view.pools)
        return view

    async def close(self) -> None:
        """Let go of the file."""
        self._lines = iter(())


def read_header(path: Path) -> RecordingHeader:
    """What a recording is of. Raises RecordingError."""
    number, line, whole = next(_numbered_lines(path), (1, b"", False))
    if not whole:
        raise RecordingError(f"{path}, line 1: {line[:40]!r}; accepted is a whole line that says what is recorded")
    held = _Line(path, number, line)
    told, version = held.value.get("format"), held.value.get("version")
    if told != FORMAT or version != VERSION:
        held.refuse("format, version", f"{told!r}, {version!r}", f"{FORMAT!r}, {VERSION}")
    pools = held.read("pools", lambda value: tuple(_watched(WatchedPool, one) for one in value))
    lenders = held.read("lenders", lambda value: tuple(_watched(WatchedLender, one) for one in value))
    world = held.read("world", _world) if "world" in held.value else {}
    return RecordingHeader(held.read("chain_id", _whole), pools, lenders, world)


def _world(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError(f"accepted is an object with any of {', '.join(_WORLD)}")
    for name, told in value.items():
        if name not in _WORLD:
            raise ValueError(f"{name[:40]!r} is unknown; accepted are {', '.join(_WORLD)}")
        if type(told) not in (int, float) or not 0.0 < told <= _WORLD[name]:  # NaN is not either
            raise ValueError(f"{name} = {told!r}; accepted is a number over 0, at most {_WORLD[name]:g}")
    return {name: float(told) for name, told in value.items()}


def _watched(made: type[_Parsed], value: Any) -> _Parsed:
    names = {field.name for field in fields(made)}  # type: ignore[arg-type]
    if not isinstance(value, dict) or set(value) != names:
        raise ValueError(f"accepted are the fields {sorted(names)}")
    return made(**value)


class _Line:
    """One line's JSON object, read field by field."""

    def __init__(self, path: Path, number: int, line: bytes) -> None:
        self._path, self._number = path, number
        try:
            value = load_json(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise RecordingError(f"{path}, line {number}: {line[:40]!r}; accepted is a JSON object")
        self.value: dict[str, Any] = value

    def read(self, name: str, parse: Callable[[Any], _Parsed]) -> _Parsed:
        """A field, parsed. Raises RecordingError."""
        if name not in self.value:
            self.refuse(name, "nothing", "a value")
        try:
            return parse(self.value[name])
        except (ValueError, TypeError, KeyError, AttributeError, FeedBroken) as error:
            self.refuse(name, repr(self.value[name])[:80], str(error))

    def refuse(self, name: str, told: str, accepted: str) -> NoReturn:
        raise RecordingError(f"{self._path}, line {self._number}, field {name}: {told}; {accepted}")


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r}; accepted is an integer, 0 or more")
    return value


def _raw(value: Any) -> int:
    """An exact integer, which is written as a string of decimal digits."""
    if not isinstance(value, str) or len(value) > 80 or not value.removeprefix("-").isdecimal() or not value.isascii():
        raise ValueError(f"{value!r}; accepted is a string of decimal digits")
    return int(value)


def _amount(value: Any) -> int:
    if (found := _raw(value)) < 0:
        raise ValueError(f"{value!r}; accepted is 0 or more")
    return found


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r}; accepted is a finite number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r}; accepted is a string")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r}; accepted is true or false")
    return value


def _list_of(parse: Callable[[Any], _Parsed], length: int | None = None) -> Callable[[Any], tuple[_Parsed, ...]]:
    def parsed(value: Any) -> tuple[_Parsed, ...]:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise ValueError(f"accepted is a list{'' if length is None else f' of {length}'}")
        return tuple(parse(one) for one in value)

    return parsed


def _head(value: Any) -> Head:
    return Head(
        _whole(value["number"]),
        hexadecimal("hash", value["hash"], 32),
        hexadecimal("parent_hash", value["parent_hash"], 32),
        _whole(value["timestamp"]),
        _amount(value["base_fee_wei"]),
        _whole(value["gas_used"]),
        _whole(value["gas_limit"]),
    )


def _reference(value: Any) -> Reference | None:
    return None if value is None else Reference(_number(value["price"]), _number(value["time_s"]), _text(value["source"]))


def _rival(value: Any) -> RivalTrade:
    return RivalTrade(_text(value["transaction"]), _number(value["profit_quote"]), _number(value["tip_quote"]))


def _view(line: _Line, header: RecordingHeader, before: Sequence[PoolModel | None]) -> ChainView:
    def pools(value: Any) -> tuple[PoolModel, ...]:
        told = _list_of(dict, len(header.pools))(value)
        return tuple(_pool(watched, one, was) for watched, one, was in zip(header.pools, told, before, strict=True))

    return ChainView(
        line.read("head", _head),
        line.read("pools", pools),
        line.read("flow_base", _list_of(_number, len(header.pools))),
        line.read("lenders_raw", _list_of(_amount, len(header.lenders))),
        line.read("balance_wei", _amount),
        line.read("reference", _reference),
        line.read("rivals", _list_of(_rival)),
        line.read("reorg_depth", _whole),
        line.read("newest", _flag),
    )


def _pool(watched: WatchedPool, value: dict[str, Any], before: PoolModel | None) -> PoolModel:
    if watched.kind == "v2":
        return constant_product(watched, _amount(value["reserve0"]), _amount(value["reserve1"]))
    price, liquidity, tick = _amount(value["sqrt_price_x96"]), _amount(value["liquidity"]), value["tick"]
    if "ticks" in value:
        ticks = {int(_raw(place)): (_raw(net), _amount(gross)) for place, (net, gross) in value["ticks"].items()}
    elif not isinstance(before, ConcentratedPool):
        raise ValueError(f"pool {watched.name}: its first state has no ticks; accepted are all of them")
    elif "changed" not in value:
        return before.moved(sqrt_price_x96=price, tick=tick, liquidity=liquidity)
    else:
        ticks = _ticks(before)
        for place, held in value["changed"].items():
            if held is None:
                del ticks[_raw(place)]
            else:
                ticks[_raw(place)] = (_raw(held[0]), _amount(held[1]))
    return ConcentratedPool(
        sqrt_price_x96=price,
        tick=tick,
        liquidity=liquidity,
        fee=watched.fee_ppm,
        tick_spacing=watched.tick_spacing or 1,
        ticks={place: net for place, (net, _) in ticks.items()},
        liquidity_gross={place: gross for place, (_, gross) in ticks.items()},
    )


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """(line number, line, whether it is whole). Only the last may not be. Raises RecordingError for a broken gzip."""
    number, held = 0, b""
    try:
        with path.open("rb") as file:
            for part in _unzipped(file) if path.suffix == ".gz" else iter(lambda: file.read(_CHUNK), b""):
                *lines, held = (held + part).split(b"\n")
                for line in lines:
                    number += 1
                    yield number, line, True
    except zlib.error as error:
        raise RecordingError(f"{path}, after line {number}: no gzip ({error}); accepted is a recording") from error
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}; accepted is a file that can be read") from error
    if held:
        yield number + 1, held, False


def _unzipped(file: IO[bytes]) -> Iterator[bytes]:
    """As far as it goes: gzip's own reader loses what stands before a cut."""
    unzip = zlib.decompressobj(wbits=31)
    while part := file.read(_CHUNK):
        yield unzip.decompress(part)
