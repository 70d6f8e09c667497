"""``python -m arbgym.live POLICY_DIR --config FILE``: run an exported policy on a chain. Dry-run unless ``--live`` is given.

    python -m arbgym.live runs/ppo_flash/.../policy --rpc ws://127.0.0.1:8545
    python -m arbgym.live runs/ppo_flash/.../policy --config live.toml --rpc ws://127.0.0.1:8545
    python -m arbgym.live runs/ppo_flash/.../policy --replay blocks.jsonl.gz
    python -m arbgym.live runs/ppo_flash/.../policy --config live.toml --live
    python -m arbgym.live --example > live.toml

Stops: Ctrl-C or SIGTERM end the run after the block at hand; SIGUSR1, the kill file or the status page stop all sending, also
after a restart.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # the imports take seconds: a kill meanwhile is held until it is known which file has to say so
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))

import argparse
import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from arbgym.live.assemble import Assembled, Options, assembled
from arbgym.live.kill import KillSwitch
from arbgym.live.logs import Redactor, log_loop_errors, start_logging
from arbgym.live.recording import read_header
from arbgym.live.runner import Stopped
from arbgym.live.settings import EXAMPLE, Settings, example, load
from arbgym.live.terms import LiveError, Unknown

REFUSED, STOPPED = 2, 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m arbgym.live",
        description="Run an exported policy on a chain: dry-run unless --live is given.",
        epilog="Exit status: 0 ended as told, 2 refused to start, 3 stopped because an operator has to look.",
    )
    add = parser.add_argument
    add("policy", type=Path, nargs="?", help="directory with policy.onnx and manifest.json")
    add(
        "--config", type=Path, help="settings, TOML (--example prints an annotated one; without: its pools, Ethereum's WETH/USDC)"
    )
    add("--rpc", help="the node: http(s):// or ws(s)://, in the place of chain.rpc")
    add("--live", action="store_true", help="sign and send; without it nothing leaves the process")
    add("--replay", type=Path, metavar="PATH", help="blocks recorded with --record, in the place of a node")
    add("--record", type=Path, metavar="PATH", help="write every block to a new file (.jsonl or .jsonl.gz)")
    add("--blocks", type=int, help="end after this many blocks")
    add("--backend", choices=("numpy", "onnxruntime"), default="numpy", help="who computes the network; both decide alike")
    add("--profile", choices=("conservative", "balanced", "aggressive"), help="risk profile, in the place of risk.profile")
    add("--journal", type=Path, help="in the place of journal.path; a dry run's file is named after it")
    add("--port", type=int, help="of the status page, in the place of status.port")
    add("--resume", metavar="REASON", help="set a gate that is HALTED or REDUCING going again: somebody looked")
    add("--confirm-limits", action="store_true", help="let limits that were loosened in the settings take effect")
    add("--terminal", action="store_true", help="show the status in this terminal; logs then want log.path")
    add("--example", action="store_true", help="print annotated settings and end")
    return parser


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, field, value in (
        ("chain", "rpc", arguments.rpc),
        ("risk", "profile", arguments.profile),
        ("journal", "path", arguments.journal),
        ("status", "port", arguments.port),
    ):
        if value is not None:
            found.setdefault(section, {})[field] = value
    if arguments.replay is not None and arguments.config is None:  # a recording says what was watched
        header = read_header(arguments.replay)
        found.setdefault("chain", {}).setdefault("rpc", "http://127.0.0.1:8545")
        found["chain"]["chain_id"] = header.chain_id
        found["pair"] = {"base": header.pools[0].base, "quote": header.pools[0].quote}
        found["lenders"] = {lender.name: lender.address for lender in header.lenders if lender.kind == "balance"}
        found["pools"] = [{"name": pool.name, "address": pool.address, "fee_ppm": pool.fee_ppm} for pool in header.pools]
    return found


class KillSignal:
    """SIGUSR1 engages the kill switch the moment it comes, whatever the process is at; until ``install`` it is held.

    It stays installed: a kill that comes while the process ends is for the next one.
    """

    def __init__(self, switch: KillSwitch) -> None:
        self._switch = switch
        self._loop: asyncio.AbstractEventLoop | None = None
        self._came = False
        self._unsaid: list[str] = []  # what became of each: a signal's handler cannot log, whatever it interrupts may be logging

    def install(self) -> None:
        """From now on."""
        signal.signal(signal.SIGUSR1, self._engage)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1,))

    def go_on_with(self, switch: KillSwitch, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the runner's own switch; what came before holds there even if the file could not be written."""
        self._switch, self._loop = switch, loop
        if self._came and not switch.engaged():
            self._engage(signal.SIGUSR1, None)
        self._say()

    def _engage(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        failed = ""
        try:
            self._switch.engage("SIGUSR1")
        except LiveError as error:
            failed = str(error)
        self._unsaid.append(failed)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._say)

    def _say(self) -> None:
        log = structlog.get_logger("arbgym.live")
        while self._unsaid:
            if failed := self._unsaid.pop(0):
                log.error("kill switch", reason=failed)
            log.warning("kill switch engaged", by="SIGUSR1")


