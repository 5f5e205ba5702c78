"""How figures are taken and told: each beside the floor it is compared with, in the same run.

Used by every test of this folder. Ratios are printed, never asserted: the machine is shared.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import time
from collections.abc import Callable

ROUNDS = 7


def timed(body: Callable[[], object]) -> float:
    """Seconds of wall clock that ``body`` took."""
    started = time.perf_counter()
    body()
    return time.perf_counter() - started


def busy(body: Callable[[], object]) -> float:
    """Seconds of CPU that ``body`` took, in this process and those it waited for.

    For what does nothing but compute: others on the machine change it little.
    """
    before = _cpu_s()
    body()
    return _cpu_s() - before


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(entry.ru_utime + entry.ru_stime for entry in used)


def paired(
    figure: Callable[[], object],
    floor: Callable[[], object],
    rounds: int = ROUNDS,
    *,
    measure: Callable[[Callable[[], object]], float] = timed,
) -> tuple[float, float]:
    """Median seconds of the figure and of its floor, taken in turns: both meet the same weather.

    ``measure``: ``timed``, or ``busy``.
    """
    pairs = [(measure(figure), measure(floor)) for _ in range(rounds)]
    figures, floors = zip(*pairs, strict=True)
    return statistics.median(figures), statistics.median(floors)


def report(what: str, figure_s: float, floor: str, floor_s: float, goal: str) -> None:
    """Print one row: the figure, the floor's name and time, their ratio, the goal, and whether it
    is met. ``goal``: a bound of the ratio, like ``<= 1.5``, or words.
    """
    ratio = figure_s / floor_s
    row = f"{what}: {figure_s:.4g} s; {floor}: {floor_s:.4g} s; ratio {ratio:.3g}"
    print(f"\n{row} ({verdict(ratio, goal)})")


def verdict(found: float, goal: str) -> str:
    """``goal <= 1.5: met``, or ``NOT MET``; words are said as they are."""
    if not goal.startswith("<= "):
        return goal
    return f"goal {goal}: {'met' if found <= float(goal.removeprefix('<= ')) else 'NOT MET'}"


def command(*words: str) -> Callable[[], object]:
    """A body for ``timed``: the command, run to its end. Raises when it fails."""
    return lambda: subprocess.run(words, check=True, capture_output=True, timeout=600)
