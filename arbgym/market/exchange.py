"""A centralised exchange that is large beside the agent: a mid price, a spread, a taker fee and a finite top of book.

A market order of ``base`` tokens at mid price p costs, beside the mid value n = |base| p,

    n * (taker fee + spread / 2)   +   impact * (n - D)^2 / (2 D)   where n exceeds the top of book D,

that is, the marginal price slips linearly by ``impact_bps`` for each further D. The book refills by the next block. In rough
weather books are thin: with volatility above its typical level by a factor, spread grows and depth shrinks by that factor
(Binance ETH captures of 2024: half-spreads of 0.01 to 0.03 bps, 1 s moves of 0.2 bps on a calm day and 1.2 on a wild one).
Kernels take the configuration record ``c`` and the state record ``s``.
"""

from __future__ import annotations

from typing import Any

from arbgym.jit import inner


@inner
def stress(c: Any, s: Any) -> float:
    """Recent volatility over its typical level (``c.typical_volatility`` per block, 0 for none), at least 1."""
    return max(s.volatility / c.typical_volatility, 1.0) if c.typical_volatility > 0.0 else 1.0


@inner
def cost_rate(c: Any, s: Any) -> float:
    """Taker fee and half the spread, as a share of the notional, within the top of book."""
    return float((c.taker_fee_bps + 0.5 * c.spread_bps * stress(c, s)) * 1e-4)


@inner
def depth_quote(c: Any, s: Any) -> float:
    """The top of book now, quote currency on each side."""
    return float(c.depth_quote / stress(c, s))


@inner
def order_cost(c: Any, s: Any, notional: float) -> float:
    """What a market order of this mid value costs in fee, half spread and impact, quote currency."""
    depth = depth_quote(c, s)
    cost = notional * cost_rate(c, s)
    if notional > depth:
        cost += c.impact_bps * 1e-4 * (notional - depth) ** 2 / (2.0 * depth)
    return float(cost)


@inner
def fill(c: Any, s: Any, base: float, price: float) -> tuple[float, float]:
    """Trade ``base`` tokens (+ buys, - sells) at mid ``price`` from the exchange balances: (base filled, cost in quote).

    An order larger than its balance pays for is cut to the balance. Balances are changed here.
    """
    if base < 0.0:
        base = max(base, -s.exchange_base)
    cost = order_cost(c, s, abs(base) * price)
    if base > 0.0 and base * price + cost > s.exchange_quote:
        base *= max(s.exchange_quote, 0.0) / (base * price + cost)  # cost per token falls with the size, so this is affordable
        cost = order_cost(c, s, base * price)
    s.exchange_base += base
    s.exchange_quote -= base * price + cost
    return base, cost
