"""Live progress of an apply: a bar and what runs now on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from reconciler.cli.plan_text import show_plan
from reconciler.cli.text import safe

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_STEP_WORDS = {
    "SetSysctls": "set host sysctls",
    "RestoreSysctls": "restore host sysctls",
    "LoadFirewall": "load firewall rules",
    "RemoveFirewall": "remove firewall rules",
    "ChangeElements": "firewall entries",
    "RaiseTap": "interface up",
    "AttachTap": "reattach interface",
    "RemoveTap": "interface removed",
    "StartVm": "started",
    "StopVm": "stopped",
    "SetPower": "power set",
    "Retire": "retired",
    "Verdict": "verdict recorded",
}
_QUIET = frozenset({"ChangeElements", "Retire"})
_ROWS = 10
_STOPPING = "stopping: what runs is finished, nothing more is begun; Ctrl-C again leaves at once"


class Reporter:
    """Hears an operation's events; a context manager, because a terminal's display has an end.

    ``show``: the plan has not been shown yet.
    """

    def __init__(self, *, as_json: bool, verbose: bool, show: bool) -> None:
        self.as_json = as_json
        self._verbose = verbose
        self._show = show
        self._began: dict[str, float] = {}
        self._took: dict[str, tuple[float, int]] = {}
        self._live: Progress | None = None
        self._total: TaskID | None = None
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Begin; the display itself begins with the plan."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the display, also when the apply failed."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """One event of the operation."""
        if event["event"] == "resuming":
            for line in event["lines"]:
                click.echo(f"resuming: {safe(line)}", err=self.as_json)
        if event["event"] == "stopping":
            self._print(_STOPPING, err=self.as_json)
        if self.as_json:
            return
        match event["event"]:
            case "plan":
                if self._show:
                    show_plan(event["plan"], verbose=self._verbose)
                self._begin(event["plan"])
            case "step":
                self._step(event)

    def _begin(self, plan: Mapping[str, Any]) -> None:
        steps = plan.get("steps", 0)
        if not sys.stdout.isatty() or not steps:
            return
        # rich takes 60 ms to import: only where there is something live to see.
        from rich.progress import Progress  # noqa: PLC0415

        from reconciler.cli.live import columns  # noqa: PLC0415

        self._live = Progress(*columns(), transient=True)
        self._total = self._live.add_task("steps", total=steps)
        self._live.start()

    def _step(self, event: Mapping[str, Any]) -> None:
        key, word = event["key"], _STEP_WORDS.get(event["operation"], event["operation"])
        if event["state"] == "started":
            self._began[key] = time.monotonic()
            self._run(key, event, word)
            return
        self._learn(event)
        self._advance(key)
        line = self._line(event, word)
        if line:
            self._print(line)

    def _run(self, key: str, event: Mapping[str, Any], word: str) -> None:
        """A row for what runs now; a batch of hundreds shows the first few."""
        if self._live is None or event["operation"] in _QUIET or len(self._running) >= _ROWS:
            return
        known = self._took.get(event["operation"])
        expected_s = None if known is None else known[0] / known[1]
        title = f"  {safe(event['resource'])}: {word} …"
        self._running[key] = self._live.add_task(title, total=None, expected_s=expected_s)

    def _learn(self, event: Mapping[str, Any]) -> None:
        """How long steps of a kind take: what the next of them will take, about."""
        if event["state"] == "done" and event["key"] in self._began:
            seconds, count = self._took.get(event["operation"], (0.0, 0))
            took = time.monotonic() - self._began[event["key"]]
            self._took[event["operation"]] = (seconds + took, count + 1)

    def _advance(self, key: str) -> None:
        if self._live is None or self._total is None:
            return
        self._live.advance(self._total)
        task = self._running.pop(key, None)
        if task is not None:
            self._live.remove_task(task)

    def _print(self, line: str, *, err: bool = False) -> None:
        if self._live is None:
            click.echo(line, err=err)
        else:
            from rich.text import Text  # noqa: PLC0415

            self._live.console.print(Text.from_ansi(line))

    def _line(self, event: Mapping[str, Any], word: str) -> str:
        resource = safe(event["resource"])
        if event["state"] == "done":
            if not self._verbose and event["operation"] in _QUIET:
                return ""
            took = time.monotonic() - self._began.get(event["key"], time.monotonic())
            return f"  {click.style('✓', fg='green')} {resource}: {word} ({took:.1f} s)"
        mark = click.style("✗", fg="red")
        return f"  {mark} {resource}: {word}: {event['state']}: {safe(event['error'])}"
