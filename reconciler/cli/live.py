"""The columns of a live display: what, how far, how long it has taken, how long it will take."""

from __future__ import annotations

from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text


class Count(ProgressColumn):
    """``3/12`` for all steps; nothing for one that runs."""

    def render(self, task: Task) -> Text:
        """See the class."""
        done = "" if task.total is None else f"{int(task.completed)}/{int(task.total)}"
        return Text(done, style="progress.download")


class Left(ProgressColumn):
    """``about 5 s left``: from the speed so far, or from what others of its kind took."""

    def render(self, task: Task) -> Text:
        """See the class."""
        left_s = task.time_remaining
        if task.total is None:
            expected_s = task.fields.get("expected_s")
            left_s = None if expected_s is None else expected_s - (task.elapsed or 0.0)
        known = left_s is not None and left_s > 0
        return Text(f"about {left_s:.0f} s left" if known else "", style="progress.remaining")


def columns() -> tuple[ProgressColumn, ...]:
    """In their order on the line. No markup: resource names are not ours."""
    what = TextColumn("{task.description}", markup=False)
    return what, BarColumn(bar_width=24), Count(), TimeElapsedColumn(), Left()
