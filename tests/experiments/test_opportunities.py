"""A run on ArbCross-v0 from the command line, and what its policy saw and did as rows of a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="the extra train is not installed")
pytest.importorskip("polars", reason="the extra data is not installed")

from arbgym.data import Store
from arbgym.market.tape import TapeError
from experiments.evaluate import evaluate_run, write_opportunities
from experiments.train import main
from tests.experiments.conftest import TINY, only_run


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cross")
    assert main(["ppo_cross", *TINY, "--out", str(out)]) == 0
    return only_run(out)


def test_a_cross_run_repeats_its_evaluation(cross: Path) -> None:
    result = json.loads((cross / "result.json").read_text())
    assert {"tuned_band", "tuned_rule", "history_rule", "oracle"} <= set(result["policies"])
    assert result["export"]["differing_actions"] == 0
    assert evaluate_run(cross)["policies"] == result["policies"]
    own = result["policies"]["ppo_cross"]
    assert own["net_profit"]["mean"] == pytest.approx(sum(own["parts"].values()), abs=1e-6)


def test_opportunities_go_into_the_store_once(cross: Path, tmp_path: Path) -> None:
    store = tmp_path / "market"
    assert ", 0 that it had already" in write_opportunities(cross, store, episodes=16)
    assert " 0 new opportunities" in write_opportunities(cross, store, episodes=16)
    table = Store(store).read("opportunities")
    assert len(table) > 50 and set(table["symbol"]) == {"WETH/USDC"} and set(table["chain"]) == {"ethereum"}
    assert table["timestamp"].is_monotonic_increasing or len(set(table["timestamp"])) > 20
    assert table["cex_price"].between(1_000.0, 4_000.0).all()
    gap = np.abs(table["dex_price"] / table["cex_price"] - 1.0) * 1e4
    single = table["hops"] == 1
    assert (table["edge_bps"][single] <= gap[single] + 1e-6).all() and (table["edge_bps"][single] > 0.0).mean() > 0.9
    traded = table[table["executed"].astype(bool)]
    assert (traded["trade_size_quote"] > 0.0).all()
    assert np.allclose(traded["profit_eth"] * traded["cex_price"], traded["profit_quote"])
    assert (table["profitable"].astype(bool) == (table["profit_quote"] > 0.0)).all()


def test_what_is_no_store_is_refused(cross: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(TapeError, match="file"):
        write_opportunities(cross, tmp_path / "file", episodes=4)
    assert (tmp_path / "file").read_text() == "kept"
