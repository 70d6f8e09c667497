"""A recording gives back what was recorded: every field of every view, also after kill -9."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.amm import ConcentratedPool, ConstantProductPool
from arbgym.amm.tick_math import sqrt_price_x96_at_tick
from arbgym.data import read_tape
from arbgym.live import tapes
from arbgym.live.clock import SystemClock
from arbgym.live.endpoint import connect
from arbgym.live.feed import ChainFeed, WatchedLender
from arbgym.live.recording import RecordedFeed, Recorder, RecordingError, RecordingHeader, read_header
from arbgym.live.reference import PoolReference
from arbgym.live.terms import ChainView, EndOfFeed, Head, Reference, RivalTrade, WatchedPool
from tests.chain.anvil import Anvil
from tests.live import recordings
from tests.live.test_feed import World, state, watched

TOKENS = ("0x" + 40 * "1", "0x" + 40 * "2")
POOLS = (
    WatchedPool("first", "0x" + 40 * "a", "v2", 2500, *TOKENS, 6, 18, True),
    WatchedPool("second", "0x" + 40 * "b", "v3", 500, *TOKENS, 6, 18, True, 10),
)
LENDERS = (WatchedLender("uniswap_v2_flash_swap", "flash_swap"), WatchedLender("maker", "balance", "0x" + 40 * "c"))
HEADER = RecordingHeader(31337, POOLS, LENDERS, {"block_time_s": 2.0, "native_price_ratio": 1.0})
SUFFIXES = pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])


def plain(view: ChainView) -> dict[str, Any]:
    """Every field of a view as comparable values; the pools by their numbers."""
    told = {field.name: getattr(view, field.name) for field in fields(view)}
    return told | {"pools": [state(pool) for pool in view.pools]}


def read(path: Path) -> tuple[list[dict[str, Any]], RecordedFeed]:
    async def run() -> tuple[list[dict[str, Any]], RecordedFeed]:
        feed = RecordedFeed(path)
        views = []
        try:
            views.append(plain(await feed.open()))
            while True:
                views.append(plain(await feed.next()))
        except EndOfFeed:
            pass
        await feed.close()
        return views, feed

    return asyncio.run(run())


def record(path: Path, views: list[ChainView]) -> None:
    recorder = Recorder(path, HEADER)
    for view in views:
        recorder.write(view)
    recorder.close()


def block(number: int, tick: int, ticks: dict[int, int], **changed: Any) -> ChainView:
    """A block whose pools have these numbers; liquidity 10**15 where the price is."""
    head = Head(number, f"0x{number:064x}", f"0x{number - 1:064x}", 1700000000 + number, 2**70 + number, 2**20, 2**25)
    pools = (
        ConstantProductPool(2**111 + number, 3 * number + 1, (1, 400)),
        ConcentratedPool(
            sqrt_price_x96=sqrt_price_x96_at_tick(tick),
            tick=tick,
            liquidity=10**15,
            fee=500,
            tick_spacing=10,
            ticks=ticks,
            liquidity_gross={place: abs(net) + number for place, net in ticks.items()},
        ),
    )
    view = ChainView(head, pools, (0.1 * number, -1e-300), (10**30, 2**255), 2**90 + 1, None)
    return replace(view, **changed)


numbers = st.floats(allow_nan=False, allow_infinity=False)
ticks = st.dictionaries(st.integers(-80, 80).map(lambda k: 10 * k), st.integers(-(10**12), 10**12), max_size=8)
views = st.builds(
    block,
    st.integers(1, 10**9),
    st.integers(-900, 900),
    ticks,
    flow_base=st.tuples(numbers, numbers),
    lenders_raw=st.tuples(st.integers(0, 2**256 - 1), st.just(0)),
    reference=st.none() | st.builds(Reference, numbers, numbers, st.text()),
    rivals=st.lists(st.builds(RivalTrade, st.text(), numbers, numbers), max_size=2).map(tuple),
    reorg_depth=st.integers(0, 12),
    newest=st.booleans(),
)


@SUFFIXES
@given(recorded=st.lists(views, min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_views_come_back_equal(tmp_path_factory: pytest.TempPathFactory, suffix: str, recorded: list[ChainView]) -> None:
    path = tmp_path_factory.mktemp("recording") / f"blocks{suffix}"
    record(path, recorded)
    found, feed = read(path)
    assert found == [plain(view) for view in recorded]
    assert feed.header == read_header(path) == HEADER and not feed.truncated


def test_a_chain_s_views_come_back_equal(anvil: Anvil, tmp_path: Path) -> None:
    world, path = World(anvil), tmp_path / "blocks.jsonl.gz"
    told: list[dict[str, Any]] = []

    async def run() -> None:
        clock = SystemClock()
        endpoint = connect(anvil.url, timeout_s=5.0, clock=clock, poll_s=0.01)
        pools = await watched(endpoint, world)
        lenders = [WatchedLender("maker", "balance", world.market.trader.address.lower())]
        feed = ChainFeed(endpoint, clock, chain_id=31337, pools=pools, lenders=lenders, reference=PoolReference(2))
        recorder = Recorder(path, RecordingHeader(31337, tuple(pools), tuple(lenders)))
        view = await feed.open()
        for k in range(30):
            told.append(plain(view))
            recorder.write(view)
            world.act()
            if k == 20:
                anvil.call("anvil_reorg", 3, [])
                world.positions = world.positions[:2]
            view = await feed.next()
        recorder.close()
        await feed.close()

    asyncio.run(run())
    assert read(path)[0] == told
    assert {view["reorg_depth"] for view in told} == {0, 2}


def test_ticks_are_written_once(tmp_path: Path) -> None:
    path, many = tmp_path / "blocks.jsonl", {10 * k: 1 for k in range(-80, 80)}
    first = block(1, 5, many)
    pool = first.pools[1]
    assert isinstance(pool, ConcentratedPool)
    moved = replace(first, pools=(first.pools[0], pool.moved(sqrt_price_x96=sqrt_price_x96_at_tick(7), tick=7, liquidity=10**15)))
    record(path, [first, moved, moved])
    lines = path.read_text().splitlines()
    assert "ticks" in lines[1] and "ticks" not in lines[2] and "changed" not in lines[2] and len(lines[2]) < len(lines[1]) / 3


def test_after_kill_9_every_whole_line_is_there(tmp_path: Path) -> None:
    path = tmp_path / "blocks.jsonl.gz"
    program = f"""
