"""Metrics, alerts and the dashboard come from one list, and say what happened."""

from __future__ import annotations

import json
import math
import re
import urllib.request

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from hypothesis import given
from hypothesis import strategies as st

from arbgym.amm import ConstantProductPool
from arbgym.live import dashboard
from arbgym.live.alerts import ALERTS, AlertWatch, duration, rules_yaml
from arbgym.live.logs import Redactor
from arbgym.live.metrics import LABEL_VALUES, METRICS, STAGES, Metrics
from arbgym.live.snapshot import CURVE_POINTS, LimitRow, PoolRow, Totals, as_json, pool_row
from arbgym.live.tally import ENOUGH, REMEMBERED, WINDOW, Tally
from arbgym.live.terms import (
    SETTLED,
    ChainView,
    Head,
    IntentState,
    Outcome,
    Reference,
    RivalTrade,
    Verdict,
    WatchedPool,
)
from tests.live.seen import NOW_S, FixedClock, example

BY_NAME = {metric.name: metric for metric in METRICS}
TARGET_LABELS = {"instance", "le"}  # what Prometheus itself adds
FUNCTIONS = {"sum", "by", "without", "rate", "increase", "histogram_quantile", "absent"}


def made() -> tuple[Metrics, FixedClock]:
    clock = FixedClock()
    return Metrics(clock, Redactor()), clock


def view(**changes: object) -> ChainView:
    given_values: dict[str, object] = {
        "head": Head(100, "0x" + "1" * 64, "0x" + "0" * 64, int(NOW_S) - 5, 7_500_000_000, 1, 30_000_000),
        "pools": (),
        "flow_base": (),
        "lenders_raw": (),
        "balance_wei": 2 * 10**18,
        "reference": Reference(3_000.0, NOW_S - 2.0, "tape"),
    }
    return ChainView(**{**given_values, **changes})  # type: ignore[arg-type]


def outcome(key: str, state: IntentState, profit_raw: int = 0, gas_wei: int = 0, tip_wei: int = 0, **changes: object) -> Outcome:
    return Outcome(key, state, 1, NOW_S, profit_raw, gas_wei, tip_wei, "private", **changes)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- the list
def test_every_metric_has_one_name_a_unit_and_a_panel() -> None:
    assert len(METRICS) >= 25
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"arbgym_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert re.fullmatch(r"[A-Z][a-z]+: [A-Z].+", metric.panel)
        assert len({other.unit for other in METRICS if other.panel == metric.panel} - {"blocks", "count"}) <= 1


def test_the_exporter_serves_every_metric_and_nothing_that_is_not_in_the_list() -> None:
    metrics, _ = made()
    with_samples(metrics)
    exporter = metrics.export(0)
    try:
        with urllib.request.urlopen(exporter.url, timeout=5) as answer:
            text = answer.read().decode()
    finally:
        exporter.close()
    exported = set(re.findall(r"^# TYPE (arbgym_\w+)", text, re.MULTILINE)) - set(
        re.findall(r"^# TYPE (\w+_created)", text, re.M)
    )
    assert exported == set(BY_NAME)
    for name in BY_NAME:
        assert re.search(rf"^{name}(_bucket)?({{.*}})? \S+$", text, re.MULTILINE), name
    with pytest.raises(OSError):
        urllib.request.urlopen(exporter.url, timeout=1)


def with_samples(metrics: Metrics) -> None:
    metrics.started(version="1", mode="dry-run", environment_id="ArbFlash-v0", policy_id="p", expires_at_s=NOW_S + 100)
    metrics.decided("wait", 2e-5)
    metrics.judged(Verdict(False, "notional_eth", 60.0, "at most 50"), 1e-5)
    metrics.settled(outcome("a", IntentState.MINED), Totals())
    metrics.rpc("eth_call", "timeout")
    metrics.view(view(), (PoolRow("pool", "v2", 3000, 1.0, 2.0),))
    metrics.gate("ACTIVE", False, 0.0, 0.0, 1.0, (LimitRow("notional_eth", 1.0, "at most 50", 0.02),))
    metrics.sending(0, 4, 4)


