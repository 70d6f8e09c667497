"""The terminal shows the snapshot, and nothing in it commands the terminal."""

from __future__ import annotations

import asyncio
import io
import math

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')
pytest.importorskip("rich", reason='rich is missing: pip install "arbgym[live]"')

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from arbgym.live.snapshot import DecisionRow, Snapshot, Totals
from arbgym.live.terminal import BLOCKS, render, sparkline, watch
from tests.live.seen import NOW_S, SCRIPT, FakeRunner, FixedClock, example

SHOWN = (
    "ACTIVE", "live", "ArbFlash-v0", "21,345,678", "+1,839.48 USDC", "71.3 %", "77.2 %", "28.7 % of profit", "3,412.55",
    "7.8312 gwei", "c0ffee11d2a4", "418", "notional_eth", "at most 50 ETH", "81.3 %", "uniswap-v3 WETH/USDC", "+87.25", "mined",
    "ReferenceStale", "ppo-arbflash-7f31", "2,000,000",
)  # fmt: skip


def shown(snapshot: Snapshot, width: int = 150) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(render(snapshot))
    return console.export_text()


def test_it_shows_what_the_page_shows() -> None:
    text = shown(example())
    for part in SHOWN:
        assert part in text, part


def test_profit_that_nobody_made_is_called_what_it_is() -> None:
    for mode, run in (("dry-run", "dry run"), ("replay", "replay")):
        text = shown(example(mode=mode), width=200)
        for part in ("Would-be profit", "Would-be win rate", f"every block counted anew, as a {run} moves no pool"):
            assert part in text
        assert "Net profit" not in text
    text = shown(example(), width=200)
    assert "Net profit" in text and "Would-be" not in text
    assert "412 ended since the journal began; 7,431 decisions since this start" in text


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"killed": True, "kill_reason": "the file is there"}, ("KILLED", "killed: the file is there")),
        ({"gate_state": "HALTED"}, ("HALTED", "the risk gate is HALTED")),
        ({"gate_state": "REDUCING"}, ("REDUCING",)),
        ({"head_age_s": 99.0}, ("ACTIVE", "the head is 99 s old")),
    ],
)
def test_the_banner_says_where_it_stands(changes: dict[str, object], parts: tuple[str, ...]) -> None:
    text = shown(example(**changes))
    for part in parts:
        assert part in text


def test_a_runner_that_knows_nothing_yet_is_shown() -> None:
    nothing = dict.fromkeys(
        ("block_number", "head_age_s", "reference_price", "reference_age_s", "base_fee_gwei", "open_intent", "next_nonce")
    )
    text = shown(
        example(**nothing, totals=Totals(), curve=(), limits=(), decisions=(), pools=(), alerts=(), drawdown=math.nan), width=80
    )
    assert "no block yet" in text
    for wrong in ("nan", "None", "inf"):
        assert wrong not in text


@given(st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_text_from_outside_is_only_text(text: str) -> None:
    row = DecisionRow(NOW_S, 1, f"[bold red]{text}\x1b[2J[/nonsense]", 0.5, 1.0, 1.0, text, text)
    console = Console(width=300, file=io.StringIO(), force_terminal=False)
    console.print(render(example(decisions=(row,), kill_reason=text, killed=True)))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in written
    assert "[bold red]" in written


def test_markup_is_shown_and_not_obeyed() -> None:
    assert SCRIPT in shown(example(), width=220)


@given(st.lists(st.integers(-(10**9), 10**9), max_size=60))
def test_a_sparkline_rises_and_falls_with_its_values(values: list[int]) -> None:
    heights = [BLOCKS.index(block) for block in sparkline([float(value) for value in values], width=60)]
    assert len(heights) == len(values)
    order = sorted(range(len(values)), key=lambda index: values[index])
    assert [heights[index] for index in order] == sorted(heights)
    if len(set(values)) > 1:
        assert {min(heights), max(heights)} == {0, len(BLOCKS) - 1}


def test_a_narrow_sparkline_ends_at_the_last_value() -> None:
    assert sparkline([0.0] * 99 + [1.0], width=10) == BLOCKS[0] * 9 + BLOCKS[-1]


def test_it_draws_again_and_again_until_it_is_cancelled() -> None:
    class Stopping(FixedClock):
        drawn = 0

        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            self.drawn += 1
            if self.drawn == 3:
                raise asyncio.CancelledError
            runner.shown = example(gate_state="HALTED")

    runner, clock = FakeRunner(), Stopping()
    console = Console(record=True, width=120, height=60, file=io.StringIO(), force_terminal=True)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch(runner, clock, console=console))
    assert (clock.drawn, clock.now_s) == (3, NOW_S + 3)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "ACTIVE" in written
    assert "HALTED" in written
    assert written.endswith("\x1b[?25h") or "\x1b[?1049l" in written  # the terminal is given back
