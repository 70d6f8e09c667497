"""The life of one token beside its pool: hidden phases, buy and sell flow, liquidity, known traders, rugs; or its recorded rows.

A step's market is one row: close, high and low of the price, volumes bought and sold, the pool's quote reserve, net flow of
large holders and of known traders. Simulation and replay write the same fields of ``TOKEN_STATE``; a reader cannot tell which.

Simulated life. A token is in one hidden phase (launch, hype, decay, dead, second wind, rugged). Each step, in this order:

1. a change of phase is drawn and takes effect ``lead_steps`` later on average; known traders trade for the coming phase already;
2. the log of activity follows an AR(1) process (volatility clusters), as does the crowd's mood (flow is persistent);
3. the crowd buys ``g (1 + i) / 2`` and sells ``g (1 - i) / 2`` of the quote reserve: g from phase, bucket and activity, less once
   the pool has outgrown its first reserve; i from phase, mood and noise. Buys come first or last with equal probability, which
   gives the step its high and low;
4. a large holder may sell; liquidity may be added or pulled (the price stays, the depth changes); a rug pulls almost all of it.

On a bonding curve the reserve is the curve's virtual quote and liquidity is constant, until the curve is sold out and moves on.

Calibration. Recorded Solana launches (PumpSwap's first minutes, pump.fun's hourly bars, Raydium's first hour, 2024 and 2026):
highest price over the first, median 2.4 within minutes and 2.5 within hours (p75 5.5); last over highest price after an hour p25
0.003, median 0.06, p75 0.43; 46 % end below a tenth of their highest reserve. Preset new, from the entry on: 1.39 (p75 2.2, p95
6.2); 0.04, 0.14, 0.33; 34 % rugged: bought at random, some steps after the launch and not at the first price.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.jit import inner, part
from arbgym.market.block import constants
from arbgym.rng import normal2_from, uniform4

Floats = NDArray[np.float64]

PHASES = ("launch", "hype", "decay", "dead", "second_wind", "rugged")
LAUNCH, HYPE, DECAY, DEAD, SECOND_WIND, RUGGED = range(len(PHASES))
LIVING = len(PHASES) - 1

# Streams of the random numbers within one step.
(EVENT_DRAWS, SIZE_DRAWS, FLOW_DRAWS, MOOD_DRAWS, START_DRAWS, ENTRY_DRAWS, SALE_DRAWS, PATH_DRAWS) = constants(range(64, 72))

# Columns of a recorded row, as in arbgym.market.token_tape.
TIME, AGE, CLOSE, HIGH, LOW, BOUGHT, SOLD, RESERVE, LARGE, KNOWN, ON_CURVE = range(11)

TOKEN_STATE: list[Any] = [
    ("seed", "i8"),
    ("episode", "i8"),
    ("block", "i8"),  # steps since the position was bought; negative while it warms up
    ("tape_row", "i8"),
    ("phase", "i8"),
    ("coming_phase", "i8"),  # drawn, not yet in effect; the phase itself when none is
    ("first_reserve", "f8"),  # when the market was first seen
    ("activity", "f8"),  # log of the flow's multiplier
    ("mood", "f8"),  # persistent part of the crowd's imbalance
    ("age_s", "f8"),
    ("price", "f8"),  # close, quote per base
    ("high", "f8"),
    ("low", "f8"),
    ("bought", "f8"),  # of the last step, quote
    ("sold", "f8"),
    ("reserve", "f8"),  # quote reserve of the pool, or virtual quote of the curve
    ("large_net", "f8"),  # signed flow of large trades in the last step, quote
    ("known_net", "f8"),
    ("on_curve", "f8"),
]


@inner
def start_token(c: Any, s: Any, tvl: float, phase: int) -> None:
    """A token at its pool's opening (or at the curve's first buys), before its first step."""
    s.phase = phase
    s.coming_phase = phase
    s.activity = 0.0
    s.mood = 0.0
    s.age_s = 0.0
    s.on_curve = 1.0 if c.curve else 0.0
    s.reserve = 0.5 * tvl
    s.first_reserve = s.reserve
    s.price = 1.0
    if c.curve:
        s.price = (s.reserve / c.curve_start_quote) ** 2
    s.high = s.price
    s.low = s.price
    s.bought = 0.0
    s.sold = 0.0
    s.large_net = 0.0
    s.known_net = 0.0


@inner
def next_token(c: Any, s: Any, bucket: int, step_s: float) -> None:
    """Draw the token's next row; ``s.block`` is the step that it ends."""
    change_u, effect_u, large_u, liquidity_u = uniform4(s.seed, s.episode, s.block, EVENT_DRAWS)
    large_size_u, liquidity_size_u, order_u, rug_u = uniform4(s.seed, s.episode, s.block, SIZE_DRAWS)
    a, b, d, e = uniform4(s.seed, s.episode, s.block, FLOW_DRAWS)
    activity_z, volume_z = normal2_from(a, b)
    imbalance_z, known_z = normal2_from(d, e)
    mood_z = 1.7320508075688772 * (2.0 * liquidity_size_u - 1.0)  # uniform of unit variance: saves a normal
    _live_on(c, s, bucket, change_u, effect_u, rug_u)
    s.age_s += step_s
    s.activity = c.activity_memory * s.activity + c.activity_shock * activity_z
    s.mood = c.mood_memory * s.mood + c.mood_shock * mood_z
    level = math.exp(s.activity)
    # money comes in amounts, not in shares: a pool that has grown above its first reserve moves less
    attention = min(s.first_reserve / s.reserve, 1.0)
    flow = c.bucket_flow[bucket] * c.phase_flow[s.phase] * level * attention * math.exp(c.volume_log_sd * volume_z)
    imbalance = c.phase_imbalance[s.phase] + s.mood + c.imbalance_sd * imbalance_z
    imbalance = min(max(imbalance, -0.98), 0.98)
    known = c.known_share * flow * (c.phase_imbalance[s.coming_phase] * c.known_skill + c.known_sd * known_z)
    buy = 0.5 * flow * (1.0 + imbalance) + max(known, 0.0)
    sell = 0.5 * flow * (1.0 - imbalance) + max(-known, 0.0)
    large = 0.0
    if large_u < c.large_probability * c.phase_flow[s.phase]:
        large = c.large_low * (c.large_high / c.large_low) ** large_size_u
    before, reserve = s.price, s.reserve
    s.bought = buy * reserve
    s.large_net = -large * reserve
    s.known_net = known * reserve
    # reserves move by what is paid in and out; price = reserve^2 / k with k constant within the trades
    middle = reserve * (1.0 + buy) if order_u < 0.5 else reserve * math.exp(-sell)
    after = reserve * (1.0 + buy) * math.exp(-sell - large)
    s.sold = reserve * (1.0 + buy) * (1.0 - math.exp(-sell - large))
    if s.on_curve > 0.5:
        middle = max(middle, c.curve_start_quote)
        after = max(after, c.curve_start_quote)
    s.reserve = after
    s.price = before * (after / reserve) ** 2
    turn = before * (middle / reserve) ** 2
    s.high = max(max(before, s.price), turn)
    s.low = min(min(before, s.price), turn)
    if s.on_curve > 0.5:
        if after >= c.curve_end_quote:  # sold out: what was raised, less the fee of migration, is the new pool's quote side
            s.on_curve = 0.0
            s.reserve = (after - c.curve_start_quote) * (1.0 - c.migration_fee_share)
    else:
        _move_liquidity(c, s, bucket, liquidity_u, liquidity_size_u)


