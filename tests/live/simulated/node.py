"""The node of a simulated chain: JSON-RPC answers as a real one writes them, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from arbgym.amm import ConcentratedPool, ConstantProductPool, PoolError
from arbgym.live.terms import Refused, Unknown
from tests.live.simulated.chain import GAS_LIMIT, GAS_REVERTED, GAS_USED, Block, Draft, Refusal, SimulatedChain, Transaction
from tests.live.simulated.clock import SimulatedClock
from tests.live.simulated.encoding import selector, signed, words

_NO_ADDRESS = "0x" + 40 * "0"


class SimulatedNode:
    """An ``Endpoint``. It answers what a runner asks; any other method is refused as unknown.

    Args:
        chain: whose node it is.
        decimals: of each token, by address.
        holdings: {(token, holder): raw amount} of what ``balanceOf`` is asked for, as lenders' liquidity.
        call_contract: ``eth_call`` of the executor: (draft on the block's state, sender, to, data) -> returned data.
    """

    def __init__(
        self,
        chain: SimulatedChain,
        *,
        decimals: dict[str, int],
        holdings: dict[tuple[str, str], int],
        call_contract: Callable[[Draft, str, str, str], str | None],
    ) -> None:
        self.chain, self.decimals, self.holdings, self.call_contract = chain, decimals, holdings, call_contract
        self.asked: dict[str, int] = {}
        self._news: list[asyncio.Future[None]] = []
        self._told = chain.tip.hash
        self._pools = {watched.address: index for index, watched in enumerate(chain.watched)}
        self._methods: dict[str, Callable[..., Any]] = {
            "eth_chainId": lambda: hex(chain.chain_id),
            "net_version": lambda: str(chain.chain_id),
            "eth_blockNumber": lambda: hex(chain.tip.number),
            "eth_getBlockByNumber": lambda tag, full=False: self._header_or_none(self._find(tag)),
            "eth_getBlockByHash": lambda digest, full=False: self._header_or_none(chain.by_hash(digest)),
            "eth_getLogs": self._logs,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate,
            "eth_simulateV1": self._simulate,
            "eth_getCode": self._code,
            "eth_getBalance": lambda address, tag="latest": hex(self._balance(address, tag)),
            "eth_getTransactionCount": lambda address, tag="latest": hex(self._count(address, tag)),
            "eth_getTransactionReceipt": chain.receipt,
            "eth_getTransactionByHash": self._transaction,
            "eth_gasPrice": lambda: hex(chain.tip.base_fee_wei + 10**9),
            "eth_maxPriorityFeePerGas": lambda: hex(10**9),
            "eth_sendRawTransaction": chain.submit,
            "eth_sendBundle": self._bundle,
        }

    # ------------------------------------------------------------------------------------------------------- Endpoint
    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        self.asked[method] = self.asked.get(method, 0) + 1
        answer = self._methods.get(method)
        if answer is None:
            raise Refused(method, -32601, f"the method {method} does not exist/is not available")
        try:
            return answer(*parameters)
        except Refusal as refusal:
            raise Refused(method, -32000, str(refusal)) from refusal
        except PoolError as error:
            raise Refused(method, 3, "execution reverted", "0x") from error

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return [await self.request(method, parameters) for method, parameters in calls]

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        if self._told == self.chain.tip.hash:
            news = asyncio.get_running_loop().create_future()
            self._news.append(news)
            try:
                async with asyncio.timeout(timeout_s):
                    await news
            except TimeoutError as error:
                raise Unknown("eth_subscribe", "timeout", f"no head in {timeout_s} s") from error
        self._told = self.chain.tip.hash
        return header(self.chain.tip)

    async def close(self) -> None:
        self._news.clear()

    def tell(self) -> None:
        """There is a new head: wake who waits for it."""
        news, self._news = self._news, []
        for one in news:
            if not one.done():
                one.set_result(None)

    # ------------------------------------------------------------------------------------------------------- answers
    def _find(self, tag: Any) -> Block | None:
        if isinstance(tag, dict):
            return self.chain.by_hash(tag["blockHash"]) if "blockHash" in tag else self._find(tag["blockNumber"])
        if tag in ("latest", "pending", "safe", "finalized"):
            return self.chain.tip
        return self.chain.by_hash(tag) if len(tag) == 66 else self.chain.at(int(tag, 16))

    def _block(self, tag: Any) -> Block:
        block = self._find(tag)
        if block is None:
            raise Refusal("header not found")
        return block

    @staticmethod
    def _header_or_none(block: Block | None) -> dict[str, Any] | None:
        return None if block is None else header(block)

    def _logs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        if "blockHash" in wanted:
            block = self.chain.by_hash(wanted["blockHash"])
            if block is None:
                raise Refusal("unknown block")
            blocks = [block]
        else:
            first = self._block(wanted.get("fromBlock", "latest")).number
            last = min(self._block(wanted.get("toBlock", "latest")).number, self.chain.tip.number)
            blocks = [block for number in range(first, last + 1) if (block := self.chain.at(number)) is not None]
        addresses = wanted.get("address")
        if addresses is not None:
            addresses = {one.lower() for one in ([addresses] if isinstance(addresses, str) else addresses)}
        topics = (wanted.get("topics") or [None])[0]
        allowed = None if topics is None else {topics} if isinstance(topics, str) else set(topics)
        return [
            log
            for block in blocks
            for log in block.logs
            if (addresses is None or log["address"] in addresses) and (allowed is None or log["topics"][0] in allowed)
        ]

    def _count(self, address: str, tag: Any) -> int:
        if address.lower() != self.chain.account:
            return 0
        nonce = self._block(tag).state.nonce
        if tag == "pending":
            while nonce in self.chain.mempool:
                nonce += 1
        return nonce

    def _balance(self, address: str, tag: Any) -> int:
        return self._block(tag).state.balance_wei if address.lower() == self.chain.account else 0

    def _transaction(self, digest: str) -> dict[str, Any] | None:
        receipt = self.chain.receipt(digest)
        if receipt is not None:
            found = next(one for one in self._block(receipt["blockNumber"]).transactions if one.hash == digest)
            return {**_told(found, self.chain.account), "blockHash": receipt["blockHash"], "blockNumber": receipt["blockNumber"]}
        waiting = next((one for one in self.chain.mempool.values() if one.hash == digest), None)
        return None if waiting is None else {**_told(waiting, self.chain.account), "blockHash": None, "blockNumber": None}

    def _bundle(self, bundle: dict[str, Any]) -> dict[str, str]:
        return {"bundleHash": self.chain.submit_bundle(bundle["txs"], int(bundle["blockNumber"], 16))}

    def _code(self, address: str, tag: Any = "latest") -> str:
        held = address.lower() in self._pools or address.lower() in self.decimals
        return (
            "0xfe"
            if held or self.call_contract(Draft(self.chain, self.chain.tip), "", address.lower(), "0x") is not None
            else "0x"
        )

    def _estimate(self, call: dict[str, Any], tag: Any = "latest") -> str:
        self._call(call, tag)
        return hex(GAS_USED)

    def _simulate(self, asked: dict[str, Any], tag: Any = "latest") -> list[dict[str, Any]]:
        (block,) = asked["blockStateCalls"]
        (call,) = block["calls"]
        try:
            answer = self._call(call, tag)
        except PoolError:
            return [{"calls": [{"status": "0x0", "gasUsed": hex(GAS_REVERTED), "returnData": "0x", "logs": []}]}]
        return [{"calls": [{"status": "0x1", "gasUsed": hex(GAS_USED), "returnData": answer, "logs": []}]}]

    def _call(self, call: dict[str, Any], tag: Any = "latest", overrides: Any = None) -> str:
        block = self._block(tag)
        to, data = call["to"].lower(), call.get("data") or call.get("input") or "0x"
        if to in self._pools:
            return self._ask_pool(block, self._pools[to], data)
        if to in self.decimals:
            return self._ask_token(to, data)
        answer = self.call_contract(Draft(self.chain, block), call.get("from", _NO_ADDRESS).lower(), to, data)
        return "0x" if answer is None else answer

    def _ask_token(self, token: str, data: str) -> str:
        function, arguments = data[:10], data[10:]
        if function == _BALANCE_OF:
            return words(self.holdings.get((token, "0x" + arguments[24:64]), 0))
        if function == _DECIMALS:
            return words(self.decimals[token])
        raise PoolError("")

    def _ask_pool(self, block: Block, index: int, data: str) -> str:
        watched, pool = self.chain.watched[index], block.state.pools[index]
        function, argument = data[:10], signed(data[10:74]) if len(data) > 10 else 0
        if function in _OF_ANY_POOL:
            return words(int(getattr(watched, _OF_ANY_POOL[function]), 16))
        if isinstance(pool, ConstantProductPool):
            if function == _GET_RESERVES:
                return words(pool.reserve0, pool.reserve1, block.timestamp)
            raise PoolError("")
        return _ask_concentrated(pool, function, argument)


_BALANCE_OF, _DECIMALS, _GET_RESERVES = selector("balanceOf(address)"), selector("decimals()"), selector("getReserves()")
_SLOT0, _LIQUIDITY, _BITMAP = selector("slot0()"), selector("liquidity()"), selector("tickBitmap(int16)")
_TICKS, _FEE, _SPACING = selector("ticks(int24)"), selector("fee()"), selector("tickSpacing()")
_OF_ANY_POOL = {selector("token0()"): "token0", selector("token1()"): "token1"}


def _ask_concentrated(pool: ConcentratedPool, function: str, argument: int) -> str:
    if function == _SLOT0:
        return words(pool.sqrt_price_x96, pool.tick, 0, 1, 1, 0, 1)
    if function == _LIQUIDITY:
        return words(pool.liquidity)
    if function == _BITMAP:
        first = argument * 256 * pool.tick_spacing
        last = first + 256 * pool.tick_spacing
        return words(sum(1 << (tick - first) // pool.tick_spacing for tick in pool.ticks if first <= tick < last))
    if function == _TICKS:
        gross = pool.liquidity_gross.get(argument, 0)
        return words(gross, pool.ticks.get(argument, 0), 0, 0, 0, 0, 0, int(gross > 0))
    if function == _FEE:
        return words(pool.fee)
    if function == _SPACING:
        return words(pool.tick_spacing)
    raise PoolError("")


def header(block: Block) -> dict[str, Any]:
    """A block as ``eth_getBlockByNumber`` writes it."""
    return {
        "number": hex(block.number),
        "hash": block.hash,
        "parentHash": block.parent_hash,
        "timestamp": hex(block.timestamp),
        "baseFeePerGas": hex(block.base_fee_wei),
        "gasUsed": hex(block.gas_used),
        "gasLimit": hex(GAS_LIMIT),
        "logsBloom": f"0x{block.bloom:0512x}",
        "miner": _NO_ADDRESS,
        "transactions": [],
    }


def _told(transaction: Transaction, account: str) -> dict[str, Any]:
    return {
        "hash": transaction.hash,
        "from": account,
        "to": transaction.to,
        "nonce": hex(transaction.nonce),
        "gas": hex(transaction.gas_limit),
        "input": transaction.data,
        "maxFeePerGas": hex(transaction.max_fee_wei),
        "maxPriorityFeePerGas": hex(transaction.priority_fee_wei),
        "type": "0x2",
        "value": "0x0",
    }


class BlockMaker:
    """Mines a block every ``interval_s`` of simulated time and tells the node; ``before`` is called before each."""

    def __init__(self, node: SimulatedNode, interval_s: float, before: Callable[[int], None]) -> None:
        self.node, self.interval_s, self.before = node, interval_s, before
        self.made = 0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The first block comes after one interval."""
        self._handle = asyncio.get_running_loop().call_later(self.interval_s, self._make)

    def stop(self) -> None:
        """No more blocks."""
        if self._handle is not None:
            self._handle.cancel()

    def _make(self) -> None:
        self.start()
        self.made += 1
        self.before(self.made)
        self.node.chain.mine()
        self.node.tell()


__all__ = ["BlockMaker", "SimulatedClock", "SimulatedNode", "header"]
