"""What was seen of a token, kept in constant space: moving averages over several windows and the last steps one by one.

``see_step`` is called once after each step with the token's row in the state (``arbgym.market.token``), in simulation, replay and
live alike, and reads nothing but that row: features cannot look ahead. Windows are in steps: a moving average over w steps has
weight 2 / (w + 1), Wilder's averages (ATR and RSI, Wilder 1978) have weight 1 / w.
"""

from __future__ import annotations

import math
from typing import Any

from arbgym.jit import inner

LAGS = 16  # steps kept one by one for sequence models
PRICES = 64  # log prices kept, a power of two
SHORT, MIDDLE, LONG = 5, 20, 60
WILDER = 14

HISTORY_STATE: list[Any] = [
    ("seen", "i8"),  # rows so far
    ("log_prices", "f4", (PRICES,)),  # ring, at seen % PRICES the next one
    ("imbalances", "f4", (LAGS,)),
    ("log_price", "f8"),
    ("variance_short", "f8"),
    ("variance_middle", "f8"),
    ("variance_long", "f8"),
    ("atr", "f8"),  # average true range, ln
    ("gain", "f8"),
    ("loss", "f8"),
    ("mean_middle", "f8"),  # of the log price
    ("mean_long", "f8"),
    ("flow_short", "f8"),  # net flow, share of the reserve
    ("flow_middle", "f8"),
    ("flow_long", "f8"),
    ("volume_short", "f8"),  # gross flow, share of the reserve
    ("volume_middle", "f8"),
    ("volume_long", "f8"),
    ("congestion", "f8"),  # volume over SHORT steps over that over LONG steps
    ("large_short", "f8"),
    ("large_middle", "f8"),
    ("known_short", "f8"),
    ("known_middle", "f8"),
    ("log_depth", "f8"),  # ln of reserve / sqrt(price): constant unless liquidity is added or pulled
    ("depth_change", "f8"),  # of the last step
    ("depth_middle", "f8"),
]

_A_SHORT, _A_MIDDLE, _A_LONG, _A_WILDER = 2.0 / (SHORT + 1), 2.0 / (MIDDLE + 1), 2.0 / (LONG + 1), 1.0 / WILDER


@inner
def start_history(s: Any) -> None:
    """Nothing seen but the row that is in the state."""
    log_price = math.log(s.price)
    s.seen = 0
    for k in range(PRICES):
        s.log_prices[k] = log_price
    for k in range(LAGS):
        s.imbalances[k] = 0.0
    s.log_price = log_price
    s.variance_short = 0.0
    s.variance_middle = 0.0
    s.variance_long = 0.0
    s.atr = 0.0
    s.gain = 0.0
    s.loss = 0.0
    s.mean_middle = log_price
    s.mean_long = log_price
    s.flow_short = 0.0
    s.flow_middle = 0.0
    s.flow_long = 0.0
    s.volume_short = 0.0
    s.volume_middle = 0.0
    s.volume_long = 0.0
    s.congestion = 1.0
    s.large_short = 0.0
    s.large_middle = 0.0
    s.known_short = 0.0
    s.known_middle = 0.0
    s.log_depth = math.log(s.reserve) - 0.5 * log_price
    s.depth_change = 0.0
    s.depth_middle = s.log_depth


@inner
def see_volume(s: Any) -> None:
    """Take the volume of the row in the state into its averages, and from them the congestion."""
    gross = (s.bought + s.sold) / max(s.reserve, 1e-9)
    s.volume_short += _A_SHORT * (gross - s.volume_short)
    s.volume_long += _A_LONG * (gross - s.volume_long)
    s.congestion = min(max((s.volume_short + 1e-9) / (s.volume_long + 1e-9), 0.1), 10.0)


@inner
def see_step(s: Any, on_log_price: bool) -> None:
    """Take the row in the state into the averages; a price that may be negative (``on_log_price`` False) is used as it is."""
    before = s.log_price
    if on_log_price:
        log_price = math.log(s.price)
        high, low = math.log(s.high), math.log(s.low)
    else:
        log_price, high, low = s.price, s.high, s.low
    change = log_price - before
    s.log_price = log_price
    s.log_prices[s.seen % PRICES] = before
    square = change * change
    s.variance_short += _A_SHORT * (square - s.variance_short)
    s.variance_middle += _A_MIDDLE * (square - s.variance_middle)
    s.variance_long += _A_LONG * (square - s.variance_long)
    s.atr += _A_WILDER * (max(high, before) - min(low, before) - s.atr)
    s.gain += _A_WILDER * (max(change, 0.0) - s.gain)
    s.loss += _A_WILDER * (max(-change, 0.0) - s.loss)
    s.mean_middle += _A_MIDDLE * (log_price - s.mean_middle)
    s.mean_long += _A_LONG * (log_price - s.mean_long)
    volume = s.bought + s.sold
    per_reserve = 1.0 / max(s.reserve, 1e-9)
    net, gross = (s.bought - s.sold) * per_reserve, volume * per_reserve
    s.imbalances[s.seen % LAGS] = (s.bought - s.sold) / volume if volume > 0.0 else 0.0
    s.flow_short += _A_SHORT * (net - s.flow_short)
    s.flow_middle += _A_MIDDLE * (net - s.flow_middle)
    s.flow_long += _A_LONG * (net - s.flow_long)
    s.volume_middle += _A_MIDDLE * (gross - s.volume_middle)
    see_volume(s)
    large, known = s.large_net * per_reserve, s.known_net * per_reserve
    s.large_short += _A_SHORT * (large - s.large_short)
    s.large_middle += _A_MIDDLE * (large - s.large_middle)
    s.known_short += _A_SHORT * (known - s.known_short)
    s.known_middle += _A_MIDDLE * (known - s.known_middle)
    if on_log_price:
        depth = math.log(max(s.reserve, 1e-9)) - 0.5 * log_price
        s.depth_change = depth - s.log_depth
        s.log_depth = depth
        s.depth_middle += _A_MIDDLE * (depth - s.depth_middle)
    s.seen += 1
