"""What a running runner shows of itself, and what may be commanded from outside: the source of the page and of the terminal."""

from __future__ import annotations

import arbgym
from arbgym.live.alerts import AlertWatch
from arbgym.live.profiles import loosened
from arbgym.live.runner import Runner
from arbgym.live.snapshot import Mode, PolicyRow, Snapshot


class Control:
    """A ``StatusSource`` of one runner. ``journal`` tells the next nonce and what is open."""

    def __init__(self, runner: Runner, *, mode: Mode, policy: PolicyRow, symbols: tuple[str, str], chain_id: int) -> None:
        self._runner, self._mode, self._policy, self._symbols, self._chain_id = runner, mode, policy, symbols, chain_id
        self._alerts = AlertWatch()
        self._started_s = runner.parts.clock.now()

    def snapshot(self) -> Snapshot:
        """As of now."""
        runner, parts, view = self._runner, self._runner.parts, self._runner.view
        now, gate = parts.clock.now(), parts.gate
        reference = None if view is None else view.reference
        killed = parts.kill.engaged()
        return Snapshot(
            mode=self._mode,
            version=arbgym.__version__,
            time_s=now,
            started_s=self._started_s,
            gate_state=gate.state.value,
            killed=killed,
            kill_reason=parts.kill.reason() if killed else "",
            policy=self._policy,
            environment_id=parts.observer.follower.definition.id,
            chain_id=self._chain_id,
            base_symbol=self._symbols[0],
            quote_symbol=self._symbols[1],
            block_number=None if view is None else view.head.number,
            head_age_s=None if view is None else now - view.head.timestamp,
            head_age_limit_s=gate.limits.max_head_age_s,
            reference_price=None if reference is None else reference.price,
            reference_age_s=None if reference is None else now - reference.time_s,
            base_fee_gwei=None if view is None else view.head.base_fee_wei / 1e9,
            open_intent=next(iter(parts.open_intents()), None),
            next_nonce=parts.next_nonce(),
            drawdown=gate.drawdown,
            totals=parts.tally.totals(runner.decisions),
            curve=parts.tally.curve,
            limits=gate.status(),
            decisions=tuple(runner.rows),
            pools=tuple(runner.pools()),
            alerts=self._alerts.update(now, parts.metrics.values()),
            waiting_for_confirmation=() if gate.awaiting is None else loosened(gate.awaiting, gate.limits),
        )

    def kill(self, reason: str) -> None:
        """Engage the kill switch: nothing more is sent."""
        self._runner.parts.kill.engage(reason)

    def release(self, reason: str) -> None:
        """Release the kill switch."""
        self._runner.parts.kill.release()

    def resume(self, reason: str) -> None:
        """Let a gate that is HALTED or REDUCING be ACTIVE again."""
        self._runner.parts.gate.resume(reason)

    def confirm_limits(self) -> None:
        """Let loosened limits take effect."""
        self._runner.parts.gate.confirm()
