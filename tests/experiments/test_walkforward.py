"""Walk-forward: nothing of a test span reaches training, a failure is reported, and a report says what its data cannot."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from arbgym.data.signals import load_signal
from arbgym.envs.sell import BUCKETS
from arbgym.evaluation import HELD_OUT_SEED, TUNING_SEED
from arbgym.market.token_tape import COLUMNS, ON_CURVE, TIME_S, TokenTape
from experiments import folds, trade_comparison, trade_report
from experiments.fold_policies import Fitted, FoldWorld, rules
from experiments.folds import Fold, time_folds
from experiments.trade_metrics import EXITS, Trades
from experiments.walkforward import Settings, main, run
from tests.experiments.test_trade_metrics import trades

STEP_S = 10.0
RULES = ("wait", "rule", "tuned_rule")


def make_tape(seed: int, tokens: int = 24, most_rows: int = 80, spread_s: float = 4_000.0) -> TokenTape:
    """Tokens launched over ``spread_s`` seconds, in no order, whose prices walk at random."""
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(tokens):
        count = int(random.integers(5, most_rows))
        price = 1e-3 * np.exp(np.cumsum(random.normal(0.0, 0.05, count)))
        rows = np.zeros((count, len(COLUMNS)))
        age = STEP_S * np.arange(count)
        rows[:, 0] = 1_700_000_000.0 + np.floor(random.uniform(0.0, spread_s)) + age
        rows[:, 1] = age
        rows[:, 2], rows[:, 3], rows[:, 4] = price, price * 1.01, price * 0.99
        rows[:, 5], rows[:, 6] = random.uniform(0.0, 2_000.0, (2, count))
        rows[:, 7] = 30_000.0 * np.sqrt(price / price[0])
        parts.append(rows)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return TokenTape(np.concatenate(parts), starts, tuple(f"token{k}" for k in range(tokens)), STEP_S)


# --------------------------------------------------------------------------------------------------------------- spans
@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.0, 50.0, 400.0, 3_000.0]), st.booleans())
def test_nothing_of_a_test_span_reaches_training(
    seed: int, count: int, train_groups: int, embargo_s: float, expanding: bool
) -> None:
    tape = make_tape(seed)
    tape = tape.with_entries(load_signal("momentum:window_s=20,least_return=0.01,cooldown_s=50")(tape))
    times = tape.rows[tape.entries, TIME_S]
    for fold in time_folds(times, count, embargo_s, train_groups=train_groups, expanding=expanding):
        try:
            training = folds.training_tape(tape, fold)
        except ValueError:  # no entry is left: the fold fails, and is reported
            continue
        entered = training.rows[training.entries, TIME_S]
        assert fold.train_start_s <= entered.min()
        # the whole horizon of the last training entry is over when the first test entry is bought
        assert entered.max() + embargo_s < fold.test_start_s or embargo_s == 0.0
        assert training.rows[:, TIME_S].max() < fold.test_start_s
        # whatever the test span and all that follows says, training is the same to the last bit
        other = tape.rows.copy()
        later = other[:, TIME_S] >= fold.test_start_s
        other[later, 2:8] *= np.random.default_rng(seed).uniform(1.1, 9.0)
        other[later, ON_CURVE] = 0.0
        changed = TokenTape(other, tape.starts, tape.names, tape.step_s, tape.entries)
        assert folds.training_tape(changed, fold).sha256 == training.sha256


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=80),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 100),
    st.booleans(),
)
def test_spans_follow_each_other(times: list[int], count: int, train_groups: int, embargo_s: int, expanding: bool) -> None:
    entered = np.array(times, dtype=np.float64)
    found = time_folds(entered, count, embargo_s, train_groups=train_groups, expanding=expanding)
    assert [fold.number for fold in found] == list(range(count))
    tested = np.zeros(len(entered), dtype=np.int64)
    for fold in found:
        assert fold.train_start_s <= fold.train_end_s <= fold.test_start_s <= fold.test_end_s
        assert fold.embargo_s >= embargo_s or fold.train_end_s == fold.train_start_s
        tested += (entered >= fold.test_start_s) & (entered < fold.test_end_s)
        if expanding:
            assert fold.train_start_s == entered.min()
    # every entry after the first training span is judged exactly once
    assert tested.tolist() == (entered >= found[0].test_start_s).astype(int).tolist()


def test_spans_by_hand() -> None:
    found = time_folds(np.arange(12.0), 2, 2.0, train_groups=2)  # four groups of three
    assert found[0] == Fold(0, 0.0, 4.0, 6.0, 9.0)
    assert found[1].train_start_s == 3.0 and found[1].train_end_s == 7.0 and found[1].test_start_s == 9.0
    assert found[1].test_end_s > 11.0
    assert time_folds(np.arange(12.0), 2, 2.0, train_groups=2, expanding=True)[1].train_start_s == 0.0
    for wrong in ({"count": 0}, {"train_groups": 0}, {"embargo_s": -1.0}, {"embargo_s": float("nan")}, {"times_s": np.empty(0)}):
        with pytest.raises(ValueError, match="accepted"):
            time_folds(**{"times_s": np.arange(9.0), "count": 2, "embargo_s": 1.0} | wrong)


def test_rows_before_a_moment_keep_entries_that_have_a_row_to_sell_in() -> None:
    tape = make_tape(3)
    end = float(np.median(tape.rows[:, TIME_S]))
    earlier = folds.before(tape, end)
    assert len(earlier) < len(tape)
    assert set(earlier.names) < set(tape.names)
    kept = {tuple(row) for row in earlier.rows}
    assert kept <= {tuple(row) for row in tape.rows[tape.rows[:, TIME_S] < end]}
    bought = tape.rows[tape.entries]
    assert {tuple(row) for row in earlier.rows[earlier.entries]} <= {tuple(row) for row in bought}
    with pytest.raises(ValueError, match="no entries"):
        folds.before(tape, 0.0)


def test_the_embargo_is_the_longest_horizon_among_the_entries() -> None:
    tape = make_tape(1)
    assert folds.longest_horizon_s(tape, BUCKETS) == 7_200.0
    rows = tape.rows.copy()
    rows[tape.entries[3], COLUMNS.index("reserve_quote")] = 600_000.0  # 1.2 million locked: established
    assert folds.longest_horizon_s(TokenTape(rows, tape.starts, tape.names, STEP_S, tape.entries), BUCKETS) == 43_200.0


# -------------------------------------------------------------------------------------------------------------- report
def result_of(made: dict[str, Trades], subjects: list[str]) -> dict[str, Any]:
    """A result as a walk-forward run writes it, read back from JSON."""
    found = trade_comparison.compare(made, subjects, RULES, {0: "new"}, draws=200)
    fit = {"status": "ok", "reason": None, "seconds": 0.5}
    failed = {"status": "failed", "reason": "ran [out]", "seconds": 0.1}
    span = {"train": "yesterday", "train_entries": 50, "test": "today", "test_entries": 40}
    found["folds"] = [
        {"fold": 0, **span, "status": "ok", "reason": None, "policies": {**dict.fromkeys(made, fit), "dqn_sell": failed}},
        {"fold": 1, **span, "status": "failed", "reason": "TapeError: <no> entries", "policies": {}},
    ]
    found["run"] = {"title": "Walk-forward", "facts": "made up", "command": "python", "code": "none", "settings": {}}
    return json.loads(json.dumps(found, allow_nan=False))  # type: ignore[no-any-return]


def some_trades(count: int, gain: float) -> dict[str, Trades]:
    """A policy that earns ``gain`` more than the rules do, on the same entries."""
    base = np.random.default_rng(5).normal(0.0, 0.3, count)
    noise = np.random.default_rng(6).normal(0.0, 0.1, (3, count))
    made = {"gbm_sell": trades(base + gain + noise[0]), "wait": trades(base - 1.0), "rule": trades(base + noise[1])}
    return made | {"tuned_rule": trades(base + noise[2]), "oracle": trades(np.abs(base) + 0.5)}


class _Page(HTMLParser):
    """What a page asks other places for, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href") and value]
        self.asked += [tag] if tag in ("script", "link", "img", "iframe") else []

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_needs_nothing_else_and_shows_every_failure() -> None:
    page = _Page()
    page.feed(trade_report.page(result_of(some_trades(80, 0.3), ["gbm_sell"])))
    assert page.asked == []
    for word in ("Sharpe", "Sortino", "VaR", "CVaR", "profit factor", "max drawdown", "% of oracle", "win rate", "median return"):
        assert word in page.words
    assert "TapeError: <no> entries" in page.words and "ran [out]" in page.words
    for title in (
        "Equity curve",
        "Drawdown",
        "Why positions were sold",
        "Distribution of returns",
        "By liquidity bucket",
        "By fold",
    ):
        assert title in page.words