from pathlib import Path
from arbgym.amm import ConstantProductPool
from arbgym.live.recording import Recorder, RecordingHeader
from arbgym.live.terms import ChainView, Head, WatchedPool
pools = (WatchedPool("first", "0x" + 40 * "a", "v2", 2500, {TOKENS[0]!r}, {TOKENS[1]!r}, 6, 18, True),)
recorder = Recorder(Path({str(path)!r}), RecordingHeader(1, pools, ()))
for number in range(1, 10**9):
    head = Head(number, "0x" + 64 * "1", "0x" + 64 * "2", number, number, number, number)
    recorder.write(ChainView(head, (ConstantProductPool(number, 2**100, (1, 400)),), (0.1,), (), 0, None))
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    written = 0
    while written < 40:
        written = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    found, _ = read(path)
    assert len(found) >= written
    assert [view["head"].number for view in found] == list(range(1, len(found) + 1))
    assert [view["pools"] for view in found] == [[(number, 2**100, (1, 400))] for number in range(1, len(found) + 1)]


@SUFFIXES
def test_a_file_cut_anywhere_gives_what_is_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"blocks{suffix}"
    recorded = [block(number, 0, {0: 1, 10: -1}) for number in range(1, 6)]
    record(path, recorded)
    held, (whole, _) = path.read_bytes(), read(path)
    seen = set()
    for size in range(len(held) // 2, len(held), 7):
        path.write_bytes(held[:size])
        found, feed = read(path)
        assert found == whole[: len(found)]
        seen.add((len(found), feed.truncated))
    assert any(truncated for _, truncated in seen) and len({count for count, _ in seen}) > 1


def test_the_end_says_that_the_last_line_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "blocks.jsonl"
    record(path, [block(1, 0, {})])
    path.write_bytes(path.read_bytes() + b'{"head"')

    async def run() -> None:
        feed = RecordedFeed(path)
        await feed.open()
        with pytest.raises(EndOfFeed, match="its last line, 3, is not whole"):
            await feed.next()
        assert feed.truncated

    asyncio.run(run())


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "blocks.jsonl"
    record(path, [])
    held = path.read_bytes()
    with pytest.raises(RecordingError, match=r"--record .*blocks\.jsonl: File exists; accepted is a new file, \.jsonl or"):
        Recorder(path, HEADER)
    assert path.read_bytes() == held


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "missing/blocks.jsonl",
            "No such file or directory; accepted is a new file, .jsonl or .jsonl.gz, in a folder that is there",
        ),
        ("blocks.json", "its name ends otherwise; accepted is a new file, .jsonl or .jsonl.gz"),
        ("blocks.gz", "its name ends otherwise; accepted"),
        ("blocks.jsonl.zst", "its name ends otherwise; accepted"),
        ("blocks", "its name ends otherwise; accepted"),
    ],
)
def test_a_file_that_cannot_be_made_is_refused_by_name(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(RecordingError, match=re.escape(f"--record {tmp_path / name}: {said}")):
        Recorder(tmp_path / name, HEADER)
    assert not list(tmp_path.iterdir())


def spoil(path: Path, line: int, change: Any) -> None:
    lines = path.read_text().splitlines()
    told = json.loads(lines[line - 1])
    change(told)
    lines[line - 1] = json.dumps(told)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "change", "said"),
    [
        (1, lambda told: told.update(version=2), "line 1, field format, version"),
        (1, lambda told: told.update(format="other"), "line 1, field format, version"),
        (1, lambda told: told.pop("chain_id"), "line 1, field chain_id: nothing"),
        (1, lambda told: told["pools"][0].pop("fee_ppm"), "line 1, field pools"),
        (1, lambda told: told["lenders"][1].update(address="0x1"), "line 1, field lenders"),
        (1, lambda told: told.update(world=None), "line 1, field world: None; accepted is an object"),
        (
            1,
            lambda told: told["world"].update(gas_limit=1.0),
            "line 1, field world.*'gas_limit' is unknown; accepted are block_t",
        ),
        (1, lambda told: told["world"].update(block_time_s=0.0), "line 1, field world.*block_time_s = 0.0; accepted is a number"),
        (1, lambda told: told["world"].update(block_time_s=-2), "line 1, field world.*block_time_s = -2; accepted is a number"),
        (1, lambda told: told["world"].update(block_time_s="2"), "line 1, field world.*block_time_s = '2'; accepted"),
        (1, lambda told: told["world"].update(block_time_s=True), "line 1, field world.*block_time_s = True; accepted"),
        (1, lambda told: told["world"].update(block_time_s=10**400), "line 1, field world.*block_time_s = 10000.*at most 86400"),
        (1, lambda told: told["world"].update(native_price_ratio=None), "line 1, field world.*native_price_ratio = None; accept"),
        (3, lambda told: told["head"].update(number="7"), "line 3, field head"),
        (3, lambda told: told["head"].update(base_fee_wei=7), "line 3, field head"),
        (3, lambda told: told["head"].update(hash="0x1"), "line 3, field head"),
        (3, lambda told: told["pools"].pop(), "line 3, field pools"),
        (3, lambda told: told["pools"][1].update(tick=40), "line 3, field pools"),
        (3, lambda told: told["pools"][1].update(changed={"30": None}), "line 3, field pools"),
        (2, lambda told: told["pools"][1].pop("ticks"), "line 2, field pools"),
        (3, lambda told: told.update(flow_base=[1.0]), "line 3, field flow_base"),
        (3, lambda told: told.update(flow_base=[1.0, "2"]), "line 3, field flow_base"),
        (3, lambda told: told.update(lenders_raw=["1", "-2"]), "line 3, field lenders_raw"),
        (3, lambda told: told.update(balance_wei=1e9), "line 3, field balance_wei"),
        (3, lambda told: told.update(reference={}), "line 3, field reference"),
        (3, lambda told: told.update(rivals=[{"transaction": 1}]), "line 3, field rivals"),
        (3, lambda told: told.update(reorg_depth=-1), "line 3, field reorg_depth"),
        (3, lambda told: told.update(newest=1), "line 3, field newest"),
    ],
)
def test_a_garbled_line_is_refused_by_file_line_and_field(tmp_path: Path, line: int, change: Any, said: str) -> None:
    path = tmp_path / "blocks.jsonl"
    record(path, [block(number, 0, {0: 1, 10: -1}) for number in range(1, 4)])
    spoil(path, line, change)
    with pytest.raises(RecordingError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("number", ["1e999", "NaN", "Infinity"])
def test_a_world_that_is_no_number_is_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "blocks.jsonl"
    record(path, [block(1, 0, {})])
    path.write_text(path.read_text().replace('"block_time_s":2.0', f'"block_time_s":{number}'))
    with pytest.raises(RecordingError, match="line 1"):
        read_header(path)


def test_a_recording_from_before_the_world_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "blocks.jsonl"
    record(path, [block(1, 0, {})])
    spoil(path, 1, lambda told: told.pop("world"))
    assert read_header(path) == replace(HEADER, world={})
    assert len(read(path)[0]) == 1


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    for name, held in (("a", b""), ("b", b"[]\n"), ("c", b"\xff\xfe\n"), ("d.gz", b"no gzip"), ("e.gz", gzip.compress(b"7\n"))):
        (tmp_path / name).write_bytes(held)
        with pytest.raises(RecordingError, match=name):
            RecordedFeed(tmp_path / name)
    with pytest.raises(RecordingError, match="No such file"):
        read_header(tmp_path / "none")


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_recording_with_any_bytes_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / data.draw(st.sampled_from(["blocks.jsonl", "blocks.jsonl.gz"]))
    record(path, [block(number, 0, {0: 1, 10: -1}) for number in range(1, 4)])
    held = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        held[data.draw(st.integers(0, len(held) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(held))
    try:
        read(path)
    except RecordingError as error:
        assert str(path) in str(error)


def converted(path: Path, header: RecordingHeader, step_s: int, *more: str) -> tuple[int, Path]:
    """The exit status of ``python -m arbgym.live.tapes`` on 40 blocks ``step_s`` apart, and the tape's path."""
    recorder, out = Recorder(path, header), path.with_suffix(".parquet")
    for view in recordings.views(40):
        time_s = recordings.FIRST_S + step_s * view.head.number
        recorder.write(replace(view, head=replace(view.head, timestamp=time_s)))
    recorder.close()
    return tapes.main([str(path), str(out), *more]), out


@pytest.mark.parametrize(("world", "step_s"), [({"block_time_s": 2.0}, 2), ({"block_time_s": 1.0}, 1), ({}, 12)])
def test_a_tape_s_rows_are_the_recording_s_block_time_apart(tmp_path: Path, world: dict[str, float], step_s: int) -> None:
    header = RecordingHeader(1, recordings.WATCHED, (), world)
    status, out = converted(tmp_path / "blocks.jsonl", header, step_s, "--chain", "ethereum")
    assert status == 0
    tape = read_tape(out)
    assert tape.step_seconds == step_s and len(tape.timestamps) == 40 and not tape.filled


def test_a_chain_that_no_tape_can_have_is_not_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = RecordingHeader(1, recordings.WATCHED, (), {"block_time_s": 0.25})
    with pytest.raises(SystemExit):
        converted(tmp_path / "one.jsonl", header, 1, "--chain", "arbitrum")
    assert "--chain: invalid choice: 'arbitrum' (choose from" in capsys.readouterr().err
    assert converted(tmp_path / "two.jsonl", header, 1)[0] == 2
    assert "two.jsonl: block_time_s = 0.25; accepted are whole seconds" in capsys.readouterr().err