# ----------------------------------------------------------------------------------------------------------- what they say
def test_calls_change_what_they_name() -> None:
    metrics, _ = made()
    metrics.decided("wait", 3e-5, clipped=2)
    metrics.decided("flash", 3e-5)
    metrics.judged(Verdict(True), 1e-6)
    metrics.judged(Verdict(False, "head_age_s", 90.0, "at most 36"), 1e-6)
    metrics.settled(outcome("a", IntentState.MINED), Totals(profit_quote=7.0, net_quote=5.0, win_rate=0.5))
    metrics.rpc("eth_call")
    metrics.rpc("eth_call", "rate_limited")
    metrics.committed(0.004)
    metrics.gate("HALTED", True, 0.21, 3.0, 10.0, (LimitRow("gas", 1.0, "at most 4", 0.25),))
    metrics.sending(1, 7, 5)
    rival = RivalTrade("0x1", 1.0, 0.5)
    metrics.view(view(rivals=(rival, rival), reorg_depth=3), (PoolRow("a", "v2", 3000, 3_001.0, 9.0),))
    sample = metrics.registry.get_sample_value
    expected = {
        ("arbgym_decisions_total", ("action", "wait")): 1,
        ("arbgym_decisions_total", ("action", "flash")): 1,
        ("arbgym_orders_total", ("verdict", "allowed")): 1,
        ("arbgym_orders_total", ("verdict", "head_age_s")): 1,
        ("arbgym_intents_total", ("state", "mined")): 1,
        ("arbgym_rpc_requests_total", ("method", "eth_call")): 2,
        ("arbgym_rpc_errors_total", ("kind", "rate_limited")): 1,
        ("arbgym_limit_used", ("limit", "gas")): 0.25,
        ("arbgym_pool_price", ("pool", "a")): 3_001.0,
        ("arbgym_stage_seconds_count", ("stage", "decide")): 2,
        ("arbgym_stage_seconds_count", ("stage", "gate")): 2,
        ("arbgym_journal_commit_seconds_count", None): 1,
        ("arbgym_observation_clipped_total", None): 2,
        ("arbgym_profit_quote", None): 7.0,
        ("arbgym_net_profit_quote", None): 5.0,
        ("arbgym_win_rate", None): 0.5,
        ("arbgym_gate_state", None): 2,
        ("arbgym_killed", None): 1,
        ("arbgym_drawdown", None): 0.21,
        ("arbgym_equity_eth", None): 10.0,
        ("arbgym_nonce_gap", None): 2,
        ("arbgym_rivals_total", None): 2,
        ("arbgym_reorgs_total", None): 1,
        ("arbgym_reorg_depth", None): 3,
        ("arbgym_base_fee_gwei", None): 7.5,
        ("arbgym_balance_eth", None): 2.0,
    }
    found = {(name, label): sample(name, dict([label]) if label else {}) for name, label in expected}
    assert found == expected


def test_ages_grow_while_the_runner_says_nothing() -> None:
    metrics, clock = made()
    assert math.isnan(metrics.values()["arbgym_head_age_seconds"])
    metrics.started(version="1", mode="live", environment_id="e", policy_id="p", expires_at_s=NOW_S + 100)
    metrics.view(view())
    clock.now_s += 20
    values = metrics.values()
    assert values["arbgym_head_age_seconds"] == 25
    assert values["arbgym_reference_age_seconds"] == 22
    assert values["arbgym_policy_expires_seconds"] == 80
    metrics.view(view(reference=None))
    assert math.isnan(metrics.values()["arbgym_reference_age_seconds"])


def test_what_takes_10_microseconds_is_told_from_what_takes_50() -> None:
    metrics, _ = made()
    for stage in STAGES:
        metrics.latency(stage, 9e-6)
        metrics.latency(stage, 49e-6)
        buckets = {
            bound: metrics.registry.get_sample_value("arbgym_stage_seconds_bucket", {"stage": stage, "le": bound})
            for bound in ("1e-05", "2e-05", "5e-05")
        }
        assert list(buckets.values()) == [1, 1, 2]
    with pytest.raises(KeyError):
        metrics.latency("lunch", 1.0)


def test_a_label_cannot_make_endless_series() -> None:
    metrics, _ = made()
    for number in range(3 * LABEL_VALUES):
        metrics.decided(f"action {number}", 1e-5)
    decisions = next(family for family in metrics.registry.collect() if family.name == "arbgym_decisions")
    series = [sample for sample in decisions.samples if sample.name == "arbgym_decisions_total"]
    assert len(series) == LABEL_VALUES + 1
    assert sum(sample.value for sample in series) == 3 * LABEL_VALUES


