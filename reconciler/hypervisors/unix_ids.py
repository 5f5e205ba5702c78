"""Who else on this host has unix ids that VMs run under. Called by ``daemon.doctor``.

VMs draw theirs from a range of their own (``model.identity``), recorded before they are used. It is
clear of what distributions and systemd hand out by themselves (passwd(5), subuid(5), DynamicUser in
systemd.exec(5)), so only what a person put there can clash.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

PASSWD: Final = (Path("/etc/passwd"), Path("/etc/group"))
SUBORDINATE: Final = (Path("/etc/subuid"), Path("/etc/subgid"))
_ID, _FIRST, _COUNT = 2, 1, 2


def taken_ids(first: int, last: int) -> Iterator[str]:
    """What has an id from ``first`` to ``last``, in words. Lines that make no sense are passed."""
    for path in PASSWD:
        for words in _lines(path):
            if _number(words, _ID) in range(first, last + 1):
                yield f"{words[0]} of {path} ({words[_ID]})"
    for path in SUBORDINATE:
        for words in _lines(path):
            start, count = _number(words, _FIRST), _number(words, _COUNT)
            if start is not None and count and start <= last and start + count > first:
                yield f"{words[0]} of {path} ({start} to {start + count - 1})"


def _lines(path: Path) -> Iterator[list[str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    yield from (line.split(":") for line in text.splitlines())


def _number(words: list[str], at: int) -> int | None:
    return (
        int(words[at]) if len(words) > at and words[at].isascii() and words[at].isdigit() else None
    )
