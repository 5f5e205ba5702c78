"""The garbage collector waits while data is built that has no cycles.

Documents, ledgers and plans of thousands of VMs are many objects at once, none of them in a
cycle; looking for cycles among them again and again would cost more than building them.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

# What counts as old is looked at by us alone: the interpreter looks when enough has grown old by
# its own collections, and here none does. A daemon would keep the garbage of all its passes.
_PAUSES_BETWEEN_LOOKS: Final = 64
_pauses = count(1)


@contextmanager
def paused() -> Iterator[None]:
    """No collection inside; what was built counts as old, so that none comes right after either,
    but for every so many times.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()  # moves all there is out of the young generations, looking at nothing,
            gc.unfreeze()  # and this into the oldest
            gc.enable()
            if next(_pauses) % _PAUSES_BETWEEN_LOOKS == 0:
                gc.collect()


def off() -> None:
    """No collection until this process ends, soon, nor at its end: for commands that look once."""
    gc.disable()
    atexit.register(gc.freeze)
