"""The kill switch: a file. While it is there, nothing is sent, by this process or by the next one.

A signal and the status page engage it by writing the file; a person with a shell does so with ``touch``. It fails closed: a
place that cannot be looked into counts as killed.
"""

from __future__ import annotations

import os
from pathlib import Path

from arbgym.live.terms import LiveError


class KillSwitch:
    """Asked before each decision and again at the last moment before each send.

    ``path`` is the file; its folder must exist and be readable, otherwise the switch is engaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._path = os.fspath(self.path)
        self._folder = os.fspath(self.path.parent)
        self._engaged = False  # by ``engage`` where the file could not be written: a full disk must not keep orders going

    def engaged(self) -> bool:
        """Killed now. Two system calls, no reading."""
        if self._engaged:
            return True
        try:
            os.lstat(self._path)
        except FileNotFoundError:
            return not os.access(self._folder, os.R_OK | os.X_OK)
        except OSError:
            return True
        return True

    def engage(self, reason: str) -> None:
        """Kill, at once in this process and for good by the file.

        Raises LiveError where the file cannot be written: this process stays killed, the next one would not be.
        """
        self._engaged = True
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(reason.replace("\n", " ")[:500] + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            failed = f"kill switch {self._path}: {error.strerror}; engaged in this process only, a restart would release it"
        else:
            self._engaged = False  # the file says it from now on
            return
        raise LiveError(failed)

    def reason(self) -> str:
        """What the file says: the latest reason; empty where there is none to read."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace")[-2_000:].splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def release(self) -> None:
        """Remove the file. Raises LiveError where that fails: the switch stays engaged."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            failed = f"kill switch {self._path}: {error.strerror}; it stays engaged, accepted is a file that can be removed"
        else:
            self._engaged = False
            return
        raise LiveError(failed)
