"""Features and splits look back only: whatever happens later changes nothing before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.data import OpportunityWriter, Store, features, splits
from arbgym.data.features import as_of, flow_imbalance, gap_bps, gas_percentile, returns_bps, volatility
from arbgym.market.tape import TapeError

MODERATE = settings(max_examples=25)


def tables(seed: int, rows: int = 120) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A pool's rows and an exchange's, at irregular times that sometimes coincide."""
    generator = np.random.default_rng(seed)
    start = pd.Timestamp("2025-01-01", tz="UTC")
    made = []
    for scale in (20, 7):
        seconds = np.cumsum(generator.integers(0, scale, rows))
        price = 3_000.0 * np.exp(np.cumsum(generator.normal(0.0, 1e-3, rows)))
        frame = pd.DataFrame({"timestamp": start + pd.to_timedelta(seconds, unit="s"), "price": price})
        frame["pool"] = generator.choice(["a", "b"], rows)
        made.append(frame.assign(amount0=generator.normal(size=rows), base_fee_gwei=generator.uniform(1, 9, rows)))
    return made[0], made[1]


def everything(pool: pd.DataFrame, exchange: pd.DataFrame) -> pd.DataFrame:
    frame = gap_bps(pool, exchange, max_age_s=60.0)
    frame = volatility(frame, 120.0, by=["pool"])
    frame = gas_percentile(frame, 300.0)
    return flow_imbalance(frame, 200.0)


@MODERATE
@given(seed=st.integers(0, 10_000), share=st.floats(0.1, 0.9))
def test_a_changed_future_changes_no_feature_before_it(seed: int, share: float) -> None:
    pool, exchange = tables(seed)
    before = everything(pool, exchange)
    cut = pool["timestamp"].iloc[int(share * len(pool))]
    changed = []
    generator = np.random.default_rng(seed + 1)
    for table in (pool, exchange):
        later = table["timestamp"] > cut
        copy = table.copy()
        for column in ("price", "base_fee_gwei"):
            copy.loc[later, column] *= np.exp(generator.normal(0.0, 1.0, int(later.sum())))
        copy.loc[later, "amount0"] *= -3.0
        changed.append(copy[~(later & (generator.random(len(copy)) < 0.3))])  # and some of it never happens
    after = everything(*changed)
    known = before["timestamp"] <= cut
    pd.testing.assert_frame_equal(before[known], after[after["timestamp"] <= cut])
    if (before["timestamp"] > cut).sum() > 5:
        assert not before[~known].reset_index(drop=True).equals(after[after["timestamp"] > cut].reset_index(drop=True))


def test_a_join_takes_what_was_known_last_and_says_how_old_it_is() -> None:
    times = pd.to_datetime(["2025-01-01 00:00", "2025-01-01 00:05", "2025-01-01 00:20"], utc=True)
    left = pd.DataFrame({"timestamp": times, "price": [1.0, 2.0, 3.0]})
    right = pd.DataFrame({"timestamp": times[[1]] - pd.Timedelta("1min"), "rate": [0.5]})
    joined = as_of(left, right, ["rate"], max_age_s=600.0, suffix="_lent")
    assert joined["rate_lent"].isna().tolist() == [True, False, True] and joined["age_s_lent"].tolist()[1] == 60.0
    with pytest.raises(TapeError, match="missing"):
        as_of(left, right, ["nothing"])
    with pytest.raises(TapeError, match="suffix"):
        as_of(left, right.rename(columns={"rate": "price"}), ["price"])