def test_the_terminal_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(some_trades(80, 0.3), ["gbm_sell"])
    trade_report.print_report(result, Console())
    said = capsys.readouterr().out
    assert "TapeError: <no> entries" in said and "ran [out]" in said
    for sentence in result["verdict"]:
        assert sentence in said


def test_a_page_without_any_trade() -> None:
    empty = trades([]).take(np.empty(0, dtype=np.int64))
    result = result_of({"gbm_sell": empty, "wait": empty, "oracle": empty}, ["gbm_sell"])
    assert "gbm_sell has no trades" in result["verdict"][0]
    assert "no trades" in trade_report.page(result)


@pytest.mark.parametrize(
    "count, gain, said",
    [
        (200, 0.3, "gbm_sell earns more than"),
        (200, -0.3, "gbm_sell earns less than"),
        (40, 0.0, "The data is too small to tell gbm_sell from"),
        (12, 0.3, "fewer than 30 trades (gbm_sell 12)"),
    ],
)
def test_the_verdict_says_what_the_data_cannot(count: int, gain: float, said: str) -> None:
    sentences = " ".join(result_of(some_trades(count, gain), ["gbm_sell"])["verdict"])
    assert said in sentences
    assert ("too small" in sentences) == (abs(gain) < 0.1 or count < 30)


