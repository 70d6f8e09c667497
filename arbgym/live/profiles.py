"""Risk limits: what each means, which way of changing it is looser, and three profiles.

Confidence, Kelly fraction, leverage, flash borrow and least profit of the profiles are the adapter's specification. The other
figures are choices: a day's loss and gas are what two to ten typical reverts on Ethereum cost (115,000 gas at 15 gwei and a
tip: about 0.03 ETH at a tip of a sixth of a 0.2 ETH gain), three to eight reverts in a row are past what a policy with a 70 %
success rate shows once in a thousand (0.3^5 = 0.002), and five orders a minute are one per block of 12 s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

ProfileName = Literal["conservative", "balanced", "aggressive"]
SHARES = ("max_drawdown", "min_confidence", "kelly_fraction")
COUNTS = ("max_consecutive_reverts", "max_orders_per_minute")

_LEAST_AGE_S = 2.0  # block times are told in whole seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """What the risk gate allows. Raises ValueError naming the field, the value and what is accepted."""

    max_notional_eth: float  # of one order
    max_exposure_eth: float  # open inventory with this order; flash loans are none, they end in their transaction
    max_leverage: float  # open inventory with this order over equity
    max_flash_borrow_eth: float  # of one order
    gas_budget_eth_per_day: float  # UTC days; gas without the tips of what succeeded
    max_daily_loss_eth: float  # UTC days; net of gas and tips
    max_drawdown: float  # of the highest equity
    max_consecutive_reverts: int
    max_orders_per_minute: int
    max_head_age_s: float
    max_reference_age_s: float
    max_clock_skew_s: float  # a head or price ahead of our clock; a jump of our clock
    min_confidence: float
    kelly_fraction: float  # of the Kelly stake: see ``arbgym.live.risk``
    min_profit_eth: float  # expected, net of gas and tip

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if name in COUNTS:
                if not (number and isinstance(value, int) and 1 <= value <= 1_000_000):
                    raise ValueError(f"{name} = {value!r}; accepted is a whole number from 1 to 1000000")
            elif name in SHARES:
                if not (number and 0.0 <= value <= 1.0):
                    raise ValueError(f"{name} = {value!r}; accepted is 0 to 1")
            elif not (number and 0.0 <= value <= 1e9):
                raise ValueError(f"{name} = {value!r}; accepted is 0 to 1e9")


NAMES = tuple(field.name for field in fields(Limits))


def looser(name: str, new: float, old: float) -> bool:
    """Whether ``new`` allows what ``old`` does not: more, but for the least confidence and the least profit, where it is less."""
    return new < old if name.startswith("min_") else new > old


def tighter(one: Limits, other: Limits) -> Limits:
    """The stricter of both, field by field."""
    loose = {name: getattr(other, name) for name in NAMES if looser(name, getattr(one, name), getattr(other, name))}
    return replace(one, **loose)


def loosened(new: Limits, old: Limits) -> tuple[str, ...]:
    """Names of the fields in which ``new`` is looser than ``old``."""
    return tuple(name for name in NAMES if looser(name, getattr(new, name), getattr(old, name)))


_BALANCED = Limits(
    max_notional_eth=100.0,
    max_exposure_eth=5.0,
    max_leverage=3.0,
    max_flash_borrow_eth=100.0,
    gas_budget_eth_per_day=0.25,
    max_daily_loss_eth=0.25,
    max_drawdown=0.20,
    max_consecutive_reverts=5,
    max_orders_per_minute=5,
    max_head_age_s=24.0,
    max_reference_age_s=24.0,
    max_clock_skew_s=1.0,
    min_confidence=0.70,
    kelly_fraction=0.25,
    min_profit_eth=0.15,
)
PROFILES: Mapping[ProfileName, Limits] = {
    "conservative": replace(
        _BALANCED,
        max_notional_eth=50.0,
        max_exposure_eth=2.0,
        max_leverage=2.0,
        max_flash_borrow_eth=50.0,
        gas_budget_eth_per_day=0.10,
        max_daily_loss_eth=0.10,
        max_consecutive_reverts=3,
        min_confidence=0.75,
        kelly_fraction=0.15,
        min_profit_eth=0.20,
    ),
    "balanced": _BALANCED,
    "aggressive": replace(
        _BALANCED,
        max_notional_eth=200.0,
        max_exposure_eth=10.0,
        max_leverage=5.0,
        max_flash_borrow_eth=200.0,
        gas_budget_eth_per_day=0.50,
        max_daily_loss_eth=0.50,
        max_consecutive_reverts=8,
        max_orders_per_minute=10,
        min_confidence=0.60,
        kelly_fraction=0.35,
        min_profit_eth=0.10,
    ),
}


def profile_limits(profile: str, block_time_s: float = 12.0, **changes: float | None) -> Limits:
    """A profile's limits on a chain: ages are two block times unless given. ``None`` keeps the profile's figure.

    Raises ValueError naming the field, the value and what is accepted.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile = {profile!r}; accepted are {', '.join(PROFILES)}")
    unknown = [name for name in changes if name not in NAMES]
    if unknown:
        raise ValueError(f"{unknown[0]} = {changes[unknown[0]]!r}; accepted names are {', '.join(NAMES)}")
    ages = dict.fromkeys(("max_head_age_s", "max_reference_age_s"), max(2.0 * block_time_s, _LEAST_AGE_S))
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(PROFILES[profile], **(ages | given))  # type: ignore[arg-type, index]
