"""The runner's numbers for Prometheus. ``METRICS`` is the one list; the exporter, the alerts and the dashboard are made from it.

What ages (the head, the reference price, the policy) is worked out when it is asked for, so that it goes on growing when the
runner hangs. Methods on the way of a block cost microseconds: their labels are bound once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from arbgym.live.logs import Redactor
from arbgym.live.snapshot import GATE_STATES, LimitRow, PoolRow, Totals
from arbgym.live.terms import ChainView, Clock, Outcome, Verdict

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["count", "share", "seconds", "quote", "eth", "gwei", "state", "blocks"]
# From 10 us, what a decision may cost, to 30 s, more than a block's time.
BUCKETS_S = (*(float(f"{digit}e{power}") for power in range(-5, 1) for digit in (1, 2, 5)), 10.0, 30.0)
STAGES = ("head_to_view", "decide", "gate", "simulate", "sign_and_send")
LABEL_VALUES = 64  # more values of a label than this become "other": a time series each is not free


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: ``panel`` is the dashboard panel that draws it, "row: title"."""

    name: str
    kind: Kind
    unit: Unit
    help: str
    panel: str
    labels: tuple[str, ...] = ()


METRICS: tuple[Metric, ...] = (
    # state
    Metric("arbgym_gate_state", "gauge", "state", "Risk gate: 0 ACTIVE, 1 REDUCING, 2 HALTED", "State: Risk gate"),
    Metric("arbgym_killed", "gauge", "state", "1 while the kill switch is thrown", "State: Kill switch"),
    Metric("arbgym_block_number", "gauge", "count", "Newest block that was taken in", "State: Block"),
    Metric("arbgym_policy_expires_seconds", "gauge", "seconds", "Until the policy expires", "State: Policy expires"),
    Metric(
        "arbgym_build_info",
        "gauge",
        "count",
        "1; what runs is in the labels",
        "State: What runs",
        ("version", "mode", "environment", "policy"),
    ),
    # profit
    Metric("arbgym_net_profit_quote", "gauge", "quote", "Profit less gas and tip", "Profit: Profit"),
    Metric("arbgym_profit_quote", "gauge", "quote", "Profit after pool and loan fees, before gas and tip", "Profit: Profit"),
    Metric("arbgym_equity_eth", "gauge", "eth", "Equity that the drawdown is measured on", "Profit: Equity and exposure"),
    Metric("arbgym_exposure_eth", "gauge", "eth", "Value at stake now", "Profit: Equity and exposure"),
    Metric("arbgym_win_rate", "gauge", "share", "Latest attempts that made more than gas and tip", "Profit: Rates"),
    Metric("arbgym_success_rate", "gauge", "share", "Latest sent transactions that were mined", "Profit: Rates"),
    Metric(
        "arbgym_gas_share_of_profit", "gauge", "share", "Gas and tip over profit, latest attempts", "Profit: Gas share of profit"
    ),
    Metric("arbgym_drawdown", "gauge", "share", "Equity below its highest", "Profit: Drawdown"),
    Metric("arbgym_gas_cost_eth", "gauge", "eth", "Gas paid, without tips", "Profit: Gas and tips"),
    Metric("arbgym_tip_eth", "gauge", "eth", "Tips paid", "Profit: Gas and tips"),
    # decisions
    Metric("arbgym_decisions_total", "counter", "count", "Decisions, by action", "Decisions: Decisions", ("action",)),
    Metric(
        "arbgym_orders_total",
        "counter",
        "count",
        "Orders judged: allowed, or the limit that refused",
        "Decisions: Orders",
        ("verdict",),
    ),
    Metric("arbgym_intents_total", "counter", "count", "Intents that ended, by how", "Decisions: Intents", ("state",)),
    Metric("arbgym_limit_used", "gauge", "share", "Share of each limit in use", "Decisions: Limits in use", ("limit",)),
    Metric("arbgym_consecutive_reverts", "gauge", "count", "Reverts since the last success", "Decisions: Reverts in a row"),
    Metric(
        "arbgym_observation_clipped_total",
        "counter",
        "count",
        "Observation fields outside the trained range",
        "Decisions: Clipped",
    ),
    Metric("arbgym_rivals_total", "counter", "count", "Rivals' cycles seen in blocks", "Decisions: Rivals"),
    # chain
    Metric("arbgym_head_age_seconds", "gauge", "seconds", "Since the newest block's timestamp", "Chain: Head age"),
    Metric("arbgym_reference_age_seconds", "gauge", "seconds", "Since the reference price was true", "Chain: Reference age"),
    Metric("arbgym_reference_price", "gauge", "quote", "Reference price, quote per base", "Chain: Prices"),
    Metric("arbgym_pool_price", "gauge", "quote", "Pool's marginal price, quote per base", "Chain: Prices", ("pool",)),
    Metric("arbgym_pool_liquidity", "gauge", "count", "Root of the (virtual) reserves' product", "Chain: Liquidity", ("pool",)),
    Metric("arbgym_base_fee_gwei", "gauge", "gwei", "Base fee of the newest block", "Chain: Base fee"),
    Metric("arbgym_balance_eth", "gauge", "eth", "Balance of the account that pays gas", "Chain: Balance"),
    Metric("arbgym_blocks_total", "counter", "count", "Blocks taken in", "Chain: Blocks"),
    Metric("arbgym_reorgs_total", "counter", "count", "Reorganisations", "Chain: Reorganisations"),
    Metric("arbgym_reorg_depth", "gauge", "blocks", "Depth of the latest reorganisation", "Chain: Reorganisations"),
    # sending
    Metric("arbgym_open_intents", "gauge", "count", "Intents that have not ended", "Sending: Open intents"),
    Metric("arbgym_next_nonce", "gauge", "count", "The journal's next nonce", "Sending: Next nonce"),
    Metric("arbgym_nonce_gap", "gauge", "count", "The journal's next nonce less the chain's", "Sending: Nonce gap"),
    Metric("arbgym_rpc_requests_total", "counter", "count", "Requests to the node, by method", "Sending: Requests", ("method",)),
    Metric(
        "arbgym_rpc_errors_total", "counter", "count", "Requests without a result, by kind", "Sending: Request errors", ("kind",)
    ),
    # speed
    Metric("arbgym_stage_seconds", "histogram", "seconds", "What a block's way takes, by stage", "Speed: Stages", ("stage",)),
    Metric("arbgym_journal_commit_seconds", "histogram", "seconds", "Making a row durable", "Speed: Journal commits"),
)
_MAKE = {"counter": Counter, "gauge": Gauge}