async def _run(options: Options, redactor: Redactor, given: argparse.Namespace, on_kill: KillSignal) -> int:
    loop = asyncio.get_running_loop()
    log_loop_errors(loop)
    async with assembled(options, redactor) as made:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, made.runner.stop)
        on_kill.go_on_with(made.runner.parts.kill, loop)
        gate, log = made.runner.parts.gate, structlog.get_logger("arbgym.live")
        if given.confirm_limits:  # first: a limit that waits for it may be what refuses to resume
            log.warning("looser limits take effect", names=gate.confirm())
        if given.resume is not None:
            gate.resume(given.resume)
            log.warning("the gate was resumed", reason=given.resume)
        watchers = await _watchers(made, options.settings, redactor, given.terminal)
        try:
            return await made.runner.run(given.blocks)
        finally:
            for close in watchers:
                await close()


def _not_served(section: str, host: str, port: int, error: OSError) -> LiveError:
    """In the words of the settings; the system's own name neither the field nor the value."""
    number = error.errno or 0
    why = os.strerror(number).lower() if number > 0 else error.strerror or type(error).__name__
    if number <= 0 or number == errno.EADDRNOTAVAIL:
        return LiveError(f"{section}.host = {host!r}: {why}; accepted is an address of this machine")
    return LiveError(
        f"{section}.port = {port}: {why} at {host}; accepted is a free port (above 1023 for most users), or 0 for none"
    )


async def _watchers(made: Assembled, settings: Settings, redactor: Redactor, terminal: bool) -> list[Any]:
    """Start what shows the runner; returns what closes it again. Web server and terminal are imported only when asked for."""
    closing: list[Any] = []
    log = structlog.get_logger("arbgym.live")
    if settings.metrics.port:
        try:
            exporter = made.metrics.export(settings.metrics.port)
        except OSError as error:
            raise _not_served("metrics", "127.0.0.1", settings.metrics.port, error) from error

        async def close_exporter() -> None:
            exporter.close()

        closing.append(close_exporter)
        log.info("metrics", url=exporter.url)
    if settings.status.port:
        from arbgym.live.status import build_app, serve

        token = settings.status.control_token if settings.status.control_token.get_secret_value() else None
        app = build_app(made.control, token, made.metrics.registry, redactor, hosts=[settings.status.host])
        try:
            server = await serve(app, settings.status.host, settings.status.port)
        except OSError as error:
            raise _not_served("status", settings.status.host, settings.status.port, error) from error
        closing.append(server.close)
        log.info("status page", url=server.url, control=token is not None)
    if terminal:
        try:
            from arbgym.live.terminal import watch
        except ImportError as error:
            raise LiveError("--terminal needs rich: pip install 'arbgym[terminal]'") from error

        task = asyncio.create_task(watch(made.control, made.runner.parts.clock))

        async def end_terminal() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        closing.append(end_terminal)
    return closing


def main(given: Sequence[str] | None = None) -> int:
    """Run; the exit status."""
    parser = _parser()
    arguments = parser.parse_args(given)
    if arguments.example:
        print(example(), end="")
        return 0
    if arguments.policy is None:
        parser.error("a policy directory is missing; accepted is one with policy.onnx and manifest.json")
    if arguments.live and arguments.replay is not None:
        parser.error("--live and --replay: both are given; accepted is one of them")
    if arguments.blocks is not None and arguments.blocks < 1:
        parser.error(f"--blocks {arguments.blocks}: accepted is 1 or more")
    if arguments.resume is not None and not arguments.resume.strip():
        parser.error("--resume '': accepted is the reason in words; it goes into the log")
    redactor = Redactor()
    if arguments.rpc is not None:
        with contextlib.suppress(ValueError):  # no URL: the settings refuse it, without its text
            redactor.add_url(arguments.rpc)
    logging = None
    try:
        overrides = _overrides(arguments)
        # without a file: the example's pools, Ethereum's WETH/USDC
        settings = load(arguments.config or (None if arguments.replay else EXAMPLE), overrides)
        on_kill = KillSignal(KillSwitch(settings.risk.kill_file))
        on_kill.install()
        if arguments.terminal and settings.log.path is None:
            raise LiveError("log.path: none; accepted with --terminal is a file, the terminal is taken")
        try:
            logging = start_logging(redactor, level=settings.log.level, path=settings.log.path)
        except OSError as error:
            where = str(settings.log.path)
            raise LiveError(
                f"log.path = {where!r}: {error.strerror}; accepted is a file in a folder that can be written"
            ) from error
        options = Options(
            policy=arguments.policy,
            settings=settings,
            settings_file=arguments.config,
            overrides=overrides,
            live=arguments.live,
            replay=arguments.replay,
            record=arguments.record,
            backend=arguments.backend,
        )
        blocks = asyncio.run(_run(options, redactor, arguments, on_kill))
        structlog.get_logger("arbgym.live").info("ended", blocks=blocks)
    except Stopped as error:
        print(f"stopped: {redactor.text(str(error))}", file=sys.stderr)
        return STOPPED
    except Unknown as error:  # only from putting the runner together: who runs asks again
        told = error.detail if error.kind == "connection" else str(error)
        words = f"chain.rpc: {told}; accepted is the URL of a running node"
        print(f"refused: {redactor.text(words)}", file=sys.stderr)
        return REFUSED
    except (LiveError, OSError, ValueError) as error:
        print(f"refused: {redactor.text(str(error))}", file=sys.stderr)
        return REFUSED
    finally:
        if logging is not None:
            logging.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
