"""Risk limits that follow their file while the runner runs: tighter ones at once, looser ones after a confirmation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arbgym.live.risk import RiskGate
from arbgym.live.settings import PREFIX, Settings, SettingsError, load


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of a changed settings file."""

    tightened: tuple[str, ...] = ()  # applied
    waiting: tuple[str, ...] = ()  # looser: apply with ``RiskGate.confirm``
    restart: tuple[str, ...] = ()  # other sections that changed: the next start takes them
    error: str = ""  # the file cannot be used: all is as it was


class LimitsFile:
    """Watches the settings file that ``settings`` were loaded from, with the same overrides and environment."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        gate: RiskGate,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._path, self._gate, self._overrides = Path(path), gate, overrides
        given = os.environ if environment is None else environment
        self._environment = {name: text for name, text in given.items() if name.upper().startswith(PREFIX)}  # no keys
        self._settings = settings
        self._seen: tuple[int, int, int] | None = None  # none: the file may have changed since it was loaded
        self._digest = b""

    def poll(self) -> Reloaded | None:
        """Look once: None where nothing changed. A file that cannot be used is told of once."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return None
            digest = hashlib.sha256(self._path.read_bytes()).digest()
        except OSError as error:
            return self._refused(b"missing", f"settings file: {error.strerror}; accepted is a TOML file that can be read")
        self._seen = seen
        if digest == self._digest:
            return None
        try:
            settings = load(self._path, self._overrides, self._environment)
        except SettingsError as error:
            return self._refused(digest, str(error))
        self._digest = digest
        return self._take(settings)

    def _refused(self, digest: bytes, why: str) -> Reloaded | None:
        if digest == self._digest:
            return None
        if digest == b"missing":
            self._seen = None
        self._digest = digest
        return Reloaded(error=why)

    def _take(self, settings: Settings) -> Reloaded | None:
        before, limits = self._settings, self._gate.limits
        names = [name for name in Settings.model_fields if name != "risk"]
        restart = tuple(name for name in names if getattr(settings, name) != getattr(before, name))
        for name in ("equity_eth", "kill_file"):
            if getattr(settings.risk, name) != getattr(before.risk, name):
                restart += (f"risk.{name}",)
        self._settings = settings
        waiting = self._gate.replace_limits(settings.limits)
        now = self._gate.limits
        tightened = tuple(name for name in limits.__slots__ if getattr(now, name) != getattr(limits, name))
        found = Reloaded(tightened, waiting, restart)
        return None if found == Reloaded() else found
