"""The pump.fun bonding curve: exact model (Python integers) and float64 kernels.

A launched token trades against x * y = k on *virtual* reserves, so it has a price before anybody has paid in anything. The
curve sells what it really holds, ``real_base``; when that is gone it is complete, refuses every trade, and its money and the
tokens that were never for sale move to a constant-product pool on PumpSwap, whose LP tokens are burnt. Base is the launched
token (6 decimals), quote is SOL (9 decimals, lamports).

Facts, not code, from pump-fun/pump-public-docs: docs/PUMP_PROGRAM_README.md (reserves at the start, supply, migration fee),
docs/bondingCurve.ts and the quote formulas in idl/pump.json (rounding), docs/SYNTHETIC_MIGRATION.md (migrated reserves). With
v, b the virtual reserves and fee bps p (protocol) + c (creator), each fee rounded up on its own:

    buy for a:       net = floor(a * 1e4 / (1e4 + p + c)), less what net and its fees exceed a by;
                     out = floor((net - 1) * b / (v + net - 1))
    buy exactly t:   net = floor(t * v / (b - t)) + 1, paid with its fees
    sell t:          gross = floor(t * v / (b + t)), less its fees

The SDK's own estimate of a buy, floor(n * b / (v + n)) with n = floor((a - 1) * 1e4 / (1e4 + p + c)), is at most what two
lamports buy away. Fees: 100 bps at the start (2024), 95 + 30 bps on the pricing page of 2025-09-01
(solana.pump.fun/docs/fees); they have changed before, so they are arguments.
"""

from __future__ import annotations

from arbgym.amm.constant_product import ConstantProductPool
from arbgym.amm.integers import as_integer, as_uint, ceil_div
from arbgym.amm.result import PoolError, SwapResult
from arbgym.jit import kernel

BPS = 10_000
LAMPORTS_PER_SOL = 10**9
UNITS_PER_TOKEN = 10**6
INITIAL_VIRTUAL_QUOTE = 30 * LAMPORTS_PER_SOL
INITIAL_VIRTUAL_BASE = 1_073_000_000 * UNITS_PER_TOKEN
INITIAL_REAL_BASE = 793_100_000 * UNITS_PER_TOKEN
TOTAL_SUPPLY = 1_000_000_000 * UNITS_PER_TOKEN
MIGRATION_FEE = 15_000_001  # lamports, for the accounts that the migration creates
PROTOCOL_FEE_BPS, CREATOR_FEE_BPS = 95, 30
MIGRATED_FEE = (125, BPS)  # PumpSwap below a market cap of 420 SOL, where every curve ends


