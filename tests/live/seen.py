"""A made-up runner for the tests of what is seen from outside."""

from __future__ import annotations

import math
from dataclasses import replace

from arbgym.live.snapshot import AlertRow, DecisionRow, LimitRow, PolicyRow, PoolRow, Snapshot, Totals
from arbgym.live.terms import LiveError

NOW_S = 1_790_000_000.0
SCRIPT = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"


class FixedClock:
    """A clock that moves when it is slept on."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def now(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def example(**changes: object) -> Snapshot:
    """A busy runner's snapshot."""
    decisions = tuple(
        DecisionRow(
            NOW_S - 12 * number,
            21_345_678 - number,
            SCRIPT if number == 3 else "wait" if number % 3 else f"flash {10 + number} WETH via uniswap-v2, uniswap-v3",
            0.62 + 0.007 * number,
            0.0 if number % 3 else 41_234.5 + 100 * number,
            0.0 if number % 3 else 87.25 - 31 * (number % 4),
            "" if number % 3 else ("allowed" if number % 2 == 0 else "minimum_profit_eth"),
            "" if number % 3 else {0: "mined", 6: "dropped", 18: "reverted"}.get(number, "" if number % 2 else "mined"),
        )
        for number in range(30)
    )
    curve = tuple((NOW_S - 60.0 * (200 - n), 9.4 * n + 260 * math.sin(n / 9) - 120 * (n % 37 == 5)) for n in range(200))
    snapshot = Snapshot(
        mode="live",
        version="0.9.1",
        time_s=NOW_S,
        started_s=NOW_S - 93_600,
        gate_state="ACTIVE",
        killed=False,
        kill_reason="",
        policy=PolicyRow("ppo-arbflash-7f31", "9f" * 32, 2_000_000, NOW_S + 30 * 86_400),
        environment_id="ArbFlash-v0",
        chain_id=1,
        base_symbol="WETH",
        quote_symbol="USDC",
        block_number=21_345_678,
        head_age_s=3.2,
        head_age_limit_s=36.0,
        reference_price=3_412.55,
        reference_age_s=0.4,
        base_fee_gwei=7.8312,
        open_intent="c0ffee11d2a4",
        next_nonce=418,
        drawdown=0.034,
        totals=Totals(7_431, 412, 318, 21, 73, 0, 2_911.42, 0.21034, 0.10442, 1_839.48, 0.713, 0.772, 0.287, 1),
        curve=curve,
        limits=(
            LimitRow("notional_eth", 12.1, "at most 50 ETH", 0.242),
            LimitRow("exposure_eth", 61.0, "at most 75 ETH", 0.813),
            LimitRow("gas_budget_eth_per_day", 0.21, "at most 0.5 ETH", 0.42),
            LimitRow("loss_eth_per_day", 0.0, "at most 1 ETH", 0.0),
            LimitRow("drawdown", 0.034, "at most 0.2", 0.17),
            LimitRow("consecutive_reverts", 1, "at most 5", 0.2),
            LimitRow("orders_per_minute", 6, "at most 6", 1.0),
        ),
        decisions=decisions,
        pools=(
            PoolRow("uniswap-v2 WETH/USDC", "v2", 3_000, 3_409.12, 812_345.0),
            PoolRow("uniswap-v3 WETH/USDC", "v3", 500, 3_414.9, 5_312_345.0),
            PoolRow("sushiswap WETH/USDC", "v2", 3_000, 3_398.4, 91_223.0),
        ),
        alerts=(AlertRow("ReferenceStale", "warning", "The reference price is older than 30 seconds", 41.5, NOW_S - 70),),
    )
    return replace(snapshot, **changes)  # type: ignore[arg-type]


class FakeRunner:
    """Obeys, and remembers what it was told."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.shown = snapshot or example()
        self.told: list[tuple[str, str]] = []
        self.refusal = ""

    def snapshot(self) -> Snapshot:
        return self.shown

    def kill(self, reason: str) -> None:
        self._told("kill", reason)
        self.shown = replace(self.shown, killed=True, kill_reason=reason)

    def release(self, reason: str) -> None:
        self._told("release", reason)
        self.shown = replace(self.shown, killed=False, kill_reason="")

    def resume(self, reason: str) -> None:
        self._told("resume", reason)

    def confirm_limits(self) -> None:
        self._told("confirm", "")

    def _told(self, name: str, reason: str) -> None:
        if self.refusal:
            raise LiveError(self.refusal)
        self.told.append((name, reason))