def test_a_policy_that_does_as_the_best_rule_does() -> None:
    made = some_trades(60, 0.0)
    made["gbm_sell"] = made["rule"] = made["tuned_rule"]
    sentences = result_of(made, ["gbm_sell"])["verdict"]
    assert "the return of gbm_sell is the same" in sentences[-1]


def test_without_a_judged_policy_the_rules_are_told_apart() -> None:
    made = some_trades(60, 0.0)
    del made["gbm_sell"]
    sentences = " ".join(result_of(made, [])["verdict"])
    assert "wait earns less than" in sentences and "Undecided" in sentences


# ---------------------------------------------------------------------------------------------------------------- walk
FOLDS = 3


@pytest.fixture(scope="module")
def tape_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tape of two days in a file."""
    pytest.importorskip("pyarrow", reason="the extra data is not installed")
    path = tmp_path_factory.mktemp("tapes") / "tokens.parquet"
    make_tape(0, tokens=90, spread_s=2 * 86_400.0).save(path)
    return path


def hold(observations: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.zeros((len(observations), 1))


def failing(world: FoldWorld, console: Console) -> Fitted:
    """A fit that fails in the second fold only."""
    if world.number == 1:
        raise ZeroDivisionError("the loss is [nan]")
    return Fitted(hold)


def broken(world: FoldWorld, console: Console) -> Fitted:
    """A policy that fails when it plays."""
    return Fitted(lambda observations: np.zeros((1, 7, 7)))


def walked(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def walk_of_a_tape(tape_path: Path) -> tuple[Path, list[FoldWorld]]:
    """The folder of a walk with two policies that fail, and the worlds that its folds were fitted in."""
    seen: list[FoldWorld] = []

    def spying(world: FoldWorld, console: Console) -> Fitted:
        seen.append(world)
        scores = {"drawdown": (np.array([0.2, 0.7]), np.array([0.0, 1.0]))}
        return Fitted(hold, {"chosen": float("inf")}, lambda _: scores)

    settings = Settings(data=tape_path, signal="every_launch:after_s=20", policies=(), folds=FOLDS, out=tape_path.parent / "out")
    extra = {"spying": spying, "failing": failing, "broken": broken}
    return run(settings, Console(file=io.StringIO()), extra), seen


def test_training_ends_before_the_test_begins(walk_of_a_tape: tuple[Path, list[FoldWorld]]) -> None:
    _, worlds = walk_of_a_tape
    assert [world.number for world in worlds] == list(range(FOLDS))
    for world in worlds:
        training, test = world.training, world.test.arguments["tape"]
        assert training is not None
        first = test.rows[test.entries, TIME_S].min()
        assert training.rows[:, TIME_S].max() < first
        assert training.rows[training.entries, TIME_S].max() + 7_200.0 < first
        assert world.tuning().arguments["tape"].rows is training.rows


def test_a_failure_is_reported_and_the_others_go_on(walk_of_a_tape: tuple[Path, list[FoldWorld]]) -> None:
    folder, _ = walk_of_a_tape
    result = walked(folder)
    second = result["folds"][1]["policies"]
    assert second["failing"]["status"] == "failed" and second["failing"]["reason"] == "ZeroDivisionError: the loss is [nan]"
    assert all(fold["policies"]["broken"]["status"] == "failed" for fold in result["folds"])
    assert all(fold["policies"]["tuned_rule"]["status"] == "ok" for fold in result["folds"])
    judged = {name: own["trades"] for name, own in result["policies"].items()}
    total = sum(fold["test_entries"] for fold in result["folds"])
    assert judged["spying"] == judged["oracle"] == judged["rule"] == total > judged["failing"] > 0
    assert judged["broken"] == 0
    assert set(result["policies"]["failing"]["folds"]) == {"0", "2"}
    assert result["paired"]["failing"]["rule"]["trades"] == judged["failing"]
    assert "the loss is [nan]" in (folder / "report.html").read_text()
    assert "broken has no trades" in result["verdict"][0]


def test_policies_meet_the_same_entries(walk_of_a_tape: tuple[Path, list[FoldWorld]]) -> None:
    folder, _ = walk_of_a_tape
    result = walked(folder)
    assert result["paired"]["spying"]["wait"]["mean"] == 0.0  # both hold to the end
    assert result["policies"]["oracle"]["figures"]["oracle_share"]["mean"] == pytest.approx(1.0)
    assert result["policies"]["wait"]["figures"]["exit_model"]["mean"] == 0.0
    assert result["policies"]["rule"]["figures"]["exit_model"]["mean"] == 0.0  # each of its sales has a reason
    assert result["policies"]["sell_now"]["figures"]["exit_model"]["mean"] > 0.9
    assert result["calibration"]["spying"]["drawdown"]["rows"] == 2 * FOLDS
    assert result["folds"][0]["policies"]["spying"]["details"] == {"chosen": None}
    with (folder / "trades.csv").open() as lines:
        trades = list(csv.DictReader(lines))
    assert len(trades) == sum(own["trades"] for own in result["policies"].values())
    for row in trades:
        assert sum(float(row[f"exit_{reason}"]) for reason in EXITS) == pytest.approx(1.0)
    held = [float(row["returns"]) for row in trades if row["policy"] == "wait"]
    assert np.mean(held) == pytest.approx(result["policies"]["wait"]["figures"]["mean_return"]["mean"])


def test_a_fold_without_enough_to_fit_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra data is not installed")
    path = tmp_path / "tokens.parquet"
    make_tape(0, tokens=30, spread_s=3_600.0).save(path)  # the embargo alone is two hours
    folder = run(Settings(data=path, policies=(), folds=2, out=tmp_path), Console(file=io.StringIO()))
    result = walked(folder)
    assert [fold["status"] for fold in result["folds"]] == ["failed", "failed"]
    assert "0 training entries are left by the embargo of 2 h" in result["folds"][0]["reason"]
    assert "2 of 2 folds failed" in result["verdict"][-1]
    assert "the embargo of 2 h" in (folder / "report.html").read_text()


def test_simulated_folds_are_bands_of_seeds(tmp_path: Path) -> None:
    seen: list[FoldWorld] = []

    def stopping(world: FoldWorld, console: Console) -> Fitted:
        seen.append(world)
        if world.number == 1:
            raise KeyboardInterrupt
        return Fitted(hold)

    quick = {name: fit for name, fit in rules().items() if name in ("oracle", "wait")}
    settings = Settings(simulated=31, policies=(), folds=3, out=tmp_path)
    folder = run(settings, Console(file=io.StringIO()), {"stopping": stopping}, quick)
    result = walked(folder)
    bands = [range(world.test.seed, world.test.seed + world.test.episodes) for world in seen]
    assert len(bands) == 2 and bands[0].start == HELD_OUT_SEED and bands[0].stop == bands[1].start
    for world in seen:
        tuning = world.tuning()
        assert tuning.seed >= TUNING_SEED and tuning.seed + tuning.episodes <= HELD_OUT_SEED
    assert sum(fold["test_entries"] for fold in result["folds"]) == 31
    # after Ctrl-C the rest is told, and what was judged before is reported
    last = result["folds"][2]["policies"]
    assert all(fit["status"] == "failed" and "stopped by a signal" in fit["reason"] for fit in last.values())
    assert result["policies"]["stopping"]["trades"] == len(bands[0])


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--simulated 3 --folds 2", "simulated = 3"),
        ("--simulated 100 --preset old", "preset = 'old'"),
        ("--simulated 100 --policies ppo_flash", "policies: 'ppo_flash'"),
        ("--data missing.parquet --policies", "missing.parquet"),
        ("--data {tape} --policies --preset put", "preset = 'put' has textbook prices"),
        ("--data {tape} --policies --signal nothing", "signal 'nothing'"),
        ("--data {tape} --policies --signal momentum:least_return=1e9", "no entry in"),
        ("--data {tape} --policies --folds 0", "folds = 0"),
    ],
)
def test_bad_settings_are_refused_by_name(
    flags: str, said: str, tape_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags.format(tape=tape_path).split(), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
