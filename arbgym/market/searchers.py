"""Rival searchers at work on a block, and what the agent gets to see of them: shared by every environment that competes.

The auction's mathematics is in ``arbgym.market.auction``; here rivals look at one opportunity of the block, bid a share of what
it is worth to them, and take it. Kernels take the configuration record ``c`` and the state record ``s``.
"""

from __future__ import annotations

import math
from typing import Any

from arbgym.jit import inner, kernel
from arbgym.market.auction import MAX_RIVALS, logit_normal, poisson_count, race_key
from arbgym.market.block import RIVAL, RIVALS
from arbgym.market.gas import cycle_gas
from arbgym.market.lender import cheapest_lender
from arbgym.market.pools import best_routes, quote_cycle, size_route, swap_cycle
from arbgym.rng import normal2_from, uniform2, uniform4


@kernel
def see_bid(s: Any, share: float, rivals: float) -> None:
    """Update the history that the agent observes with the best rival bid share of this gap."""
    share = min(share, 2.0)
    s.bid_last = share
    s.bid_fast += 0.4 * (share - s.bid_fast)
    s.bid_spread += 0.1 * (abs(share - s.bid_slow) - s.bid_spread)
    s.bid_slow += 0.1 * (share - s.bid_slow)
    s.rivals_seen += 0.2 * (rivals - s.rivals_seen)
    s.bid_age = 0.0


@inner
def rival_bids(c: Any, s: Any, value: float, gas_cost: float, public_share: float) -> tuple[float, float, float, float, int]:
    """Best private and best public rival: (bid, ordering key) of each, and how many bid.

    Keys are bids with ordering noise, 0 for nobody. ``value`` is what the opportunity pays before gas, quote currency.
    """
    private_bid, private_key, public_bid, public_key = 0.0, 0.0, 0.0, 0.0
    bidding = 0
    if value * c.rival_optimism <= gas_cost:  # nobody's 8-sigma view of the gap pays for its gas
        return private_bid, private_key, public_bid, public_key, bidding
    count_u, _ = uniform2(s.seed, s.episode, s.block, RIVALS)
    always = min(int(c.rival_counts[s.regime]), 1)  # with a mean of one or more, somebody is always there
    count = always + poisson_count(c.rival_counts[s.regime] - always, count_u, MAX_RIVALS - always)
    for rival in range(count):
        u0, u1, race_u, channel_u = uniform4(s.seed, s.episode, s.block, RIVAL + rival)
        share_z, value_z = normal2_from(u0, u1)
        gain = value * math.exp(c.rival_value_sd * value_z) - gas_cost
        if gain <= 0.0:
            continue
        bidding += 1
        bid = gain * logit_normal(c.rival_shares[s.regime], c.rival_share_sd, share_z)
        key = race_key(bid, c.ordering_noise, race_u)
        if channel_u < public_share:
            if key > public_key:
                public_bid, public_key = bid, key
        elif key > private_key:
            private_bid, private_key = bid, key
    return private_bid, private_key, public_bid, public_key, bidding


@inner
def rival_takes_cycle(c: Any, s: Any, gas_price: float, seen: bool) -> bool:
    """A rival takes the best cycle that the pools offer now, if it pays for its gas; ``seen``: the routes are those of now."""
    if not seen:
        best_routes(c, c.pool_count, s)
    if s.route_profit[0] <= 0.0:
        return False
    buy, sell = s.route_buy[0], s.route_sell[0]
    if s.route_profit[0] <= cycle_gas(c, buy, sell, s.route_crossed[0], 0.0) * gas_price:
        return False
    swap_cycle(c, s, buy, sell, s.route_quote_in[0])
    return True


@inner
def best_cycle(c: Any, s: Any, gas_price: float) -> tuple[int, int, float, int, float]:
    """What hindsight would do with the pools as they are: (buy, sell, quote in, lender, profit after loan, gas and data fee).

    Over both routes found, with the lender that is cheapest at its size, sized for that lender's fee and limit.
    """
    best = (0, 0, 0.0, -1, 0.0)
    for rank in range(2):
        if s.route_profit[rank] <= best[4]:
            continue
        buy, sell, quote_in = s.route_buy[rank], s.route_sell[rank], s.route_quote_in[rank]
        lender = cheapest_lender(c, s, buy, quote_in, gas_price)
        if lender < 0:
            continue
        profit = s.route_profit[rank]
        crossed = s.route_crossed[rank]
        fee = c.loan_fee[lender]
        if fee > 0.0:
            _, quote_in, quote_out, crossed = size_route(c, s, buy, sell, fee)
            profit = quote_out - quote_in * (1.0 + fee)
        if quote_in > s.lender_available[lender]:
            quote_in = s.lender_available[lender]
            quote_out, _ = quote_cycle(c, s, buy, sell, quote_in)
            profit = quote_out - quote_in * (1.0 + fee)
        profit -= cycle_gas(c, buy, sell, crossed, c.loan_gas[lender]) * gas_price + c.data_fee_quote
        if profit > best[4]:
            best = (buy, sell, quote_in, lender, profit)
    return best
