"""Token tapes from tables: what is kept, dropped and refused, and what no rearrangement of rows may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pl = pytest.importorskip("polars", reason="market tables need the extra data")

from arbgym.amm.bonding_curve import curve_price  # noqa: E402
from arbgym.data.__main__ import main  # noqa: E402
from arbgym.data.tokens import (  # noqa: E402
    TokenOptions,
    kind_of_columns,
    launch_outcomes,
    tokens_from_file,
    tokens_from_frame,
)
from arbgym.market.tape import TapeError  # noqa: E402
from arbgym.market.token_tape import TokenTape  # noqa: E402

START = 1_780_000_000
USD = TokenOptions(quote_usd=100.0)


def trades(*rows: tuple[float, str, float, float], token: str = "A", **columns: Any) -> Any:
    """Trades of (seconds after the start, side, SOL, price)."""
    seconds, side, sol, price = zip(*rows, strict=True)
    frame = pl.DataFrame({"mint": token, "block_time": [START + s for s in seconds], "side": side})
    return frame.with_columns(pl.Series("sol_amount", sol), pl.Series("price_sol", price), *(
        pl.Series(name, values) for name, values in columns.items()
    ))  # fmt: skip


def bars(token: str, hours: list[int], close: list[float], **columns: Any) -> Any:
    frame = pl.DataFrame({"mint": token, "timestamp": [START + 3600 * h for h in hours], "close_usd": close})
    held = {"open_usd": close, "high_usd": close, "low_usd": close, "volume_usd": [10.0] * len(close)} | columns
    return frame.with_columns(*(pl.Series(name, values) for name, values in held.items()))


def test_trades_become_seconds() -> None:
    frame = trades(
        (0, "buy", 1.0, 1e-6), (0, "sell", 0.5, 1.2e-6), (3, "buy", 3.0, 1.5e-6), trader_is_known_sniper=[True, False, False]
    )
    tape, report = tokens_from_frame(frame, options=TokenOptions(quote_usd=100.0, large_share=0.02))
    assert (tape.names, tape.step_s, tape.quote, len(tape.rows)) == (("A",), 1.0, "USD", 4)
    np.testing.assert_array_equal(tape.column("time_s"), START + np.arange(1, 5))
    np.testing.assert_allclose(tape.column("price_quote"), np.array([1.2e-4, 1.2e-4, 1.2e-4, 1.5e-4]))
    np.testing.assert_allclose(tape.column("low_quote"), np.array([1e-4, 1.2e-4, 1.2e-4, 1.5e-4]))
    np.testing.assert_allclose(tape.column("buy_quote"), [100.0, 0.0, 0.0, 300.0])
    np.testing.assert_allclose(tape.column("sell_quote"), [50.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(tape.column("known_net_quote"), [100.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(tape.column("large_net_quote"), [0.0, 0.0, 0.0, 0.0])
    assert (report.filled, report.dropped) == (2, {})


def test_reserves_are_those_of_a_migrated_pool() -> None:
    """At the price of the migration, 84.99 SOL against 206.9 M tokens; twice the price is root two of the reserve."""
    tape, _ = tokens_from_frame(trades((0, "buy", 1.0, 84.99 / 206.9e6), (1, "buy", 1.0, 2 * 84.99 / 206.9e6)))
    np.testing.assert_allclose(tape.column("reserve_quote"), 84.99 * np.sqrt([1.0, 2.0]), rtol=1e-4)
    assert tape.quote == "SOL"
    tape, _ = tokens_from_frame(
        trades((0, "buy", 1.0, 1.0), (1, "buy", 1.0, 4.0)), options=TokenOptions(reserve_quote=50.0, outlier_factor=0.0)
    )
    np.testing.assert_allclose(tape.column("reserve_quote"), [50.0, 100.0])


def test_what_is_dropped_is_counted_by_name() -> None:
    nan = float("nan")
    good = [(s, "buy", 1.0, 1e-6) for s in range(5)]
    frame = trades(
        *good, (2, "buy", 1.0, nan), (2, "buy", nan, 1e-6), (2, "buy", -1.0, 1e-6), (2, "swap", 1.0, 1e-6),
        (3, "sell", 1.0, 0.0), (4, "sell", 1.0, 9e-6), (1, "sell", 2.0, 1e-6),
    )  # fmt: skip
    frame = pl.concat([frame, frame.tail(1), trades((0, "buy", 1.0, 1e-6), token="dies at once")])
    tape, report = tokens_from_frame(frame)
    assert report.dropped == {
        "rows that occur twice": 1,
        "trades without a price above 0": 2,
        "trades without an amount of 0 or more": 2,
        "trades that neither buy nor sell": 1,
        "trades 2-fold off the running median of 15": 1,
        "tokens of fewer than 2 steps (tokens, not rows)": 1,
    }
    assert (tape.names, report.tokens_read, report.tokens_kept) == (("A",), 2, 1)
    assert any("stood before their time" in note for note in report.notes)
    assert tape.column("sell_quote").tolist() == [0.0, 2.0, 0.0, 0.0, 0.0]
    assert "dropped: 1 trades that neither buy nor sell" in report.text()


def test_flagged_outliers_go_and_the_rule_can_be_switched_off() -> None:
    frame = trades((0, "buy", 1.0, 1.0), (1, "buy", 1.0, 50.0), (2, "buy", 1.0, 1.0))
    kept, _ = tokens_from_frame(frame, options=TokenOptions(outlier_factor=0.0))
    assert kept.column("price_quote").max() == 50.0
    flagged, report = tokens_from_frame(frame.with_columns(price_outlier=pl.Series([False, True, False])))
    assert flagged.column("price_quote").max() == 1.0
    assert report.dropped == {"trades flagged as price outliers": 1}


def test_a_rug_is_kept_but_not_bought() -> None:
    frame = trades(*((s, "sell", 1.0, 1e-6) for s in range(4)), quote_reserve=[0.0, 80.0, 0.0, 0.0])
    tape, _ = tokens_from_frame(pl.concat([frame, frame.with_columns(mint=pl.lit("B"), quote_reserve=pl.lit(5.0))]))
    assert tape.column("reserve_quote").tolist()[:4] == [0.0, 80.0, 0.0, 0.0]
    assert tape.entries.tolist() == [4]


def test_a_long_silence_is_a_gap_and_a_short_one_is_silence() -> None:
    frame = trades((0, "buy", 1.0, 1.0), (1, "buy", 1.0, 1.0), (1000, "buy", 1.0, 1.0), (1001, "buy", 1.0, 1.0))
    whole, _ = tokens_from_frame(frame)
    assert (len(whole), len(whole.rows)) == (1, 1002)
    split, report = tokens_from_frame(frame, options=TokenOptions(max_gap_s=500.0))
    assert (split.names, len(split.rows)) == (("A", "A#2"), 4)
    assert any("1 gaps" in note for note in report.notes)
    assert split.column("age_s").tolist() == [1.0, 2.0, 1001.0, 1002.0]
    followed, _ = tokens_from_frame(frame.head(2), options=TokenOptions(until_age_s=60.0))
    assert (len(followed.rows), followed.column("buy_quote").sum()) == (60, 2.0)


def test_bars_are_known_at_their_end() -> None:
    frame = bars("A", [0, 1, 3], [1.0, 2.0, 1.0], open_usd=[1.0, 1.0, 2.0], high_usd=[1.0, 3.0, 2.0], low_usd=[1.0, 1.0, 1.0])
    tape, report = tokens_from_frame(frame, options=USD)
    assert tape.column("time_s").tolist() == [START + 3600 * h for h in (1, 2, 3, 4)]
    assert tape.column("price_quote").tolist() == [1.0, 2.0, 2.0, 1.0]
    assert tape.column("high_quote").tolist() == [1.0, 3.0, 2.0, 2.0]
    assert tape.column("buy_quote").tolist() == [5.0, 5.0, 0.0, 0.0]
    assert tape.column("sell_quote").tolist() == [5.0, 5.0, 0.0, 10.0]
    assert report.filled == 1
    coarse, _ = tokens_from_frame(frame, options=TokenOptions(quote_usd=100.0, step_seconds=7200.0))
    assert coarse.column("price_quote").tolist() == [2.0, 1.0]
    assert coarse.column("buy_quote").tolist() == [10.0, 0.0]
    with pytest.raises(TapeError, match="multiples of the bars' 3600 s"):
        tokens_from_frame(frame, options=TokenOptions(quote_usd=100.0, step_seconds=1800.0))


def test_bars_do_not_say_what_a_pool_holds() -> None:
    frame = bars("A", [0, 1], [1.0, 1.0])
    with pytest.raises(TapeError, match=r"--reserve-quote .*--quote-usd"):
        tokens_from_frame(frame)
    tape, _ = tokens_from_frame(frame, options=TokenOptions(reserve_quote=1e6))
    assert tape.column("reserve_quote").tolist() == [1e6, 1e6]
    spiked, report = tokens_from_frame(bars("A", [0, 1, 2], [1.0, 50.0, 1.0]), options=USD)
    assert spiked.column("price_quote").tolist() == [1.0, 1.0, 1.0]
    assert report.dropped == {"closes 10-fold off both neighbours": 1}


def test_curves_are_known_exactly() -> None:
    frame = pl.DataFrame(
        {
            "timestamp": [START, START + 4, START + 21],
            "mint": "A",
            "virtual_sol_reserve": [40.0, 45.0, 41.0],
            "age_s": [7.0, 11.0, 28.0],
        }
    )
    tape, report = tokens_from_frame(frame, options=TokenOptions(quote_usd=10.0))
    assert (report.kind, tape.step_s) == ("tracks", 5.0)
    assert tape.column("reserve_quote").tolist() == [450.0, 450.0, 450.0, 450.0, 410.0]
    assert tape.column("buy_quote").tolist() == [50.0, 0.0, 0.0, 0.0, 0.0]
    assert tape.column("sell_quote").tolist() == [0.0, 0.0, 0.0, 0.0, 40.0]
    assert tape.column("age_s")[0] == 12.0
    assert tape.column("on_curve").tolist() == [1.0] * 5
    np.testing.assert_allclose(tape.column("price_quote")[[0, 4]], [10 * curve_price(45.0), 10 * curve_price(41.0)], rtol=1e-15)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (trades((0, "buy", 1.0, 1.0)).clear(), "empty table"),
        (pl.DataFrame({"a": [1]}), "accepted are tracks: .*; trades: .*; bars: "),
        (trades((0, "buy", 1.0, 1.0)), "no token has 2 steps"),
        (trades((0, "buy", 1.0, float("nan"))), "no row left: trades without a price"),
        (trades((0, "buy", 1.0, 1.0), (1, "buy", 1.0, float("inf"))), "row 1, column price_sol.*finite"),
        (trades((0, "buy", 1.0, 1.0), (10**9, "buy", 1.0, 1.0)), "longer --step-seconds"),
    ],
)
def test_tables_that_make_no_tape_are_refused(frame: Any, message: str) -> None:
    with pytest.raises(TapeError, match=message):
        tokens_from_frame(frame, options=TokenOptions(max_gap_s=1e12))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step_seconds", 0.0), ("quote_usd", -1.0), ("reserve_quote", float("nan")), ("large_share", 0.0),
        ("outlier_factor", 0.5), ("outlier_window", 1), ("dust_quote", -1.0), ("until_age_s", 0.0), ("max_gap_s", 0.0),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        TokenOptions(**{field: value})  # type: ignore[arg-type]


ROWS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["buy", "sell"]), st.floats(0.1, 10.0), st.floats(1.0, 1.5)),
    min_size=2,
    max_size=30,
).filter(lambda rows: len({row[0] for row in rows}) > 1)


@given(ROWS, st.randoms(use_true_random=False), st.sampled_from([1.0, 2.5, 7.0]))
def test_volume_is_conserved_and_order_does_not_matter(rows: list[Any], random: Any, step: float) -> None:
    """Every trade's volume is in the tape once; each row's close is the last trade's before its time, and in its range."""
    frame = trades(*rows, seq=list(range(len(rows))))
    options = TokenOptions(step_seconds=step)
    try:
        tape, _ = tokens_from_frame(frame, options=options)
    except TapeError as error:
        assert "no token has 2 steps" in error.rule
        return
    held = frame.sort("block_time", "seq").rows(named=True)
    for side in ("buy", "sell"):
        assert tape.column(f"{side}_quote").sum() == pytest.approx(sum(row["sol_amount"] for row in held if row["side"] == side))
    for time, price in zip(tape.column("time_s"), tape.column("price_quote"), strict=True):
        assert price == [row["price_sol"] for row in held if row["block_time"] < time][-1]
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    assert tokens_from_frame(frame[shuffled], options=options)[0].sha256 == tape.sha256


