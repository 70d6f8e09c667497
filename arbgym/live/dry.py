"""The sender of a dry run: the same journal and the same gate, and no key."""

from __future__ import annotations

from collections.abc import Callable

from arbgym.live.journal import DuplicateIntent
from arbgym.live.sender import JournalSender
from arbgym.live.terms import ChainView, IntentState, Outcome, Plan, Verdict


class DrySender(JournalSender):
    """Journals what would have been sent; its outcome comes with the next view.

    Profit, gas and tip are the expected ones, the gas at the last view's base fee; a plan that expects no gas pays its limit.
    """

    async def start(self) -> list[Outcome]:
        """Outcomes that an earlier process did not hand on; what it was writing when it ended is refused."""
        self._end_never_signed()
        return self._hand_on()

    async def send(self, plan: Plan, still_allowed: Callable[[], Verdict]) -> IntentState:
        """Write the intent and ask ``still_allowed``. A plan that is in the journal keeps its state, which is returned."""
        try:
            self._journal.write(plan)
        except DuplicateIntent:
            return self._journal.intent(plan.key).state
        if not self._passes(plan, still_allowed):
            return IntentState.REFUSED
        gas = plan.gas_used or plan.gas_limit
        self._end(
            plan,
            IntentState.DRY,
            plan.block_number,
            "not sent",
            profit_raw=plan.expected_profit_raw,
            gas_cost_wei=gas * self._base_fee_wei,
            tip_wei=gas * plan.priority_fee_wei,
        )
        return IntentState.DRY

    async def settle(self, view: ChainView) -> list[Outcome]:
        """The outcomes of what was sent before this view."""
        self._acknowledge()
        self._end_never_signed()
        self._base_fee_wei = view.head.base_fee_wei
        return self._hand_on()
