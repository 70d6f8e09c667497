"""A node's JSON-RPC over HTTP (web3's provider): rate-limited, retried, with errors that say what to do about them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from arbgym.data.sources.base import Patience
from arbgym.market.tape import TapeError

try:
    import requests
    from web3 import HTTPProvider
    from web3.exceptions import Web3RPCError
    from web3.types import RPCEndpoint
except ImportError as error:
    raise ImportError('an EVM node needs web3: pip install "arbgym[node]"') from error

_BATCH = 50  # requests in one HTTP post
_SLOW_DOWN = re.compile(
    r"rate.?limit|too many requests|request (count|limit)|compute units|throttl|exceeded.*(second|quota)", re.I
)

Call = tuple[str, list[Any]]


class NodeError(TapeError):
    """The node answered a request with an error: ``code`` and its own words."""

    def __init__(self, method: str, code: int, message: str, location: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{method}: {message} (code {code})", path=location)


class TooWide(TapeError):
    """The node refused a range of blocks, or did not answer in time; a narrower one may do."""


class Node:
    """A node at ``url``. ``requests_per_second``: at most (0: no limit); ``patience_s``: how long to wait for a node that
    went away or asks for a rest; ``timeout_s``: of one request. Raises TapeError where there is no node at first, SourceLost
    later.
    """

    def __init__(self, url: str, requests_per_second: float = 0.0, patience_s: float = 60.0, timeout_s: float = 30.0) -> None:
        if not requests_per_second >= 0.0:
            raise TapeError(f"requests_per_second = {requests_per_second}; accepted is 0 or more", path=url)
        if urlsplit(url).scheme not in ("http", "https"):
            raise TapeError("accepted is the address of a node, http://... or https://...", path=url)
        host = urlsplit(url)
        self.location = f"{host.scheme}://{host.netloc.rsplit('@', 1)[-1]}"  # paths often hold a key
        self._provider = HTTPProvider(url, request_kwargs={"timeout": timeout_s}, exception_retry_configuration=None)
        self._interval = 1.0 / requests_per_second if requests_per_second else 0.0
        self._patience_s = patience_s
        self._next = 0.0
        self._reached = False
        self.requests = 0
        self.chain_id = int(self.call("eth_chainId"), 16)

    def call(self, method: str, *parameters: Any) -> Any:
        """One request's result. Raises NodeError for an error that the node answers with."""
        return self._retried([(method, list(parameters))])[0]

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """The results of several requests, in their order; few HTTP posts."""
        return [result for k in range(0, len(calls), _BATCH) for result in self._retried(list(calls[k : k + _BATCH]))]

    def block_number(self) -> int:
        """The newest block's number."""
        return int(self.call("eth_blockNumber"), 16)

    def headers(self, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Blocks by number, without their transactions' bodies; those that the node does not have are missing."""
        found = self.batch([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
        return {int(block["number"], 16): block for block in found if block is not None}

    def logs(self, first: int, last: int, addresses: Sequence[str], topics: Sequence[Any]) -> list[dict[str, Any]]:
        """The logs of blocks ``first`` to ``last``. Raises TooWide where fewer blocks at a time may do."""
        asked = {"fromBlock": hex(first), "toBlock": hex(last), "address": list(addresses), "topics": list(topics)}
        try:
            found: list[dict[str, Any]] = self._retried([("eth_getLogs", [asked])], give_up_slow=last > first)[0]
        except NodeError as error:
            if last > first:
                raise TooWide(error.rule, path=self.location) from error
            raise
        return [log for log in found if not log.get("removed")]

    def _retried(self, calls: list[Call], give_up_slow: bool = False) -> list[Any]:
        patience = Patience(self._patience_s, self.location)
        while True:
            self._wait_for_turn(len(calls))
            try:
                answers = self._post(calls)
                self._reached = True
            except requests.HTTPError as error:
                status = 0 if error.response is None else error.response.status_code
                if give_up_slow and status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                    raise TooWide(str(error), path=self.location) from error
                if status != HTTPStatus.TOO_MANY_REQUESTS and status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise TapeError(f"refused with HTTP status {status}", path=self.location) from error
                patience.wait(error)
                continue
            except requests.Timeout as error:
                if give_up_slow and self._reached:
                    raise TooWide(f"no answer in time ({error})", path=self.location) from error
                patience.wait(error)
                continue
            except (requests.RequestException, ConnectionError, ValueError) as error:
                if not self._reached:
                    raise TapeError(f"no node answers ({error})", path=self.location) from error
                patience.wait(error)
                continue
            refused = next((answer["error"] for answer in answers if "error" in answer), None)
            if refused is None:
                return [answer["result"] for answer in answers]
            code, message = int(refused.get("code", 0)), str(refused.get("message", refused))
            error_said = NodeError(calls[0][0], code, message, self.location)
            if code != HTTPStatus.TOO_MANY_REQUESTS and not _SLOW_DOWN.search(message):
                raise error_said
            patience.wait(error_said)

    def _post(self, calls: list[Call]) -> list[dict[str, Any]]:
        self.requests += len(calls)
        if len(calls) == 1:
            return [dict(self._provider.make_request(RPCEndpoint(calls[0][0]), calls[0][1]))]
        try:
            answer = self._provider.make_batch_request([(RPCEndpoint(method), parameters) for method, parameters in calls])
        except Web3RPCError as error:
            return [{"error": {"code": 0, "message": str(error)}}]
        if isinstance(answer, list) and len(answer) == len(calls):
            return [dict(one) for one in answer]
        # a node that takes no batches, or not this many: one by one
        return [dict(self._provider.make_request(RPCEndpoint(method), parameters)) for method, parameters in calls]

    def _wait_for_turn(self, count: int) -> None:
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + count * self._interval
