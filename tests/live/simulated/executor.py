"""What the executor contract does with its calldata, on the simulated chain's exact pools."""

from __future__ import annotations

from arbgym.amm import PoolError
from arbgym.live.executor import FUNDINGS, Route, decode
from arbgym.market.lender import aave_premium_raw
from tests.live.simulated.chain import Draft, Transaction, transfer
from tests.live.simulated.encoding import word

NOT_PROFITABLE = "NotProfitable"
_AAVE = FUNDINGS["aave_v3"]


def trade(draft: Draft, route: Route, owner: str, executor: str) -> int:
    """Run a route and return its gain, raw; raises PoolError where the contract reverts."""
    if draft.block.number > route.last_block:
        raise PoolError("TooLate")
    places = {watched.address: index for index, watched in enumerate(draft.chain.watched)}
    amount = route.amount_in_raw
    for leg in route.legs:
        if leg.pool not in places:
            raise PoolError("")
        asked = amount
        spent, amount = draft.swap(places[leg.pool], leg.zero_for_one, asked, to=executor)
        if spent != asked:
            raise PoolError("")  # a pool without enough liquidity: not modelled, and nobody sizes for it
    fee = aave_premium_raw(route.amount_in_raw, 5) if FUNDINGS[route.funding] == _AAVE else 0
    gain = amount - route.amount_in_raw - fee
    if gain < route.minimum_profit_raw:
        raise PoolError(NOT_PROFITABLE)
    transfer(draft, route.quote, executor, owner, gain)
    return gain


class SimulatedExecutor:
    """The contract of ``owner`` at ``address``. ``execute`` is the chain's, ``call`` the node's."""

    def __init__(self, address: str, owner: str) -> None:
        self.address, self.owner = address, owner

    def execute(self, draft: Draft, transaction: Transaction) -> int:
        """The gain of a mined transaction; one of the account to itself (a cancellation) does nothing."""
        if transaction.to != self.address:
            return 0
        return trade(draft, _route(transaction.data), self.owner, self.address)

    def call(self, draft: Draft, sender: str, to: str, data: str) -> str | None:
        """``eth_call``: the gain as one word; None where there is no contract."""
        if to != self.address:
            return None
        return "0x" if data == "0x" else "0x" + word(trade(draft, _route(data), self.owner, self.address))


def _route(data: str) -> Route:
    try:
        return decode(data)
    except ValueError as error:
        raise PoolError("") from error
