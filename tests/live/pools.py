"""Real pools on a chain for the live adapter's tests: one pair, three pools, trades that push them apart, and the settings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arbgym.amm import get_amount_out
from arbgym.live.settings import load
from tests.chain.market import Market

BASE, QUOTE = 10**18, 10**6
BLOCK_TIME_S = 12
PRICE = 1_840.0


class Pools:
    """A V2 pool and two V3 pools of one pair on a chain, the last one PancakeSwap's, and trades that push them apart.

    ``idle`` is what is done where nobody trades: an empty block, as a trade's own block is mined by the node.
    """

    def __init__(self, market: Market, seed: int, median_base: float = 4.5) -> None:
        self.market, self.random, self.median_base = market, random.Random(seed), median_base
        self.idle: Callable[[], Any] = lambda: market.web3.provider.make_request("evm_mine", [])  # type: ignore[arg-type]
        tokens = (market.token0, market.token1)
        self.base_first = tokens[0].functions.decimals().call() == 18
        self.base, self.quote = tokens if self.base_first else tokens[::-1]
        reserves = (5_000 * BASE, int(5_000 * PRICE) * QUOTE)
        self.addresses = [market.v2_pool(*(reserves if self.base_first else reserves[::-1]))]
        self.addresses += [self._v3(500, 10, 4 * 10**18, 60), self._v3(3_000, 60, 2 * 10**18, 20, pancake=True)]

    def _v3(self, fee: int, spacing: int, liquidity: int, width: int, pancake: bool = False) -> str:
        raw = PRICE * QUOTE / BASE if self.base_first else BASE / (PRICE * QUOTE)
        price = int(math.sqrt(raw) * 2**96)
        pool = self.market.pancake_pool(fee, spacing, price) if pancake else self.market.v3_pool(fee, price)
        middle = round(math.log(raw) / math.log(1.0001)) // spacing * spacing
        for share in (1, 4, 16):
            reach = width * share * spacing
            self.market.mint_v3(pool, middle - reach, middle + reach, liquidity // share)
        return pool

    def trade(self) -> None:
        """One block: a trade in a pool, now and then liquidity that comes or goes, or nothing at all."""
        draw = self.random.random()
        if draw < 0.1:
            self.idle()
            return
        pool = self.addresses[self.random.randrange(3)]
        sells_base = self.random.random() < 0.5
        zero_for_one = sells_base == self.base_first
        size = min(self.median_base * self.random.lognormvariate(0.0, 1.0), 60.0)
        amount = int(size * (BASE if sells_base else PRICE * QUOTE))
        if pool == self.addresses[0]:
            reserves = self.market.at("UniswapV2Pair", pool).functions.getReserves().call()[:2]
            out = get_amount_out(amount, *(reserves if zero_for_one else reserves[::-1]))
            self.market.swap_v2(pool, zero_for_one, amount, out)
        else:
            self.market.swap_v3(pool, zero_for_one, amount)

    def settings(self, url: str, folder: Path, **sections: Any) -> Any:
        """The runner's settings on these pools; ``sections`` are merged into them."""
        pools = [
            {"name": f"pool{k}", "address": address, "fee_ppm": 0 if k else 3_000} for k, address in enumerate(self.addresses)
        ]
        told: dict[str, Any] = {
            "chain": {"rpc": url, "chain_id": 31_337, "block_time_s": float(BLOCK_TIME_S)},
            "pair": {"base": self.base.address, "quote": self.quote.address},
            "pools": pools,
            "journal": {"path": folder / "journal.sqlite"},
            "risk": {"kill_file": folder / "kill"},
        }
        for section, fields in sections.items():
            told[section] = {**told.get(section, {}), **fields} if isinstance(fields, dict) else fields
        return load(None, told, {})