@part
def _live_on(c: Any, s: Any, bucket: int, change_u: float, effect_u: float, rug_u: float) -> None:
    """Phases: a drawn change waits for its turn; a rug may come at any time, more often in some phases."""
    if s.phase == RUGGED:
        return
    if s.coming_phase != s.phase:
        if effect_u * c.lead_steps < 1.0:
            s.phase = s.coming_phase
        return
    if s.on_curve < 0.5 and rug_u < c.phase_rug[s.phase] * c.bucket_rug[bucket]:
        s.coming_phase = RUGGED
        return
    left = change_u
    for phase in range(LIVING):
        rate = c.phase_rates[s.phase, phase]
        if left < rate:
            s.coming_phase = phase
            return
        left -= rate


@part
def _move_liquidity(c: Any, s: Any, bucket: int, liquidity_u: float, size_u: float) -> None:
    """Providers add or pull; before a rug its maker takes some out, and the rug takes almost all."""
    if s.phase == RUGGED:
        s.reserve = max(s.reserve * c.rug_left_share, 1e-9)
        return
    pull = c.pull_probability
    if s.coming_phase == RUGGED:
        pull = c.rug_warning_probability
    if liquidity_u < pull:
        s.reserve *= 1.0 - c.pull_share * size_u
    elif liquidity_u > 1.0 - c.add_probability:
        s.reserve *= 1.0 + c.add_share * size_u


@inner
def replay_token(tape: Floats, s: Any) -> None:
    """Take the row ``s.tape_row`` of the tape."""
    row = s.tape_row
    s.age_s = tape[row, AGE]
    s.price = tape[row, CLOSE]
    s.high = tape[row, HIGH]
    s.low = tape[row, LOW]
    s.bought = tape[row, BOUGHT]
    s.sold = tape[row, SOLD]
    s.reserve = max(tape[row, RESERVE], 1e-9)
    s.large_net = tape[row, LARGE]
    s.known_net = tape[row, KNOWN]
    s.on_curve = tape[row, ON_CURVE]