@given(ROWS)
def test_no_row_knows_what_comes_after_it(rows: list[Any]) -> None:
    """Leaving out the last second's trades changes nothing before it."""
    frame = trades(*rows, seq=list(range(len(rows))))
    last = frame["block_time"].max()
    try:
        before, _ = tokens_from_frame(frame.filter(pl.col("block_time") < last))
    except TapeError:
        return
    whole, _ = tokens_from_frame(frame)
    np.testing.assert_array_equal(whole.rows[: len(before.rows)], before.rows)


RECORDED = [
    ("solana_pumpswap_first300s/swaps", "trades", 12, 12, 7_629, TokenOptions(quote_usd=70.0)),
    ("solana_pumpfun_hourly_bars/bars_1h", "bars", 191, 191, 18_079, TokenOptions(quote_usd=70.0)),
    ("solana_pumpfun_curve_tracks/tracks", "tracks", 180, 178, 20_419, TokenOptions(quote_usd=150.0)),
    ("cex_minute/btc_perp_1m_202201", "bars", 1, 1, 30_299, TokenOptions(reserve_quote=5e7)),
    ("cex_minute/sol_usd_1m_close", "bars", 1, 2, 86_342, TokenOptions(reserve_quote=5e7)),
]


@pytest.mark.parametrize(("name", "kind", "tokens", "kept", "rows", "options"), RECORDED, ids=[row[0] for row in RECORDED])
def test_recorded_tables(shared: Path, name: str, kind: str, tokens: int, kept: int, rows: int, options: TokenOptions) -> None:
    path = shared / "data" / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"shared/data/{name}.parquet is not there")
    tape, report = tokens_from_file(path, options=options)
    assert (report.kind, report.tokens_read, report.tokens_kept, report.rows_read) == (kind, tokens, kept, rows)
    assert (len(tape), len(tape.entries)) == (kept, kept)
    assert kind_of_columns(pl.read_parquet_schema(path).keys()) == kind