class _ByLabel:
    """A metric's children, bound once for each value of its only label."""

    def __init__(self, parent: Any, redactor: Redactor) -> None:
        self._parent, self._redactor = parent, redactor
        self._children: dict[str, Any] = {}

    def __call__(self, value: str) -> Any:
        child = self._children.get(value)
        return child if child is not None else self._bind(value)

    def _bind(self, value: str) -> Any:
        if len(self._children) >= LABEL_VALUES:
            return self._parent.labels("other")
        child = self._children[value] = self._parent.labels(self._redactor.text(value))
        return child


class Metrics:
    """The metrics of one runner, in a registry of its own. What is not known is NaN, on which no alert fires."""

    def __init__(self, clock: Clock, redactor: Redactor) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._redactor = redactor
        self._made: dict[str, Any] = {}
        for metric in METRICS:
            if metric.kind == "histogram":
                made: Any = Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=BUCKETS_S)
            else:
                made = _MAKE[metric.kind](metric.name, metric.help, metric.labels, registry=self.registry)
            self._made[metric.name.removeprefix("arbgym_")] = made
            if metric.kind == "gauge" and not metric.labels:
                made.set(math.nan)
        ProcessCollector(registry=self.registry)  # resident memory, open files, processor time
        self._decisions, self._orders, self._intents, self._limits, self._prices, self._liquidity, self._methods, self._kinds = (
            _ByLabel(self._made[name], redactor)
            for name in (
                "decisions_total",
                "orders_total",
                "intents_total",
                "limit_used",
                "pool_price",
                "pool_liquidity",
                "rpc_requests_total",
                "rpc_errors_total",
            )
        )
        self._stages = {stage: self._made["stage_seconds"].labels(stage) for stage in STAGES}
        self._commit = self._made["journal_commit_seconds"]
        self._clipped = self._made["observation_clipped_total"]
        self._head_time_s = self._reference_time_s = self._expires_at_s = math.nan
        self._ages("head_age_seconds", lambda: self._clock.now() - self._head_time_s)
        self._ages("reference_age_seconds", lambda: self._clock.now() - self._reference_time_s)
        self._ages("policy_expires_seconds", lambda: self._expires_at_s - self._clock.now())

    def _ages(self, name: str, age_s: Callable[[], float]) -> None:
        self._made[name].set_function(age_s)

    def started(self, *, version: str, mode: str, environment_id: str, policy_id: str, expires_at_s: float) -> None:
        """What runs."""
        labels = (self._redactor.text(text) for text in (version, mode, environment_id, policy_id))
        self._made["build_info"].labels(*labels).set(1)
        self._expires_at_s = expires_at_s

    # ------------------------------------------------------------------------------------------- on the way of a block
    def latency(self, stage: str, seconds: float) -> None:
        """What one of ``STAGES`` took. Raises KeyError for another."""
        self._stages[stage].observe(seconds)

    def decided(self, action: str, seconds: float, clipped: int = 0) -> None:
        """A decision; ``clipped`` observation fields lay outside the trained range."""
        self._decisions(action).inc()
        self._stages["decide"].observe(seconds)
        if clipped:
            self._clipped.inc(clipped)

    def judged(self, verdict: Verdict, seconds: float) -> None:
        """The gate's answer to an order."""
        self._orders("allowed" if verdict.allowed else verdict.limit).inc()
        self._stages["gate"].observe(seconds)

    def committed(self, seconds: float) -> None:
        """A row of the journal was made durable."""
        self._commit.observe(seconds)

    def rpc(self, method: str, error: str | None = None) -> None:
        """A request to the node; ``error`` is Unknown's kind, "refused", or None for a result."""
        self._methods(method).inc()
        if error is not None:
            self._kinds(error).inc()

    # ---------------------------------------------------------------------------------------------------- once a block
    def view(self, view: ChainView, pools: Sequence[PoolRow] = (), *, paying: bool = True) -> None:
        """A block was taken in; ``paying``: its balance is an account's."""
        self._head_time_s = float(view.head.timestamp)
        self._reference_time_s = math.nan if view.reference is None else view.reference.time_s
        self._set("block_number", view.head.number)
        self._set("base_fee_gwei", view.head.base_fee_wei / 1e9)
        self._set("balance_eth", view.balance_wei / 1e18 if paying else math.nan)
        self._set("reference_price", math.nan if view.reference is None else view.reference.price)
        self._made["blocks_total"].inc()
        self._made["rivals_total"].inc(len(view.rivals))
        if view.reorg_depth:
            self._made["reorgs_total"].inc()
            self._set("reorg_depth", view.reorg_depth)
        for pool in pools:
            self._prices(pool.name).set(pool.price)
            self._liquidity(pool.name).set(pool.liquidity)

    def gate(
        self, state: str, killed: bool, drawdown: float, exposure_eth: float, equity_eth: float, limits: Iterable[LimitRow] = ()
    ) -> None:
        """Where the risk gate stands. Raises ValueError for a state that is not one of GATE_STATES."""
        names: Sequence[str] = GATE_STATES
        self._set("gate_state", names.index(state))
        self._set("killed", float(killed))
        self._set("drawdown", drawdown)
        self._set("exposure_eth", exposure_eth)
        self._set("equity_eth", equity_eth)
        for limit in limits:
            self._limits(limit.name).set(limit.share_used)

    def sending(self, open_intents: int, next_nonce: int | None, chain_nonce: int | None) -> None:
        """Where the journal stands against the chain; None without an account."""
        self._set("open_intents", open_intents)
        self._set("next_nonce", math.nan if next_nonce is None else next_nonce)
        known = next_nonce is not None and chain_nonce is not None
        self._set("nonce_gap", next_nonce - chain_nonce if known else math.nan)  # type: ignore[operator]

    def settled(self, outcome: Outcome, totals: Totals) -> None:
        """An intent ended; ``totals`` include it."""
        if outcome.state is not outcome.corrects:
            self._intents(outcome.state.value).inc()
        self.totals(totals)

    def totals(self, totals: Totals) -> None:
        """Sums and rates, also as a journal from an earlier process gives them."""
        self._set("profit_quote", totals.profit_quote)
        self._set("net_profit_quote", totals.net_quote)
        self._set("gas_cost_eth", totals.gas_eth)
        self._set("tip_eth", totals.tip_eth)
        self._set("win_rate", totals.win_rate)
        self._set("success_rate", totals.success_rate)
        self._set("gas_share_of_profit", totals.gas_share)
        self._set("consecutive_reverts", totals.consecutive_reverts)

    def _set(self, name: str, value: float) -> None:
        self._made[name].set(value)

    # ------------------------------------------------------------------------------------------------------- shown
    def values(self) -> dict[str, float]:
        """Every counter and gauge by name, summed over its labels; metrics without a sample are missing."""
        values: dict[str, float] = {}
        for family in self.registry.collect():
            if family.type in ("counter", "gauge"):
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        values[sample.name] = values.get(sample.name, 0.0) + sample.value
        return values

    def export(self, port: int) -> Exporter:
        """Serve the metrics on the loopback interface in a thread; port 0 takes a free one. Raises OSError if it is taken."""
        server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        return Exporter(server.server_port, server, thread)


@dataclass(frozen=True, slots=True)
class Exporter:
    """A running exporter."""

    port: int
    _server: Any
    _thread: Any

    @property
    def url(self) -> str:
        """Where Prometheus reads."""
        return f"http://127.0.0.1:{self.port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