def test_a_wrong_gate_state_is_refused() -> None:
    metrics, _ = made()
    with pytest.raises(ValueError):
        metrics.gate("SLEEPING", False, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="gate_state = 'SLEEPING'; accepted is one of ACTIVE, REDUCING, HALTED"):
        example(gate_state="SLEEPING")


# ------------------------------------------------------------------------------------------------------------- the tally
ends = st.lists(
    st.tuples(
        st.integers(0, 15),
        st.sampled_from(sorted(SETTLED)),
        st.integers(-(10**9), 10**9),
        st.integers(0, 10**17),
        st.integers(0, 10**17),
        st.booleans(),
    ),
    max_size=60,
)


@given(ends)
def test_totals_are_the_sums_of_what_was_not_taken_back(history: list[tuple[int, IntentState, int, int, int, bool]]) -> None:
    tally, standing = Tally(6), {}
    for key, state, profit, gas, tip, reopened in history:
        former = standing.pop(key, None)
        tally.settled(outcome(str(key), state, profit, gas, tip, corrects=former and former.state), 2_000.0)
        standing[key] = outcome(str(key), state, profit, gas, tip)
        if reopened:  # a reorganisation put it back among the open ones
            tally.settled(outcome(str(key), IntentState.SENT, corrects=state), 2_000.0)
            del standing[key]
    totals = tally.totals(decisions=7)
    left = list(standing.values())
    assert (totals.attempts, totals.decisions) == (len(left), 7)
    assert totals.mined + totals.reverted + totals.dropped + totals.dry == len(left)
    assert totals.mined == sum(end.state is IntentState.MINED for end in left)
    assert totals.profit_quote == sum(end.profit_raw for end in left) / 10**6
    assert totals.gas_eth == sum(end.gas_cost_wei for end in left) / 10**18
    net = sum(end.profit_raw / 1e6 - 2_000.0 * (end.gas_cost_wei + end.tip_wei) / 1e18 for end in left)
    assert totals.net_quote == pytest.approx(net, abs=1e-6)
    assert tally.curve[-1][1] == totals.net_quote if history else tally.curve == ()


def test_rates_wait_for_enough_attempts_and_look_back_on_a_window() -> None:
    tally = Tally(6)
    for number in range(ENOUGH - 1):
        tally.settled(outcome(f"lost {number}", IntentState.REVERTED, 0, 10**15), 2_000.0)
    assert math.isnan(tally.totals(0).win_rate)
    tally.settled(outcome("lost last", IntentState.REVERTED, 0, 10**15), 2_000.0)
    totals = tally.totals(0)
    assert (totals.win_rate, totals.success_rate, totals.gas_share) == (0.0, 0.0, math.inf)
    assert totals.consecutive_reverts == ENOUGH
    for number in range(WINDOW):  # 10 USDC of profit, 2 of gas
        tally.settled(outcome(f"won {number}", IntentState.MINED, 10_000_000, 10**15), 2_000.0)
    totals = tally.totals(0)
    assert (totals.win_rate, totals.success_rate, totals.consecutive_reverts) == (1.0, 1.0, 0)
    assert totals.gas_share == pytest.approx(0.2)


def test_mined_at_a_loss_is_a_success_and_no_win() -> None:
    tally = Tally(6)
    for number in range(ENOUGH):
        tally.settled(outcome(str(number), IntentState.MINED, 1_000_000, 10**15), 2_000.0)
    assert (tally.totals(0).win_rate, tally.totals(0).success_rate) == (0.0, 1.0)


def test_memory_of_a_tally_is_bounded_and_its_curve_ends_now() -> None:
    tally = Tally(0)
    for number in range(3 * REMEMBERED):
        tally.settled(outcome(str(number), IntentState.MINED, 1), 0.0)
        assert len(tally.curve) <= CURVE_POINTS
        assert tally.curve[-1][1] == number + 1
    assert tally.totals(0).mined == 3 * REMEMBERED
    values = [value for _, value in tally.curve]
    assert values == sorted(values)
    assert len(values) > CURVE_POINTS / 4


@pytest.mark.parametrize("price", [-1.0, math.nan, math.inf])
def test_a_price_that_is_none_is_refused(price: float) -> None:
    with pytest.raises(ValueError, match="quote_per_coin"):
        Tally(6).settled(outcome("a", IntentState.MINED), price)


