"""A chain with the executor, pools at odds with each other, their exact models, lenders and a puppet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any

from arbgym.amm import ConcentratedPool, ConstantProductPool
from arbgym.live.executor import Leg, Route, Simulator, artefact, encode
from arbgym.live.terms import Refused
from tests.chain.anvil import Anvil
from tests.chain.market import Market

_COMPILED = json.loads((Path(__file__).with_name("contracts") / "contracts.json").read_text())
FAR = 10**9  # a block that no test gets to
# A puppet keeps what it is told in storage, so its chain has large blocks, and no cap on a transaction (Osaka).
NODE_OPTIONS = ("--hardfork", "prague", "--gas-limit", str(10**9))
_AMPLE_GAS = 9 * 10**8


class AnvilEndpoint:
    """The node, as far as ``Simulator`` needs an endpoint, and a record of what was asked."""

    def __init__(self, anvil: Anvil) -> None:
        from web3 import HTTPProvider

        self._provider = HTTPProvider(anvil.url)
        self.asked: list[tuple[str, Sequence[Any]]] = []

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        self.asked.append((method, parameters))
        answer = self._provider.make_request(method, list(parameters))
        if "error" in answer:
            error = answer["error"]
            raise Refused(method, error["code"], error["message"], error.get("data") or "")
        return answer["result"]

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return [await self.request(method, parameters) for method, parameters in calls]


class World:
    """Prices of token1 in token0's units: v2_low 2.00 < v3_low 2.05 < v2_high 2.10 < v3_high 2.16 (in narrow ranges)."""

    def __init__(self, anvil: Anvil) -> None:
        self.anvil = anvil
        self.market = Market(anvil, decimals=(18, 18))
        self.web3 = self.market.web3
        self.endpoint = AnvilEndpoint(anvil)
        self.owner: str = self.web3.eth.accounts[1].lower()
        self.stranger: str = self.web3.eth.accounts[2].lower()
        self.tokens = (self.market.token0, self.market.token1)
        self.executor = self.deploy(artefact(), sender=self.owner)
        self.lender = self.deploy(_COMPILED["Lender"], 0)
        self.aave = self.deploy(_COMPILED["Lender"], 5)
        self.puppet = self.new_puppet()
        for token in self.tokens:
            for holder in (self.lender, self.aave, self.puppet):
                self.mint(token, holder.address, 10**30)
        self.addresses: dict[str, str] = {
            "v2_low": self.market.v2_pool(10**24, 2 * 10**24),
            "v2_high": self.market.v2_pool(3 * 10**24, 63 * 10**23),
        }
        self._ticks: dict[str, dict[int, int]] = {}
        self._v3("v3_low", 3000, 205, [(-887220, 887220, 10**24), (6000, 8400, 10**25)])
        self._v3("v3_high", 500, 216, [(7700 - 20 * step, 7700 + 10 * step, 10**23) for step in range(1, 9)])
        self._v3("v3_thin", 500, 216, [(7600, 7800, 10**22)])

    def _v3(self, name: str, fee: int, price_percent: int, positions: list[tuple[int, int, int]]) -> None:
        address = self.addresses[name] = self.market.v3_pool(fee, isqrt(price_percent * 2**192 // 100))
        ticks: dict[int, int] = {}
        for lower, upper, liquidity in positions:
            self.market.mint_v3(address, lower, upper, liquidity)
            ticks[lower] = ticks.get(lower, 0) + liquidity
            ticks[upper] = ticks.get(upper, 0) - liquidity
        self._ticks[name] = ticks

    # ------------------------------------------------------------------------------------------------------------ set up
    def deploy(self, compiled: Any, *arguments: Any, sender: str | None = None) -> Any:
        """A contract of ours."""
        maker = self.web3.eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"]).constructor(*arguments)
        sent = maker.transact({"from": self.web3.to_checksum_address(sender)} if sender else {})
        created = self.web3.eth.wait_for_transaction_receipt(sent, poll_latency=0.005)["contractAddress"]
        return self.web3.eth.contract(created, abi=compiled["abi"])

    def new_puppet(self) -> Any:
        return self.deploy(_COMPILED["Puppet"])

    def silent_token(self) -> Any:
        return self.deploy(_COMPILED["SilentToken"])

    def mint(self, token: Any, holder: str, amount: int) -> None:
        self.market.send(token.functions.mint(self.web3.to_checksum_address(holder), amount))

    def model(self, name: str) -> ConstantProductPool | ConcentratedPool:
        """The pool's exact model in the state that it has now."""
        address = self.addresses[name]
        if name.startswith("v2"):
            reserve0, reserve1, _ = self.market.at("UniswapV2Pair", address).functions.getReserves().call()
            return ConstantProductPool(reserve0, reserve1, (3000, 1_000_000))
        pool = self.market.at("UniswapV3Pool", address)
        price, tick, *_ = pool.functions.slot0().call()
        return ConcentratedPool(
            sqrt_price_x96=price,
            tick=tick,
            liquidity=pool.functions.liquidity().call(),
            fee=pool.functions.fee().call(),
            tick_spacing=pool.functions.tickSpacing().call(),
            ticks=self._ticks[name],
        )

    # ------------------------------------------------------------------------------------------------------------ routes
    def leg(self, name: str, zero_for_one: bool) -> Leg:
        token_in = self.tokens[0 if zero_for_one else 1].address.lower()
        return Leg(self.addresses[name].lower(), token_in, "v2" if name.startswith("v2") else "v3", zero_for_one, 3000)

    def legs(self, names: Sequence[str], quote: int) -> tuple[Leg, ...]:
        """Legs of a cycle from token ``quote`` (0 or 1) through pools, to the other token and back in turns."""
        return tuple(self.leg(name, (place + quote) % 2 == 0) for place, name in enumerate(names))

    def flash_swap(
        self, names: Sequence[str], quote: int, amount_in_raw: int, minimum_profit_raw: int = 0, last_block: int = FAR
    ) -> Route:
        legs = self.legs(names, quote)
        return Route(f"uniswap_{legs[0].kind}_flash_swap", None, amount_in_raw, minimum_profit_raw, last_block, legs)

    # ----------------------------------------------------------------------------------------------------------- actions
    def simulate(self, route: Route, **changed: Any) -> int:
        """The profit by eth_call, as the owner of the deployed contract."""
        terms = {"to": self.executor.address.lower(), "sender": self.owner, "block": "latest", "deployed": True, **changed}
        simulator = Simulator(self.endpoint, deployed=terms.pop("deployed"))
        return asyncio.run(simulator.run(data=encode(route), **terms)).profit_raw

    def send(self, data: str, *, sender: str | None = None, to: str | None = None) -> Any:
        """The receipt of a transaction, whatever came of it."""
        wanted = {"from": sender or self.owner, "to": to or self.executor.address, "data": data, "gas": hex(_AMPLE_GAS)}
        return self.web3.eth.wait_for_transaction_receipt(self.anvil.call("eth_sendTransaction", wanted), poll_latency=0.005)

    def refused(self, data: str, *, sender: str | None = None, to: str | None = None) -> str:
        """The revert's data of a call; it fails if the call succeeds."""
        wanted = {"from": sender or self.owner, "to": to or self.executor.address, "data": data}
        try:
            answer = asyncio.run(self.endpoint.request("eth_call", [wanted, "latest"]))
        except Refused as refused:
            return refused.data
        raise AssertionError(f"not refused, but answered {answer}")

    def balances(self, holder: str) -> tuple[int, int]:
        """Of both tokens."""
        first, second = (token.functions.balanceOf(self.web3.to_checksum_address(holder)).call() for token in self.tokens)
        return first, second

    def tell(self, selector: str, steps: Sequence[tuple[str, str]], answer: str = "0x", puppet: Any = None) -> None:
        """What a puppet does on a call of ``selector``: (target, data) calls."""
        wanted = [(self.web3.to_checksum_address(target), data) for target, data in steps]
        puppet = puppet or self.puppet
        told = puppet.functions.tell(selector, wanted, answer)
        assert self.send(told._encode_transaction_data(), to=puppet.address)["status"] == 1
