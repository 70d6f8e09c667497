"""Chains as numbers: block clock, fee market, submission channels. Each figure names its source; assumptions say so.

Sources: [1] openchainbench block times and BSC release notes; [2] EIP-1559 and OP Stack parameters (alloy, kona); [3]
base-fee cost of DEX legs of CEX-DEX arbitrage, Ethereum 2023-08-08 (M1kuW1ll/cexdex_data_tldr_2024: median 0.0025 ETH
for about 160,000 gas); [4] Polygon gas prices per minute 2023-08-14..15 (zelos-alpha/demeter: median 54 gwei); [5]
fees of 3-swap transactions on Arbitrum, Base, Optimism 2024-11-01 (tivas-g/Torres_Shared_Sequencing_Arbitrage); [6]
Flashbots documentation: losing or reverting bundles cost nothing; [7] Arbitrum Timeboost documentation: sealed bids
buy a 200 ms express lane, reverts pay; [8] arXiv 2506.01462: most reverted L2 transactions are swaps, priority fees
order blocks loosely; [9] ethereum_blocks_20260129: fullness 0.507 +- 0.228 of the limit, 0.4 % missed slots.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chain:
    """One chain's clock, fee market and channels."""

    name: str
    block_time_s: float
    gas_limit: int
    elasticity: int  # gas target = gas limit / elasticity
    base_fee_denominator: int
    base_fee_gwei: float  # typical
    fullness_sd: float  # noise of a block's gas used as a share of the limit; 0 keeps the base fee constant
    native_price_ratio: float  # price of the gas token in units of the base token (1 where gas is paid in the base token)
    data_fee_quote: float  # fixed data-availability fee of one arbitrage transaction, quote currency
    private_revert_pays: bool
    private_inclusion: float  # probability that a private submission reaches the next block's builder
    public_inclusion: float
    sandwich_probability: float  # of a public transaction that leaves a sandwich something to take
    ordering_noise: float  # Gumbel scale of the log bid noise in who comes first: 0 a pure auction, 1 mostly a race


CHAINS = {
    # [1] 12 s, [2], [3], [6], [9]; inclusion: 90 % of blocks are built by MEV-Boost builders (arXiv 2407.13931);
    # sandwich: assumption
    "ethereum": Chain("ethereum", 12.0, 30_000_000, 2, 8, 15.0, 0.228, 1.0, 0.0, False, 0.95, 0.97, 0.6, 0.05),
    # [1] 0.25 s, base fee floor 0.01 gwei (Arbitrum documentation), [5] 0.017 USD in all, [7]; noise: assumption (latency race)
    "arbitrum": Chain("arbitrum", 0.25, 32_000_000, 2, 8, 0.01, 0.0, 1.0, 0.015, True, 0.99, 0.97, 0.01, 0.7),
    # [1] 2 s, [2] denominator 250, elasticity 6, [5] 0.002 USD, [8]
    "optimism": Chain("optimism", 2.0, 60_000_000, 6, 250, 0.001, 0.05, 1.0, 0.0015, True, 0.98, 0.97, 0.01, 0.5),
    # [1] 2 s, [2], [5] 0.012 USD for four swaps, [8]
    "base": Chain("base", 2.0, 120_000_000, 6, 250, 0.01, 0.05, 1.0, 0.009, True, 0.98, 0.97, 0.01, 0.5),
    # [1] 2 s, [4] 54 gwei in MATIC at 0.65 USD against WETH at 1,840; denominator 16 since the Delhi fork (Polygon documentation)
    "polygon": Chain("polygon", 2.0, 30_000_000, 2, 16, 54.0, 0.15, 0.65 / 1840.0, 0.0, False, 0.9, 0.95, 0.3, 0.3),
    # [1] 0.45 s; minimum gas price 0.1 gwei with base fee 0, so constant here; BNB at about 0.2 WETH; builders as on Ethereum
    "bsc": Chain("bsc", 0.45, 70_000_000, 2, 8, 0.1, 0.0, 0.2, 0.0, False, 0.9, 0.95, 0.5, 0.2),
}
