"""Base fee and block fullness.

The base fee follows EIP-1559 in integers, wei for wei (ethereum/EIPs, eip-1559): from a parent with gas used u, target
t and denominator d,

    u = t: unchanged;   u > t: + max(1, fee * (u - t) // t // d);   u < t: - fee * (t - u) // t // d

Ethereum: denominator 8, elasticity 2; OP Stack chains: other values, per chain (``arbgym.market.chain``). The next block's
base fee is therefore known when its parent is seen.
"""

from __future__ import annotations

import math
from typing import Any

from arbgym.jit import inner, kernel, part
from arbgym.market.pools import CONCENTRATED

WEI_PER_GWEI = 1_000_000_000


@kernel
def next_base_fee(base_fee_wei: int, gas_used: int, gas_target: int, denominator: int) -> int:
    """Base fee of the next block, wei. Exact for every base fee below 2^63 wei and gas up to 2^31."""
    if gas_used == gas_target:
        return base_fee_wei
    distance = abs(gas_used - gas_target)
    # fee * distance // target without overflow: split the fee into whole targets and a remainder below one target
    change = (base_fee_wei // gas_target) * distance + (base_fee_wei % gas_target) * distance // gas_target
    change = change // denominator
    if gas_used > gas_target:
        return base_fee_wei + max(change, 1)
    return base_fee_wei - change


@kernel
def block_fullness(log_demand_gwei: float, log_base_fee_gwei: float, response: float, noise: float, target_share: float) -> float:
    """Gas used as a share of the limit: the target, plus what demand above the base fee adds, plus noise; in [0, 1]."""
    return min(max(target_share + response * (log_demand_gwei - log_base_fee_gwei) + noise, 0.0), 1.0)


@kernel
def log_gwei(base_fee_wei: int) -> float:
    """Natural logarithm of a base fee in gwei, at least ln 1e-9 (1 wei)."""
    return math.log(max(base_fee_wei, 1) * 1e-9)


@part
def leg_gas(c: Any, kind: int) -> float:
    """Gas used by one swap in a pool of a kind, before ticks crossed."""
    return float(c.gas_v3 if kind == CONCENTRATED else c.gas_v2)


@inner
def cycle_gas(c: Any, buy: int, sell: int, crossed: int, loan_gas: float) -> float:
    """Gas used by a two-leg cycle, with its loan."""
    legs = leg_gas(c, c.kind[buy]) + leg_gas(c, c.kind[sell])
    return float(c.gas_overhead + legs + c.gas_per_tick * abs(crossed) + loan_gas)
