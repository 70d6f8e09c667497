"""A real EVM node on loopback: anvil, from the npm packages that ``make chain`` puts into .evm (ignored by git)."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any

MODULES = Path(__file__).resolve().parents[2] / ".evm" / "node_modules"
BINARY = MODULES / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"


# The newest states are kept, in memory; without a limit the node writes older ones to ~/.foundry/anvil and leaves them there.
KEPT_STATES = 256


class Anvil:
    """A node with funded, unlocked accounts that mines each transaction in a block of its own. ``kill`` ends it.

    What it writes lies in ``folder``, which goes with it.
    """

    def __init__(self, *options: str) -> None:
        command = [str(BINARY), "--host", "127.0.0.1", "--port", "0", "--chain-id", "31337"]
        self._folder = tempfile.TemporaryDirectory(prefix="arbgym-anvil-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        command += ["--prune-history", str(KEPT_STATES), "--cache-path", str(self.folder), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"Listening on (127\.0\.0\.1:\d+)", line):
                self.url = f"http://{found[1]}"
                break
        else:
            raise RuntimeError(f"anvil ended with {self._process.wait()} before it listened")
        # nobody reads on, so the pipe must not fill up
        self._reader = threading.Thread(target=self._process.stdout.read, daemon=True)
        self._reader.start()

    def call(self, method: str, *parameters: Any) -> Any:
        """One JSON-RPC request's result."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        return told["result"]

    @property
    def block_number(self) -> int:
        return int(self.call("eth_blockNumber"), 16)

    def mine(self, blocks: int = 1) -> None:
        """Empty blocks, one second apart."""
        self.call("anvil_mine", hex(blocks))

    def kill(self) -> None:
        """End the node at once."""
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5.0)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()