def test_features_against_their_definitions() -> None:
    pool, exchange = tables(3)
    frame = everything(pool, exchange)
    row, now = 30, frame["timestamp"][30]
    seen = frame[: row + 1]
    known = exchange[exchange["timestamp"] <= now].iloc[-1]
    assert frame["gap_bps"][row] == pytest.approx(1e4 * np.log(frame["price"][row] / known["price"]))
    own = seen[(seen["pool"] == seen["pool"][row]) & (seen["timestamp"] > now - pd.Timedelta("120s"))]
    assert frame["volatility_bps"][row] == pytest.approx(own["return_bps"].std(), nan_ok=True)
    hour = seen[seen["timestamp"] > now - pd.Timedelta("300s")]["base_fee_gwei"]
    assert frame["gas_percentile"][row] == pytest.approx((hour <= frame["base_fee_gwei"][row]).mean())
    flow = seen[(seen["pool"] == seen["pool"][row]) & (seen["timestamp"] > now - pd.Timedelta("200s"))]["amount0"]
    assert frame["flow_imbalance"][row] == pytest.approx(flow.sum() / flow.abs().sum())
    assert returns_bps(pool)["return_bps"].isna().sum() == 1
    with pytest.raises(TapeError, match="window_s"):
        features.rolling(pool, "price", 0.0, "mean", "x")
    with pytest.raises(TapeError, match="how"):
        features.rolling(pool, "price", 1.0, "median of medians", "x")


@MODERATE
@given(seed=st.integers(0, 1_000), share=st.floats(0.2, 0.8), embargo=st.floats(0.0, 200.0))
def test_splits_leave_the_embargo_between_them(seed: int, share: float, embargo: float) -> None:
    pool, _ = tables(seed)
    earlier, later = splits.by_time(pool, share, embargo_s=embargo)
    assert (later["timestamp"].iloc[0] - earlier["timestamp"].iloc[-1]).total_seconds() >= embargo
    seen: set[pd.Timestamp] = set()
    for split in splits.walk_forward(pool, train_s=300.0, test_s=120.0, embargo_s=embargo):
        assert (split.later["timestamp"].iloc[0] - split.earlier["timestamp"].iloc[-1]).total_seconds() >= embargo
        assert not seen & set(split.later["timestamp"])
        seen |= set(split.later["timestamp"])
    assert seen


def test_splits_that_cannot_be_are_refused() -> None:
    pool, _ = tables(0)
    for cut in (0.0, 1.5, "2030-01-01"):
        with pytest.raises(TapeError, match="cut"):
            splits.by_time(pool, cut)
    with pytest.raises(TapeError, match="embargo_s"):
        splits.by_time(pool, 0.5, embargo_s=-1.0)
    with pytest.raises(TapeError, match="train_s"):
        next(splits.walk_forward(pool, train_s=0.0, test_s=1.0))
    whole = list(splits.walk_forward(pool, train_s=300.0, test_s=120.0, expanding=True))
    assert all(split.earlier["timestamp"].iloc[0] == pool["timestamp"].min() for split in whole)


def test_opportunities_go_into_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    columns = {
        "timestamp": np.array([1_700_000_000, 1_700_000_012]), "symbol": "WETH/USDC", "chain": "ethereum",
        "cex_price": np.array([2_000.0, 2_001.0]), "dex_price": np.array([2_004.0, 2_003.0]), "edge_bps": np.array([15.0, 5.0]),
        "hops": np.array([2, 2]), "executed": np.array([True, False]), "profitable": np.array([True, False]),
        "profit_eth": np.array([0.01, 0.0]),
    }  # fmt: skip
    with OpportunityWriter(store, source="ppo_cross seed 0", buffer_rows=3) as writer:
        writer.append(columns)
        assert store.rows("opportunities") == 0
        writer.append(columns)
        assert store.rows("opportunities") == 4  # the buffer was full
        with pytest.raises(TapeError, match="missing"):
            writer.append({"timestamp": [1_700_000_000]})
        writer.append(columns)
    rows = store.read("opportunities")
    assert sorted(rows["sequence"]) == list(range(6))
    assert set(rows["source"]) == {"ppo_cross seed 0"} and rows["profit_eth"].sum() == pytest.approx(0.03)
    with OpportunityWriter(store, source="ppo_cross seed 0") as again:
        again.append({**columns, "sequence": np.array([0, 1])})
        again.append(columns)
    assert (again.written.duplicates, again.written.new) == (2, 2)
    assert sorted(store.read("opportunities")["sequence"]) == list(range(8))
