"""Sizing a two-pool cycle over liquidity ranges: the monotone piecewise walk.

Buy base in pool A with quote, sell it in pool B, repay the loan. With kept fractions ``keep`` = 1 - fee and a loan fee
phi on the borrowed quote, profit(b) over the base flow b is concave and continuously differentiable, and its optimum is
where the end prices meet:  s_B' = kappa * s_A',  kappa = sqrt((1 + phi) / (keep_A * keep_B)).  Within one pair of ranges that is
linear in 1/s:

    b = (s_B - kappa * s_A) * L_A * L_B / (s_A * s_B * (keep_B * kappa * L_A + L_B))

and if b leaves a range, the walk takes what the nearer range end allows and goes on from there. V2-V2, V2-V3 and V3-V3
are the same walk, since a V2 pool is one infinite range (see ``arbgym.amm.ranges``). For V2-V2 it is the closed form of composed
Moebius maps (``arbgym.amm.cycle``), in other symbols.
"""

from __future__ import annotations

import math

from arbgym.amm.ranges import Floats
from arbgym.jit import kernel


@kernel
def cycle_edge(price_buy: float, keep_buy: float, price_sell: float, keep_sell: float) -> float:
    """Relative price difference net of pool fees of buying at one sqrt price and selling at another (1e-4 = 1 bp)."""
    ratio = price_sell / price_buy
    return ratio * ratio * keep_buy * keep_sell - 1.0


@kernel
def size_cycle(
    edge_a: Floats,
    depth_a: Floats,
    count_a: int,
    scale_a: float,
    price_a: float,
    index_a: int,
    keep_a: float,
    edge_b: Floats,
    depth_b: Floats,
    count_b: int,
    scale_b: float,
    price_b: float,
    index_b: int,
    keep_b: float,
    loan_fee: float,
) -> tuple[float, float, float, int]:
    """Best cycle: (base flow, quote in with pool fee, quote out, range ends crossed); zeros where no trade pays.

    Net of the loan its profit is quote_out - (1 + loan_fee) * quote_in, before gas.
    """
    kappa = math.sqrt((1.0 + loan_fee) / (keep_a * keep_b))
    base_flow = 0.0
    quote_in = 0.0
    quote_out = 0.0
    crossed = 0
    for _ in range(count_a + count_b + 2):
        liquidity_a = scale_a * depth_a[index_a]
        liquidity_b = scale_b * depth_b[index_b]
        end_a = edge_a[index_a + 1]
        end_b = edge_b[index_b]
        if liquidity_a <= 0.0:
            if index_a + 1 == count_a:
                break
            price_a = end_a
            index_a += 1
            continue
        if liquidity_b <= 0.0:
            if index_b == 0:
                break
            price_b = end_b
            index_b -= 1
            continue
        gap = price_b - kappa * price_a
        if gap <= 0.0:
            break
        flow = gap * liquidity_a * liquidity_b / (price_a * price_b * (keep_b * kappa * liquidity_a + liquidity_b))
        limit_a = liquidity_a / price_a * (1.0 - price_a / end_a)
        limit_b = liquidity_b * (price_b - end_b) / (price_b * end_b * keep_b)
        step = min(flow, min(limit_a, limit_b))
        ends_a = step == limit_a
        ends_b = step == limit_b
        new_a = end_a if ends_a else price_a / (1.0 - step * price_a / liquidity_a)
        new_b = end_b if ends_b else price_b / (1.0 + keep_b * step * price_b / liquidity_b)
        base_flow += step
        quote_in += step * price_a * new_a / keep_a
        quote_out += keep_b * step * price_b * new_b
        price_a = new_a
        price_b = new_b
        if not (ends_a or ends_b):
            break
        if ends_a:
            if index_a + 1 == count_a:
                break
            index_a += 1
            crossed += 1
        if ends_b:
            if index_b == 0:
                break
            index_b -= 1
            crossed += 1
    return base_flow, quote_in, quote_out, crossed