def test_a_pool_s_price_is_quote_per_base_either_way_round() -> None:
    weth, usdc = "0x" + "1" * 40, "0x" + "2" * 40
    first = WatchedPool("a", "0x0", "v2", 3_000, weth, usdc, 18, 6, True)
    second = WatchedPool("b", "0x0", "v2", 3_000, usdc, weth, 6, 18, False)
    row = pool_row(first, ConstantProductPool(10 * 10**18, 30_000 * 10**6))
    turned = pool_row(second, ConstantProductPool(30_000 * 10**6, 10 * 10**18))
    assert row.price == pytest.approx(3_000.0)
    assert turned.price == pytest.approx(3_000.0)
    assert row.liquidity == pytest.approx(math.sqrt(300_000))
    assert turned.liquidity == pytest.approx(row.liquidity)


# ------------------------------------------------------------------------------------------------- alerts and dashboard
def used_metrics(expression: str) -> list[tuple[str, set[str]]]:
    """Metrics of a PromQL expression with the labels that it selects or groups by; anything else in it must be known."""
    grouped = {label.strip() for group in re.findall(r"(?:by|without) \(([^)]*)\)", expression) for label in group.split(",")}
    found = []
    for name, selected in re.findall(r"(arbgym_\w+)(?:\{([^}]*)\})?", expression):
        found.append((name, grouped | set(re.findall(r"(\w+)=~?\"", selected))))
    rest = re.sub(r"arbgym_\w+(\{[^}]*\})?|\[[^\]]*\]|\([a-z, ]*\)(?= \()", " ", expression)
    assert set(re.findall(r"[a-z_]{2,}", rest)) <= FUNCTIONS, expression
    return found


def check_expression(expression: str) -> set[str]:
    used = used_metrics(expression)
    assert used, expression
    names = set()
    for name, labels in used:
        base = name.removesuffix("_bucket") if name not in BY_NAME else name
        assert base in BY_NAME, expression
        assert labels <= set(BY_NAME[base].labels) | TARGET_LABELS, expression
        assert (BY_NAME[base].kind == "histogram") == (name != base), expression
        assert (BY_NAME[base].kind == "gauge") == (not re.search(r"\b(rate|increase)\(", expression)), expression
        names.add(base)
    assert expression.count("(") == expression.count(")")
    return names


def test_the_written_files_are_what_is_made() -> None:
    for name, content in dashboard.files().items():
        assert (dashboard.FOLDER / name).read_text(encoding="utf-8") == content, "run python -m arbgym.live.dashboard"


