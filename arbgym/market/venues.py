"""Where tokens trade, as numbers: each venue's fee and what a transaction costs there, with its source.

Sources: [1] solana.pump.fun/docs/fees, last updated 2025-09-01 (curve, PumpSwap by market cap); [2]
intercom.help/pumpfun-web/en/articles/11002413 (its priority fees, the last tier); [3] pump-fun/pump-public-docs,
docs/PUMP_SWAP_README.md (20 + 5 bps before creators' fees came on 2025-05-13) and docs/PUMP_PROGRAM_README.md (100 bps); [4]
raydium-io/raydium-docs-v1, ray/protocol-fees.mdx (0.25 % pools; CPMM has other configurations too); [5] docs.uniswap.org,
contracts/v4/concepts/fees (V3's four tiers) and contracts/protocol-fee/fee-setting-rational (V2: 0.25 + 0.05 %; the switch
leaves what the trader pays); [6] PancakeSwap documentation: V2 0.25 %, V3 0.01, 0.05, 0.25 and 1 %; [7] Orca documentation,
table of fee tiers by tick spacing on Solana mainnet (adaptive fees may add to them); [8]
solana.com/docs/core/fees/fee-structure: 5,000 lamports a signature plus a priority fee, charged whether the transaction
succeeds or fails; [9] receipts of test transactions: UniswapV2Router02.swapExactTokensForTokens, one hop, tokens known to
the pair, 97,986 gas; [10] tycho-simulation uniswap_v3/state.rs: 130,000 gas without a tick crossed.

Assumptions: 0.001 SOL of priority fee where no source says one; PumpSwap's fee between the market caps of 44,210 and 98,240 SOL
on a straight line (the page falls in steps); gas prices are the typical ones of ``arbgym.market.chain``, read on the dates there.
"""

from __future__ import annotations

from dataclasses import dataclass

from arbgym.market.chain import CHAINS

VENUE_KINDS = ("cp", "cl", "curve")
SOLANA_BASE_FEE_SOL = 5e-6  # [8], one signature
# PumpSwap's canonical pools: (market cap in SOL from which it holds, whole fee in ppm) [1]; the last [2]
PUMPSWAP_TIERS = (
    (0.0, 12_500.0), (420.0, 12_000.0), (1_470.0, 11_500.0), (2_460.0, 11_000.0), (3_440.0, 10_500.0), (4_420.0, 10_000.0),
    (9_820.0, 9_500.0), (14_740.0, 9_000.0), (19_650.0, 8_500.0), (24_560.0, 8_000.0), (29_470.0, 7_500.0), (34_380.0, 7_000.0),
    (39_300.0, 6_500.0),
)  # fmt: skip
_LAST_STEP_SOL, _LOWEST_FROM_SOL, _LOWEST_PPM = 44_210.0, 98_240.0, 3_000.0


@dataclass(frozen=True)
class Venue:
    """One venue.

    Args:
        name: key in ``VENUES``.
        kind: "cp" constant product, "cl" concentrated liquidity (near the price a constant product of its virtual reserves),
            "curve" the pump.fun bonding curve.
        chain: "solana" or a key of ``arbgym.market.chain.CHAINS``.
        fee_ppm: what a trader pays of the amount in all, parts per million; protocol's, creator's and LP's shares together.
        cost_native: what one transaction costs beside it, native tokens (SOL, ETH, BNB): gas, or base and priority fee.
        gas_used: by one swap, 0 where there is no gas.
        source: numbers of the module's list of sources; "assumption" where there is none.

    Raises ValueError naming the field.
    """

    name: str
    kind: str
    chain: str
    fee_ppm: float
    cost_native: float
    gas_used: int
    source: str

    def __post_init__(self) -> None:
        if self.kind not in VENUE_KINDS:
            raise ValueError(f"kind = {self.kind!r}; accepted are {', '.join(VENUE_KINDS)}")
        if self.chain != "solana" and self.chain not in CHAINS:
            raise ValueError(f"chain = {self.chain!r}; accepted are solana, {', '.join(CHAINS)}")
        if not 0.0 <= self.fee_ppm < 1e6:
            raise ValueError(f"fee_ppm = {self.fee_ppm}; accepted is 0 up to below 1e6")
        if not 0.0 <= self.cost_native < 1e6:
            raise ValueError(f"cost_native = {self.cost_native}; accepted is 0 up to below 1e6")
        if self.gas_used < 0:
            raise ValueError(f"gas_used = {self.gas_used}; accepted is 0 or more")

    def cost_quote(self, native_quote: float) -> float:
        """Cost of one transaction in quote currency, given the native token's price in it."""
        return self.cost_native * native_quote


