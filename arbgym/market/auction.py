"""Rival searchers: how many there are, what each bids, and the textbook auctions they are tested against.

Rivals live in hidden persistent regimes; within a regime their number is Poisson and each bids a share of the value it sees.
Shares are logit-normal around the regime's mean share. First-price sealed bid with n symmetric bidders and values
U[0, 1]: b(v) = (n - 1)/n * v; all-pay (a public gas auction in which the losers still pay): b(v) = (n - 1)/n * v^n
(Krishna, Auction Theory). Regime numbers: see ``arbgym.market.config``.
"""

from __future__ import annotations

import math

from arbgym.jit import kernel

MAX_RIVALS = 12


@kernel
def poisson_count(mean: float, uniform: float, limit: int) -> int:
    """Poisson count by inversion of one uniform, cut at ``limit``."""
    probability = math.exp(-mean)
    cumulative = probability
    count = 0
    while uniform > cumulative and count < limit:
        count += 1
        probability *= mean / count
        cumulative += probability
    return count


@kernel
def logit_normal(mean_share: float, logit_sd: float, normal: float) -> float:
    """A share in (0, 1) whose logit is normal around that of ``mean_share`` (its median)."""
    odds = mean_share / (1.0 - mean_share) * math.exp(logit_sd * normal)
    return odds / (1.0 + odds)


@kernel
def race_key(bid: float, noise: float, uniform: float) -> float:
    """What decides who comes first: the bid times exp(noise * G) with G standard Gumbel; noise 0 is a pure auction.

    With Gumbel noise the chance to come first is proportional to bid^(1/noise) (Luce's choice rule), which goes from
    an auction to a race in which everybody has the same chance.
    """
    if noise <= 0.0:
        return bid
    return bid * math.exp(-noise * math.log(-math.log(uniform)))


@kernel
def equilibrium_bid(value: float, bidders: int, all_pay: bool) -> float:
    """Symmetric equilibrium bid for a value in units of the upper end of U[0, 1]."""
    share = (bidders - 1.0) / bidders
    return share * value**bidders if all_pay else share * value