def test_the_command_writes_them(tmp_path: dashboard.Path, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alerts.yml", "grafana.json"]
    assert "grafana.json" in capsys.readouterr().out


def test_every_metric_is_drawn_and_every_query_asks_for_what_exists() -> None:
    panels = json.loads((dashboard.FOLDER / "grafana.json").read_text())["panels"]
    drawn = set()
    for panel in panels:
        for target in panel.get("targets", ()):
            drawn |= check_expression(target["expr"])
    assert drawn == set(BY_NAME)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_an_alert_s_threshold_is_drawn_in_its_panel() -> None:
    panels = [panel for panel in dashboard.dashboard()["panels"] if panel.get("targets")]
    for alert in ALERTS:
        if alert.operator == "absent" or alert.increase_s is not None:
            continue
        steps = [
            step["value"]
            for panel in panels
            if any(re.search(rf"\b{alert.metric}\b", target["expr"]) for target in panel["targets"])
            for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        ]
        assert alert.threshold in steps, alert.name


def test_alerts_ask_for_what_exists() -> None:
    assert len(ALERTS) >= 10
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert alert.metric in check_expression(alert.expression)


def test_the_rules_are_yaml_with_the_same_alerts() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is missing: the rules' syntax is not checked")
    (group,) = yaml.safe_load(rules_yaml())["groups"]
    assert [(rule["alert"], rule["expr"], rule["for"], rule["labels"]["severity"]) for rule in group["rules"]] == [
        (alert.name, alert.expression, duration(alert.for_s), alert.severity) for alert in ALERTS
    ]


HEALTHY = {
    "arbgym_build_info": 1.0,
    "arbgym_killed": 0.0,
    "arbgym_gate_state": 0.0,
    "arbgym_drawdown": 0.2,
    "arbgym_win_rate": 0.45,
    "arbgym_gas_share_of_profit": 0.3,
    "arbgym_success_rate": 0.7,
    "arbgym_consecutive_reverts": 2.0,
    "arbgym_head_age_seconds": 12.0,
    "arbgym_reference_age_seconds": 1.0,
    "arbgym_nonce_gap": 0.0,
    "arbgym_open_intents": 0.0,
    "arbgym_rpc_errors_total": 500.0,
    "arbgym_reorgs_total": 90.0,
    "arbgym_observation_clipped_total": 4_000.0,
    "arbgym_balance_eth": 1.0,
    "arbgym_policy_expires_seconds": 86_400.0,
}


def fired(series: list[tuple[float, dict[str, float]]]) -> set[str]:
    watch = AlertWatch()
    names: set[str] = set()
    for now_s, values in series:
        names = {row.name for row in watch.update(now_s, values)}
    return names


def test_nothing_fires_at_the_thresholds_themselves_or_on_what_is_not_known() -> None:
    assert {alert.metric for alert in ALERTS} == set(HEALTHY)
    assert fired([(second, HEALTHY) for second in range(0, 4_000, 50)]) == set()
    unknown = {**dict.fromkeys(HEALTHY, math.nan), "arbgym_build_info": 1.0}
    assert fired([(second, unknown) for second in range(0, 4_000, 50)]) == set()


@pytest.mark.parametrize(
    ("name", "metric", "value"),
    [
        ("Killed", "arbgym_killed", 1.0),
        ("Halted", "arbgym_gate_state", 2.0),
        ("Reducing", "arbgym_gate_state", 1.0),
        ("DrawdownHigh", "arbgym_drawdown", 0.201),
        ("WinRateLow", "arbgym_win_rate", 0.449),
        ("GasShareHigh", "arbgym_gas_share_of_profit", math.inf),
        ("SuccessRateLow", "arbgym_success_rate", 0.69),
        ("RevertsInARow", "arbgym_consecutive_reverts", 3.0),
        ("HeadStale", "arbgym_head_age_seconds", 61.0),
        ("ReferenceStale", "arbgym_reference_age_seconds", 31.0),
        ("NonceGap", "arbgym_nonce_gap", 2.0),
        ("NonceBehind", "arbgym_nonce_gap", -1.0),
        ("IntentStuck", "arbgym_open_intents", 1.0),
        ("GasRunsOut", "arbgym_balance_eth", 0.01),
        ("PolicyExpires", "arbgym_policy_expires_seconds", 80_000.0),
    ],
)
def test_each_fires_once_it_has_held_long_enough(name: str, metric: str, value: float) -> None:
    alert = next(alert for alert in ALERTS if alert.name == name)
    bad = {**HEALTHY, metric: value}
    held = [(float(second), bad) for second in range(0, alert.for_s + 1, max(1, alert.for_s // 7))] + [(float(alert.for_s), bad)]
    assert name in fired(held)
    if alert.for_s:
        assert name not in fired([point for point in held if point[0] < alert.for_s])
        assert name not in fired([*held[:-1], (alert.for_s - 0.5, HEALTHY), held[-1]])  # it recovered in between


def test_counters_fire_on_growth_within_the_window_only() -> None:
    def errors(per_step: float) -> list[tuple[float, dict[str, float]]]:
        return [(step * 10.0, {**HEALTHY, "arbgym_rpc_errors_total": 500 + step * per_step}) for step in range(100)]

    assert "RpcErrors" in fired(errors(1.0))  # 30 in five minutes
    assert "RpcErrors" not in fired(errors(0.5))  # 15
    burst = [(step * 10.0, {**HEALTHY, "arbgym_rpc_errors_total": 500.0 + 100 * (step >= 5)}) for step in range(100)]
    assert "RpcErrors" in fired(burst[:20])
    assert "RpcErrors" not in fired(burst)  # it lies too far back


def test_a_runner_that_reports_nothing_is_down() -> None:
    assert fired([(0.0, {}), (59.0, {})]) == set()
    assert fired([(0.0, {}), (60.0, {})]) == {"RunnerDown"}


def test_alerts_read_the_metrics_own_values_and_show_the_worst_first() -> None:
    metrics, clock = made()
    with_samples(metrics)
    watch = AlertWatch()
    assert [row.name for row in watch.update(clock.now(), metrics.values())] == ["PolicyExpires"]
    metrics.gate("HALTED", True, 0.5, 0.0, 0.0)
    rows = watch.update(clock.now(), metrics.values())
    assert {"Killed", "Halted", "DrawdownHigh", "PolicyExpires"} == {row.name for row in rows}
    assert [row.severity for row in rows] == ["critical"] * 3 + ["warning"]
    json.dumps(as_json(rows), allow_nan=False)