def pumpswap_fee_ppm(market_cap_sol: float) -> float:
    """PumpSwap's whole fee on a canonical pool by the token's market cap (price times 1e9 tokens), SOL [1, 2]."""
    if not market_cap_sol >= 0.0:
        raise ValueError(f"market_cap_sol = {market_cap_sol}; accepted is 0 or more")
    if market_cap_sol >= _LAST_STEP_SOL:
        share = min(1.0, (market_cap_sol - _LAST_STEP_SOL) / (_LOWEST_FROM_SOL - _LAST_STEP_SOL))
        return PUMPSWAP_TIERS[-1][1] + share * (_LOWEST_PPM - PUMPSWAP_TIERS[-1][1])
    return next(fee for least, fee in reversed(PUMPSWAP_TIERS) if market_cap_sol >= least)


def _solana(name: str, kind: str, fee_bps: float, source: str, priority_sol: float = 1e-3) -> Venue:
    return Venue(name, kind, "solana", fee_bps * 100.0, SOLANA_BASE_FEE_SOL + priority_sol, 0, f"{source} [8]")


def _evm(name: str, kind: str, chain: str, fee_bps: float, source: str) -> Venue:
    gas, gas_source = (97_986, "[9]") if kind == "cp" else (130_000, "[10]")
    return Venue(name, kind, chain, fee_bps * 100.0, gas * CHAINS[chain].base_fee_gwei * 1e-9, gas, f"{source} {gas_source}")


_ORCA = {1: 1, 2: 2, 4: 4, 8: 5, 16: 16, 64: 30, 96: 65, 128: 100, 256: 200}  # tick spacing: bps [7]

VENUES: dict[str, Venue] = {
    venue.name: venue
    for venue in (
        # the curve: 0.95 % + 0.30 % since 2025-09-01; 1 % at the start of 2024 (docs/PUMP_PROGRAM_README.md)
        _solana("pump_fun", "curve", 125, "[1]; priority [2]", 3e-3),
        _solana("pump_fun_2024", "curve", 100, "[3]; priority [2]", 3e-3),
        # the tier of a fresh migration; others by pumpswap_fee_ppm
        _solana("pumpswap", "cp", 125, "[1]; priority [2]", 3e-3),
        _solana("pumpswap_small_cap", "cp", 120, "[1], 420 to 1,470 SOL; priority [2]", 3e-3),
        # 20 LP + 5 protocol [3], + 5 for the creator: from 2025-05-13 to 2025-08-31
        _solana("pumpswap_2025_05", "cp", 30, "[3] and 5 bps for creators; priority [2]", 3e-3),
        _solana("raydium_amm_v4", "cp", 25, "[4]; priority: assumption"),
        _solana("raydium_cpmm", "cp", 25, "[4]; priority: assumption"),
        *(_solana(f"orca_{bps}", "cl", bps, "[7]; priority: assumption") for bps in _ORCA.values()),
        _solana("orca_splash", "cp", 100, "[7], full range; priority: assumption"),
        _evm("uniswap_v2", "cp", "ethereum", 30, "[5]"),
        *(_evm(f"uniswap_v3_{bps}", "cl", "ethereum", bps, "[5]") for bps in (1, 5, 30, 100)),
        _evm("pancakeswap_v2", "cp", "bsc", 25, "[6]"),
        *(_evm(f"pancakeswap_v3_{bps}", "cl", "bsc", bps, "[6]") for bps in (1, 5, 25, 100)),
    )
}
