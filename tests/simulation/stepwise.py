"""A simulation to which only what a test says happens, and whose process dies where it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reconciler.daemon.confirming import Confirming
from reconciler.daemon.holding import close_interrupted_runs
from reconciler.errors import MetaldError
from reconciler.execution.state.store import Reader
from reconciler.model.times import Moment
from tests.simulation.faults import Faults, Killed
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.simulation import Simulation


class Cut(Faults):
    """Dies right after a certain number of writes to the state, else never."""

    writes_left: int | None = None

    def point(self, what: str) -> None:
        if self.killed:
            raise Killed
        name = what.removeprefix("after store.")
        if self.writes_left is None or name == what or hasattr(Reader, name):
            return
        self.writes_left -= 1
        if self.writes_left < 0:
            self.killed = True
            raise Killed


class Stepwise(Simulation):
    """``boot_s`` runs with the simulated time; ``clock_off_s`` is how far the wall clock is off."""

    def __init__(self, folder: Path, template: Path) -> None:
        super().__init__(0, folder, template)
        self.faults.__class__ = Cut
        self.boot_s = 1000.0
        self.timekeepers = 0

    @property
    def cut(self) -> Cut:
        assert isinstance(self.faults, Cut)
        return self.faults

    def moment(self) -> Moment:
        return Moment(self.now_s(), self.boot_s + self.loop.time(), self.host.boot_id)

    def pass_time(self, seconds: float) -> None:
        """By both clocks."""
        self.began_s += seconds
        self.boot_s += seconds

    def confirming(self) -> Confirming:
        def keep_time() -> None:
            self.timekeepers += 1

        return Confirming(self.engine(), self.store, keep_time, self.moment)

    def revive(self) -> None:
        """As `daemon.holding.hold` starts: what was cut off is closed and told."""
        super().revive()
        open_runs = self.store.unfinished_runs()
        told = close_interrupted_runs(self.store)
        assert len(told) == len(open_runs)
        assert self.store.unfinished_runs() == ()

    def work(self, act: Callable[[], Any]) -> Any:
        """Run a coroutine of metald's to its end, to its error, or to its death (None)."""
        self.loop = VirtualLoop()
        try:
            return run(self.loop, act())
        except MetaldError as error:
            return error
        except (Killed, BaseExceptionGroup):
            if not self.faults.killed:
                raise
            self.revive()
            return None
        finally:
            self.cut.writes_left = None
            self._record = None
            self.pass_time(self.loop.time() + 1)
            self.loop = VirtualLoop()
            self.loop.close()
