"""What this kernel does of what policies need, found out by doing it: in a network namespace of its
own, by a process that goes with it. Once per boot and kernel; the state folder has what was found.

``network.trying`` tries, inside, and prints what did not work. Called by ``network.kernel`` and
``daemon.doctor``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from reconciler import commands
from reconciler.errors import MetaldError
from reconciler.files import write_atomic
from reconciler.model.features import FEATURES

TRYING: Final = "reconciler.network.trying"
_DEADLINE_S: Final = 30.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Features:
    """``record``: the file where it is kept what was found."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._lacking: Mapping[str, str] | None = None

    async def lacking(self) -> Mapping[str, str]:
        """What does not work here, by name, with why; nothing where it could not be tried: then the
        step that needs it will tell, and the next look tries again.
        """
        if self._lacking is None:
            self._lacking = self._known()
        if self._lacking is None:
            try:
                self._lacking = await probe()
            except MetaldError:
                return {}
            self._keep(self._lacking)
        return self._lacking

    def _known(self) -> Mapping[str, str] | None:
        try:
            found = json.loads(self._record.read_text(encoding="utf-8"))
            return dict(found["lacking"]) if found["of"] == _here() else None
        except (OSError, ValueError, TypeError, KeyError):
            return None  # not tried yet, or not by this version

    def _keep(self, lacking: Mapping[str, str]) -> None:
        if self._record.parent.is_dir():
            text = json.dumps({"of": _here(), "lacking": dict(lacking)})
            write_atomic(self._record, text, mode=0o600)


def _here() -> str:
    """This boot of this kernel, and what is tried of it."""
    try:
        tried = " ".join(sorted(FEATURES))
        return f"{os.uname().release} {tried} {_BOOT_ID.read_text(encoding='ascii').strip()}"
    except OSError:
        return os.uname().release


async def probe() -> Mapping[str, str]:
    """Try everything now. Raises MetaldError when it cannot be tried."""
    unshare = commands.require("unshare", package="util-linux")
    argv = [unshare, "--net", "--", sys.executable, "-m", TRYING]
    done = await commands.run_async(argv, timeout_s=_DEADLINE_S)
    try:
        found: dict[str, str] = json.loads(done.stdout)
    except ValueError as error:
        message = f"what this kernel does cannot be told: {done.stdout[:80]!r}"
        raise MetaldError(message) from error
    return found