def test_recorded_outcomes(shared: Path) -> None:
    """The figures of the data's own description: 46 % end below a tenth of the SOL; last over highest 0.003, 0.057, 0.43."""
    path = shared / "data" / "solana_raydium_launch_outcomes" / "outcomes_1h.parquet"
    if not path.is_file():
        pytest.skip("shared/data/solana_raydium_launch_outcomes is not there")
    found = launch_outcomes(path)
    assert found["dropped"] == pytest.approx(0.005 * 22_727, rel=0.1)
    assert found["rugged"] == pytest.approx(0.46, abs=0.01)
    assert [found[f"last_over_max_q{q}"] for q in (25, 50, 75)] == pytest.approx([0.003, 0.057, 0.43], rel=0.1)
    with pytest.raises(TapeError, match="missing"):
        launch_outcomes(shared / "data" / "solana_pumpfun_hourly_bars" / "bars_1h.parquet")


def test_formats_that_are_recognised_elsewhere(tmp_path: Path) -> None:
    """Launch Tape's trades (with the pool's reserve) and Binance's candles, stamped by their end once they are read."""
    made = pl.DataFrame(
        {"t": [START, START + 2], "slot": [1, 2], "sig": ["a", "b"], "mint": "A", "side": ["buy", "sell"], "user": "u"}
    )
    made = made.with_columns(baseAmount=pl.lit(2e6), quoteAmount=pl.lit(1.0), price=pl.lit(5e-7), poolBase=pl.lit(2e8))
    made.with_columns(poolQuote=pl.Series([100.0, 90.0]), priceAfter=pl.lit(5e-7)).write_csv(tmp_path / "grads.csv")
    tape, report = tokens_from_file(tmp_path / "grads.csv", options=TokenOptions(quote_usd=10.0))
    assert (report.kind, tape.names) == ("trades", ("A",))
    assert tape.column("reserve_quote").tolist() == [1000.0, 1000.0, 900.0]
    names = "open_time open high low close volume close_time quote_volume count taker_buy_volume taker_buy_quote_volume".split()
    rows = [
        (60_000 * k + START * 1000, 1.0, 1.5, 0.5, 1.0, 4.0, 60_000 * (k + 1) + START * 1000 - 1, 4.0, 3, 2.0, 2.0)
        for k in range(3)
    ]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(tmp_path / "ETHUSDT-1m-2024-01.csv")
    tape, _ = tokens_from_file(tmp_path / "ETHUSDT-1m-2024-01.csv", options=TokenOptions(reserve_quote=1e6))
    assert tape.column("time_s").tolist() == [START + 60.0, START + 120.0, START + 180.0]
    assert tape.column("buy_quote").tolist() == [2.0, 2.0, 2.0]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "swaps.csv", tmp_path / "tokens.parquet"
    trades(*((s, "buy", 1.0, 1e-6 * 1.1**s) for s in range(20))).write_csv(table)
    command = ["tokens", str(out), "--from", str(table), "--quote-usd", "100", "--signal", "momentum:window_s=5,least_return=0.3"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "trades: 1 of 1 tokens" in said
    assert f"written: {out}" in said
    assert TokenTape.load(out).entries.tolist() == [5]
    for wrong, message in (
        ([*command[:-1], "moonshot"], "accepted are every_launch"),
        ([*command[:-1], "momentum:least_return=1000"], "no entries"),
        ([*command, "--step-seconds", "0"], "step_seconds"),
        ([*command, "--kind", "tracks"], "missing; accepted is one of timestamp, time for tracks"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
