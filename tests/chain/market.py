"""Real contracts on a test chain: two tokens, and pools of them of every kind with liquidity and trades.

The pools' bytecode comes from their makers' npm packages; tokens and the trading contract are ours (contracts/, compiled by
contracts/compile.js into contracts/contracts.json).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.chain.anvil import MODULES, Anvil

_OURS = Path(__file__).with_name("contracts") / "contracts.json"
_PACKAGED = {
    "UniswapV2Factory": "@uniswap/v2-core/build/UniswapV2Factory.json",
    "UniswapV2Pair": "@uniswap/v2-core/build/UniswapV2Pair.json",
    "UniswapV3Factory": "@uniswap/v3-core/artifacts/contracts/UniswapV3Factory.sol/UniswapV3Factory.json",
    "UniswapV3Pool": "@uniswap/v3-core/artifacts/contracts/UniswapV3Pool.sol/UniswapV3Pool.json",
    "PancakeV3Pool": "@pancakeswap/v3-core/artifacts/contracts/PancakeV3Pool.sol/PancakeV3Pool.json",
    "PoolManager": "@uniswap/v4-core/out/PoolManager.sol/PoolManager.json",
}
MIN_LIMIT, MAX_LIMIT = 4295128740, 1461446703485210103287273052203988822378723970341
NO_ADDRESS = "0x" + 40 * "0"


@cache
def artifact(name: str) -> tuple[list[dict[str, Any]], str]:
    """(abi, bytecode) of a contract, ours or a package's."""
    if name in _PACKAGED:
        held = json.loads((MODULES / _PACKAGED[name]).read_text())
        code = held["bytecode"]["object"] if isinstance(held["bytecode"], dict) else held["bytecode"]
        return held["abi"], "0x" + code.removeprefix("0x")
    held = json.loads(_OURS.read_text())[name]
    return held["abi"], held["bytecode"]


@dataclass(frozen=True)
class V4Key:
    """A V4 pool's parameters; its id is the hash of them."""

    manager: str
    key: tuple[str, str, int, int, str]
    id: str


class Market:
    """Two tokens in the pools' order, and a contract that holds plenty of both and trades. Every trade is one block.

    ``token0`` and ``token1`` are web3 contracts; pools are addresses (``V4Key`` for V4). Amounts are raw.
    """

    def __init__(self, anvil: Anvil, decimals: tuple[int, int] = (6, 18)) -> None:
        from web3 import HTTPProvider, Web3

        self.web3 = Web3(HTTPProvider(anvil.url))
        self.web3.eth.default_account = self.web3.eth.accounts[0]
        tokens = [self.deploy("TestToken", f"T{places}", places) for places in decimals]
        self.token0, self.token1 = sorted(tokens, key=lambda token: int(token.address, 16))
        self.trader = self.deploy("Trader")
        for token in tokens:
            self.send(token.functions.mint(self.trader.address, 10**36))

    def deploy(self, name: str, *arguments: Any) -> Any:
        """A new contract."""
        abi, code = artifact(name)
        sent = self.web3.eth.contract(abi=abi, bytecode=code).constructor(*arguments).transact()
        created = self.web3.eth.wait_for_transaction_receipt(sent, poll_latency=0.005)["contractAddress"]
        return self.web3.eth.contract(created, abi=abi)

    def at(self, name: str, address: str) -> Any:
        """A contract that is there already."""
        return self.web3.eth.contract(self.web3.to_checksum_address(address), abi=artifact(name)[0])

    def send(self, call: Any) -> Any:
        """The receipt of a transaction that succeeded."""
        receipt = self.web3.eth.wait_for_transaction_receipt(call.transact({"gas": 10_000_000}), poll_latency=0.005)
        assert receipt["status"] == 1, "reverted"
        return receipt

    def v2_pool(self, reserve0: int, reserve1: int) -> str:
        factory = self.deploy("UniswapV2Factory", self.web3.eth.default_account)
        self.send(factory.functions.createPair(self.token0.address, self.token1.address))
        pair: str = factory.functions.getPair(self.token0.address, self.token1.address).call()
        self.send(self.trader.functions.mintV2(pair, reserve0, reserve1))
        return pair

    def v3_pool(self, fee: int, sqrt_price_x96: int) -> str:
        factory = self.deploy("UniswapV3Factory")
        self.send(factory.functions.createPool(self.token0.address, self.token1.address, fee))
        pool: str = factory.functions.getPool(self.token0.address, self.token1.address, fee).call()
        self.send(self.at("UniswapV3Pool", pool).functions.initialize(sqrt_price_x96))
        return pool

    def pancake_pool(self, fee: int, tick_spacing: int, sqrt_price_x96: int) -> str:
        deployer = self.deploy("PoolDeployer")
        parameters = (deployer.address, self.token0.address, self.token1.address, fee, tick_spacing)
        receipt = self.send(deployer.functions.deploy(parameters, artifact("PancakeV3Pool")[1]))
        pool: str = deployer.events.Created().process_receipt(receipt)[0]["args"]["pool"]
        self.send(self.at("PancakeV3Pool", pool).functions.initialize(sqrt_price_x96))
        return pool

    def v4_pool(self, fee: int, tick_spacing: int, sqrt_price_x96: int) -> V4Key:
        from eth_abi.abi import encode
        from eth_utils.crypto import keccak

        manager = self.deploy("PoolManager", self.web3.eth.default_account)
        key = (self.token0.address, self.token1.address, fee, tick_spacing, NO_ADDRESS)
        self.send(manager.functions.initialize(key, sqrt_price_x96))
        return V4Key(manager.address, key, "0x" + keccak(encode(["address", "address", "uint24", "int24", "address"], key)).hex())

    def swap_v2(self, pair: str, zero_for_one: bool, amount_in: int, amount_out: int) -> Any:
        token, outs = (self.token0, (0, amount_out)) if zero_for_one else (self.token1, (amount_out, 0))
        return self.send(self.trader.functions.swapV2(pair, token.address, amount_in, *outs))

    def swap_v3(self, pool: str, zero_for_one: bool, amount: int) -> Any:
        """``amount`` > 0: to spend; < 0: to get."""
        limit = MIN_LIMIT if zero_for_one else MAX_LIMIT
        return self.send(self.trader.functions.swapV3(pool, zero_for_one, amount, limit))

    def mint_v3(self, pool: str, lower: int, upper: int, liquidity: int) -> Any:
        return self.send(self.trader.functions.mintV3(pool, lower, upper, liquidity))

    def burn_v3(self, pool: str, lower: int, upper: int, liquidity: int) -> Any:
        return self.send(self.trader.functions.burnV3(pool, lower, upper, liquidity))

    def swap_v4(self, pool: V4Key, zero_for_one: bool, amount: int) -> Any:
        """``amount`` > 0: to spend; < 0: to get (V4 itself writes them the other way round)."""
        limit = MIN_LIMIT if zero_for_one else MAX_LIMIT
        return self.send(self.trader.functions.swapV4(pool.manager, pool.key, (zero_for_one, -amount, limit)))

    def modify_v4(self, pool: V4Key, lower: int, upper: int, liquidity: int) -> Any:
        return self.send(self.trader.functions.modifyV4(pool.manager, pool.key, (lower, upper, liquidity, bytes(32))))
