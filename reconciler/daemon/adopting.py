"""`adopt`: the look before an operator agrees, and the operation of the lock holder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconciler.daemon.replies import Arguments, addresses
from reconciler.daemon.wire import Reply
from reconciler.errors import EXIT_DONE, EXIT_PARTIAL, BugError, RefusedError
from reconciler.execution.adopting import document, look, refuse_stale, write_and_record
from reconciler.execution.copies import Copies
from reconciler.execution.engine import Engine, Survey


def watched(name: str) -> RefusedError:
    """A daemon would destroy in its next pass what its own source does not declare."""
    return RefusedError(
        f"a daemon keeps {name} applied, and would remove what that does not declare",
        hint="stop the daemon, adopt, add the written specs to its source, start it again",
    )


async def preview(survey: Survey, copies: Copies, arguments: Arguments) -> Mapping[str, Any]:
    """The document of what would be adopted; nothing is written or recorded."""
    looked = await look(survey, copies, addresses(arguments, "only"))
    return document(looked, Path(arguments["out"]), run=0, files=[])


async def carry_out(engine: Engine, arguments: Arguments) -> Reply:
    """Write the specs to ``out`` and record all that can be adopted.

    RefusedError when nothing that was found can be, or something moved since it was agreed to.
    """
    if engine.copies is None:
        raise BugError("adopting needs the copies of the record")
    looked = await look(engine.survey, engine.copies, addresses(arguments, "only"))
    adoption = looked.adoption
    refuse_stale(adoption, str(arguments.get("expectId") or ""))
    out = Path(arguments["out"])
    if not adoption.documents:
        if adoption.left:
            first = adoption.left[0]
            raise RefusedError(f"nothing can be adopted: {first.reason}", subject=first.subject,
                               hint="metald adopt without --yes shows all of it")  # fmt: skip
        return Reply(document(looked, out, run=0, files=[]), EXIT_DONE)
    made = await asyncio.to_thread(
        write_and_record, looked, out, engine.store, engine.copies, now_s=time.time()
    )
    return Reply(made, EXIT_PARTIAL if adoption.left else EXIT_DONE)