class BondingCurvePool:
    """One token's curve; ``quote`` computes a trade, ``swap`` applies it. Amounts are raw units (lamports, 1e-6 tokens).

    Args:
        virtual_quote, virtual_base: reserves that set the price, uint64; by default those of a new token.
        real_quote: what the curve holds and can pay out, uint64.
        real_base: what it can still sell, uint64; 0 means complete.
        protocol_fee_bps, creator_fee_bps: of the amount that moves the curve, 0 to 5,000 together.
        supply: of the token, uint64; what was never for sale goes to the migrated pool.

    Raises ValueError, naming the field, for what no curve can hold.
    """

    __slots__ = ("creator_fee_bps", "protocol_fee_bps", "real_base", "real_quote", "supply", "virtual_base", "virtual_quote")

    def __init__(
        self,
        virtual_quote: int = INITIAL_VIRTUAL_QUOTE,
        virtual_base: int = INITIAL_VIRTUAL_BASE,
        real_quote: int = 0,
        real_base: int = INITIAL_REAL_BASE,
        protocol_fee_bps: int = PROTOCOL_FEE_BPS,
        creator_fee_bps: int = CREATOR_FEE_BPS,
        supply: int = TOTAL_SUPPLY,
    ) -> None:
        self.virtual_quote = as_integer("virtual_quote", virtual_quote, 1, 2**64 - 1)
        self.virtual_base = as_integer("virtual_base", virtual_base, 1, 2**64 - 1)
        self.real_quote = as_integer("real_quote", real_quote, 0, self.virtual_quote)
        self.real_base = as_integer("real_base", real_base, 0, self.virtual_base - 1)
        self.protocol_fee_bps = as_integer("protocol_fee_bps", protocol_fee_bps, 0, BPS // 2)
        self.creator_fee_bps = as_integer("creator_fee_bps", creator_fee_bps, 0, BPS // 2 - self.protocol_fee_bps)
        self.supply = as_uint("supply", supply, 64)

    def __repr__(self) -> str:
        return f"BondingCurvePool({', '.join(f'{name}={getattr(self, name)}' for name in sorted(self.__slots__))})"

    def copy(self) -> BondingCurvePool:
        """An independent curve in the same state."""
        return BondingCurvePool(**{name: getattr(self, name) for name in self.__slots__})

    @property
    def complete(self) -> bool:
        """Whether everything is sold: no trade any more, only ``migrate``."""
        return self.real_base == 0

    @property
    def price(self) -> float:
        """Marginal price before fees, SOL per token."""
        return self.virtual_quote / self.virtual_base * (UNITS_PER_TOKEN / LAMPORTS_PER_SOL)

    def fee(self, amount: int) -> int:
        """Both fees on an amount that moves the curve, each rounded up, lamports."""
        return ceil_div(amount * self.protocol_fee_bps, BPS) + ceil_div(amount * self.creator_fee_bps, BPS)

    def quote(
        self, *, amount_in: int | None = None, amount_out: int | None = None, buy: bool, partial: bool = False
    ) -> SwapResult:
        """The trade that ``swap`` would make; the curve stays as it is.

        Args: one of
            amount_in: lamports to spend, fees included (buy), or tokens to sell;
            amount_out: tokens to buy exactly (buy only);
            buy: tokens for SOL, or SOL for tokens;
            partial: a buy for more than is left takes what is left, and ``unspent`` says what was not needed.

        Returns amounts with token0 = base and token1 = quote; ``amount1`` is what moves the curve, so without the ``fee``.
        Raises PoolError with the program's name for it: BondingCurveComplete, NotEnoughTokensToBuy, BuyZeroAmount,
        NotEnoughTokensToSell (the curve never sold so many), SellZeroAmount, TooLittleSolReceived (fees exceed it).
        """
        if (amount_in is None) == (amount_out is None):
            raise ValueError(f"amount_in, amount_out: {amount_in}, {amount_out}; accepted is exactly one of them")
        if self.complete:
            raise PoolError("BondingCurveComplete")
        if not buy:
            if amount_in is None:
                raise ValueError("amount_out: given for a sale; accepted is amount_in")
            return self._sell(as_uint("amount_in", amount_in, 64))
        if amount_in is None:
            return self._buy_exactly(as_uint("amount_out", amount_out or 0, 64))
        return self._buy_for(as_uint("amount_in", amount_in, 64), partial)

    def swap(
        self, *, amount_in: int | None = None, amount_out: int | None = None, buy: bool, partial: bool = False
    ) -> SwapResult:
        """Apply a trade; arguments, result and errors as for ``quote``. A refusal leaves the curve as it was."""
        result = self.quote(amount_in=amount_in, amount_out=amount_out, buy=buy, partial=partial)
        self.virtual_base += result.amount0
        self.real_base += result.amount0
        self.virtual_quote += result.amount1
        self.real_quote += result.amount1
        return result

    def migrate(self, fee: tuple[int, int] = MIGRATED_FEE, migration_fee: int = MIGRATION_FEE) -> ConstantProductPool:
        """The PumpSwap pool that a complete curve becomes: token0 = base, token1 = quote; about 206.9 M tokens and 84.99 SOL.

        ``fee`` is that pool's (numerator, denominator), taken from the input and kept, as ``ConstantProductPool`` does; PumpSwap
        itself takes it on the quote side and keeps the LP's part only. Raises PoolError 'BondingCurveNotComplete'.
        """
        if not self.complete:
            raise PoolError("BondingCurveNotComplete")
        quote = self.real_quote - as_integer("migration_fee", migration_fee, 0, self.real_quote)
        return ConstantProductPool(self.supply - INITIAL_REAL_BASE, quote, fee, "PumpSwap")

    def _buy_for(self, amount: int, partial: bool) -> SwapResult:
        net = amount * BPS // (BPS + self.protocol_fee_bps + self.creator_fee_bps)
        net -= max(0, net + self.fee(net) - amount)
        out = (net - 1) * self.virtual_base // (self.virtual_quote + net - 1) if net > 1 else 0
        if out == 0:
            raise PoolError("BuyZeroAmount")
        if out > self.real_base:
            if not partial:
                raise PoolError("NotEnoughTokensToBuy")
            last = self._buy_exactly(self.real_base)
            return last._replace(unspent=amount - last.amount_in)
        return SwapResult(amount, out, -out, net, amount - net, 0, 1, 0)

    def _buy_exactly(self, out: int) -> SwapResult:
        if out == 0:
            raise PoolError("BuyZeroAmount")
        if out > self.real_base:
            raise PoolError("NotEnoughTokensToBuy")
        net = out * self.virtual_quote // (self.virtual_base - out) + 1
        fee = self.fee(net)
        return SwapResult(net + fee, out, -out, net, fee, 0, 1, 0)

    def _sell(self, amount: int) -> SwapResult:
        if amount == 0:
            raise PoolError("SellZeroAmount")
        gross = amount * self.virtual_quote // (self.virtual_base + amount)
        if gross > self.real_quote:
            raise PoolError("NotEnoughTokensToSell")
        fee = self.fee(gross)
        if fee >= gross:
            raise PoolError("TooLittleSolReceived")
        return SwapResult(amount, gross - fee, amount, -gross, fee, 0, 1, 0)


@kernel
def product_out(amount_in: float, reserve_in: float, reserve_out: float) -> float:
    """What a constant product of two reserves, real or virtual, pays for ``amount_in`` of which every fee was taken before."""
    return amount_in * reserve_out / (reserve_in + amount_in)


@kernel
def curve_buy(amount_in: float, virtual_quote: float, virtual_base: float, real_base_left: float, fee: float) -> float:
    """Tokens bought for ``amount_in`` of quote with fees; ``fee`` is a share of the net amount, which moves the curve.

    A buy for more than ``real_base_left`` gets that. Raw units: within 1 + 4 * virtual_base / virtual_quote (the four lamports
    that the program rounds away) + 4e-15 of the exact output. Afterwards virtual_quote rises by amount_in / (1 + fee).
    """
    net = amount_in / (1.0 + fee)
    return min(product_out(net, virtual_quote, virtual_base), real_base_left)


@kernel
def curve_cost(amount_out: float, virtual_quote: float, virtual_base: float, fee: float) -> float:
    """Quote to pay, with fees, for exactly ``amount_out`` tokens below virtual_base; within 4 raw units + 4e-15 of the exact cost
    while ``amount_out`` is at most three quarters of virtual_base, as on the curve.
    """
    return amount_out * virtual_quote / (virtual_base - amount_out) * (1.0 + fee)


@kernel
def curve_sell(amount_in: float, virtual_quote: float, virtual_base: float, fee: float) -> float:
    """Quote received for ``amount_in`` tokens after fees; within 4 raw units + 4e-15 of the exact output.

    Afterwards virtual_quote has fallen by the output / (1 - fee).
    """
    return product_out(amount_in, virtual_base, virtual_quote) * (1.0 - fee)


@kernel
def curve_price(virtual_quote: float) -> float:
    """Price of a pump.fun token, SOL per token, from the curve's virtual SOL: v^2 / (30 * 1.073e9), as x * y stays."""
    return virtual_quote * virtual_quote / (30.0 * 1.073e9)
