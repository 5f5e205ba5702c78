"""One seed: a host, a fleet and a daemon on it, and everything that happens to them.

Each step edits the specs, lets things happen to the host, and runs the engine once, with
calls that fail and a process that dies. In the end all goes well again, and one or two
applies must bring about what a fresh host would have.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from reconciler.errors import BugError, MetaldError, SpecError
from reconciler.execution.engine import FREELY, Engine, Request, Terms
from reconciler.execution.outcome import Outcome
from reconciler.execution.state.sqlite import SqliteReader, open_reader, open_store
from reconciler.model.addresses import kind_of
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Hold, Ledger, VmRecord
from reconciler.model.observed import VmState
from reconciler.model.plan import Plan
from reconciler.paths import StatePaths
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.planner import Scope
from tests.planning.world import World
from tests.simulation.acting import BY_HAND, Acting
from tests.simulation.faults import Faults, Killed
from tests.simulation.fleets import Specs
from tests.simulation.host import Host, Violation, require
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.parts import make_world
from tests.simulation.picture import picture
from tests.simulation.store import failing

SOURCE = SourceInfo("simulated")
SECRET = bytes(range(32))
DAY_S = 86_400.0
TAP_DRIFTS: tuple[dict[str, Any], ...] = (
    {"gateway": False},
    {"routes": frozenset({"fd99::1"})},
    {"neighbours": frozenset()},
    {"up": False},
    {"mac": "02:00:00:00:00:99"},
    {"alias": "metald ? ?"},
    {"attached": False},
)


def make_template(folder: Path) -> Path:
    """A state folder that was never used, whose key of identity is always the same."""
    paths = StatePaths(folder)
    open_store(paths, clock=lambda: 0.0).close()
    with closing(sqlite3.connect(paths.database)) as db, db:
        db.execute("UPDATE host SET secret = ?", (SECRET,))
    return folder


@dataclass
class Totals:
    """What a simulation went through."""

    passes: int = 0
    kills: int = 0
    errors: int = 0
    refused: int = 0
    actions: int = 0
    starts: int = 0

    def add(self, other: Totals) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Simulation:
    """``run`` plays it to its end; raises Violation, or whatever metald let through."""

    def __init__(self, seed: int, folder: Path, template: Path) -> None:
        self.rng = random.Random(seed)
        self.faults = Faults(self.rng)
        shutil.copytree(template, folder)
        self.paths = StatePaths(folder)
        self.host = Host(self.faults, self.on_record)
        self.specs = Specs(self.rng)
        self.totals = Totals()
        self.loop = VirtualLoop()
        self.loop.close()
        self.began_s = 1_800_000_000.0
        self.events = 0
        self.world = make_world(self.host)
        self.store = open_store(self.paths, clock=self.now_s)
        self.reader: SqliteReader = open_reader(self.paths)
        self._record: Ledger | None = None
        self.faults.meanwhile = self.something_ends
        self.acting = Acting(self)

    def now_s(self) -> float:
        return self.began_s + self.loop.time()

    def on_record(self) -> Ledger:
        """What would still be known if the process died now."""
        if self._record is None:
            self._record = self.reader.ledger(self.now_s())
        return self._record

    def close(self) -> None:
        self.reader.close()
        self.store.close()

    # -- one step ---------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        trouble = self.rng.choice((0.0, 0.02, 0.05, 0.15))
        deadly = self.rng.choice((0.0, 0.002, 0.01))
        if self.rng.random() < 0.5:
            self.host.invite_strangers(with_vm=self.rng.random() < 0.5)
        for number in range(steps):
            self.faults.trace(f"-- step {number}")
            self.faults.rate, self.faults.kill_rate = trouble, deadly
            if self.rng.random() < 0.5:
                self.faults.trace(f"edit: {self.specs.edit()}")
            while self.rng.random() < 0.4:
                self.something_happens()
            self.acting.act(self.request(self.specs.fleet(), BY_HAND))
            self.host.check()
        self.faults.quiet()
        self.converge()
        self.totals.actions = self.faults.trace.count
        self.totals.starts = self.host.starts

    def request(self, fleet: Fleet, scope: Scope) -> Request:
        return Request(fleet, SOURCE, scope)

    def apply_and_look(self, request: Request) -> None:
        """What is said to be complete must be so, unless something happened meanwhile."""
        before = self.events
        outcome = self.apply(request, "apply")
        if outcome is None or not outcome.is_complete or self.events != before:
            return
        self.faults.quiet()
        plan = self.plan(request)
        assert plan is not None
        if not any(recovery.verdict != "start" for recovery in plan.recoveries):
            require(plan.is_empty, f"said to be complete, and left is {plan}")

    def engine(self) -> Engine:
        def before(name: str, args: tuple[object, ...]) -> None:
            self._record = None
            if name == "retire":
                self.host.retiring(str(args[0]))
            if name == "record_vms":
                for record in cast(list[VmRecord], args[0]):
                    self.host.judging(record)

        self._record = None
        store = failing(self.store, self.faults, before)
        return Engine(
            self.world, store, parallelism=self.rng.randint(1, 4),
            clock=self.now_s, jitter=self.rng.random,
        )  # fmt: skip

    def apply(self, request: Request, what: str, terms: Terms = FREELY) -> Outcome | None:
        """One call of the engine; None when it failed or died."""
        self.totals.passes += 1
        self.host.wanted = None if request.scope.destroy else request.fleet
        self.faults.trace(what)
        engine = self.engine()
        self.loop = VirtualLoop()
        try:
            outcome = run(self.loop, engine.apply(request, on_progress=lambda _: None, terms=terms))
            how = "complete" if outcome.is_complete else f"left: {outcome.remaining}"
            self.faults.trace(f"{what}: {how}")
            return outcome
        except BugError as error:
            raise Violation(f"a bug by its own word: {error}") from error
        except MetaldError as error:
            self.totals.errors += 1
            self.faults.trace(f"{what} failed: {error}")
            return None
        except (Killed, BaseExceptionGroup):
            if not self.faults.killed:
                raise
            self.revive()
            return None
        finally:
            self._record = None
            self.began_s += self.loop.time() + self.rng.random()
            self.loop = VirtualLoop()
            self.loop.close()

    def revive(self) -> None:
        """A new process opens the state that the dead one left."""
        self.totals.kills += 1
        self.faults.killed = False
        self.store.close()
        self.store = open_store(self.paths, clock=self.now_s)
        self.host.seen.network = self.host.seen.vms = None

    def reboot_one(self) -> None:
        vms = [a for a in self.on_record().managed if kind_of(a) == "vm"]
        if not vms:
            return
        address = self.rng.choice(vms)
        self.host.rebooted = address
        engine = self.engine()
        self.faults.trace(f"metald reboot {address}")
        self.loop = VirtualLoop()
        try:
            run(self.loop, engine.reboot(address, on_progress=lambda _: None, source=SOURCE))
        except BugError as error:
            raise Violation(f"a bug by its own word: {error}") from error
        except MetaldError as error:
            self.faults.trace(f"reboot failed: {error}")
        except (Killed, BaseExceptionGroup):
            if not self.faults.killed:
                raise
            self.revive()
        finally:
            self.host.rebooted = None
            self._record = None
            self.began_s += self.loop.time() + self.rng.random()
            self.loop = VirtualLoop()
            self.loop.close()

    def hold_or_unhold(self) -> None:
        self._record = None
        holds = self.on_record().holds
        if holds:
            address = self.rng.choice(sorted(holds))
            self.faults.trace(f"unhold {address}")
            self.store.remove_hold(address)
        elif managed := list(self.on_record().managed):
            address = self.rng.choice(managed)
            self.faults.trace(f"hold {address}")
            self.store.add_hold(Hold(address, "op", "looking at it", self.now_s(), ""))
        self._record = None

    def only_look(self, request: Request) -> None:
        before = self.host.changes
        self.plan(request)
        require(self.host.changes == before, "a plan changed something")

    def plan(self, request: Request) -> Plan | None:
        self.faults.trace("plan")
        engine = self.engine()
        self.loop = VirtualLoop()
        try:
            return run(self.loop, engine.survey.plan(request))
        except MetaldError as error:
            self.faults.trace(f"plan failed: {error}")
            return None
        except (Killed, BaseExceptionGroup):
            if not self.faults.killed:
                raise
            self.revive()
            return None
        finally:
            self._record = None
            self.loop = VirtualLoop()
            self.loop.close()

    def refuse(self, request: Request) -> None:
        """A fleet that cannot be resolved here changes nothing."""
        before = self.host.changes
        outcome = self.apply(request, "apply broken specs")
        require(outcome is None, "specs that cannot be resolved were applied")
        require(self.host.changes == before, "specs that cannot be resolved changed something")
        self.totals.refused += 1

    # -- what happens to the host -------------------------------------------------------------

    def ours(self) -> list[str]:
        return sorted(
            uid for uid, state in self.host.vms.items()
            if isinstance(state, VmState) and uid not in self.host.strangers.vms
        )  # fmt: skip

    def our_taps(self) -> list[str]:
        return sorted(set(self.host.taps) - set(self.host.strangers.taps))

    def something_ends(self) -> None:
        """A VMM or its guest ends, or somebody deletes a link: at any moment."""
        self.events += 1
        uids, taps = self.ours(), self.our_taps()
        how = self.rng.choice(("dead", "off", "panicked", "tap"))
        if how == "tap" and taps:
            tap = self.rng.choice(taps)
            self.faults.trace(f"  others delete {tap}")
            self.host.lose_tap(tap)
        elif how != "tap" and uids:
            uid = self.rng.choice(uids)
            self.faults.trace(f"  {self.host.name(uid)} is {how}")
            if self.host.vms[uid].phase.value != "dead":  # type: ignore[union-attr]  # ours() filters
                self.host.end(uid, how)
                self.host.causes.setdefault(uid, set()).add(how)

    def something_happens(self) -> None:
        self.happen(self.rng.choice(
            ("ends", "ends", "ends", "address", "flush", "table", "rules", "sysctl", "reboot",
             "clock", "clock", "strangers")
        ))  # fmt: skip

    def happen(self, what: str) -> None:
        taps = self.our_taps()
        self.faults.trace(f"happens: {what}")
        match what:
            case "ends":
                self.something_ends()
            case "address" if taps:
                tap = self.rng.choice(taps)
                drift = self.rng.choice(TAP_DRIFTS)
                self.host.taps[tap] = replace(self.host.taps[tap], **drift)
            case "flush":
                self.host.flush_elements(self.rng.randint(1, 5))
            case "table":
                self.host.drop_table()
            case "rules" if self.host.listing is not None:
                self.host.listing = "edited by hand"
            case "sysctl":
                self.host.sysctls = dict.fromkeys(self.host.sysctls, "0")
            case "reboot" if self.rng.random() < 0.4:
                self.host.reboot()
            case "clock":
                self.began_s += self.rng.choice((60.0, 2 * DAY_S, -60.0, -3600.0, -3 * DAY_S))
            case "strangers" if self.rng.random() < 0.2:
                self.host.invite_strangers(with_vm=True)

    # -- the end ------------------------------------------------------------------------------

    def converge(self) -> None:
        """No more faults: what is declared comes about, as on a fresh host."""
        self.faults.trace("-- all goes well from here")
        for address in sorted(self.on_record().holds):
            self.store.remove_hold(address)
        self.specs.correct_all()
        self.settle()
        self.began_s += 1000
        passes = 0
        fleet = self.specs.fleet()
        for passes in range(1, 3):
            outcome = self.apply(Request(fleet, SOURCE, Scope(by_hand=True)), f"apply {passes}")
            if outcome is not None and outcome.is_complete:
                break
            self.began_s += 1000
        require(outcome is not None, "an apply fails though nothing is wrong")
        assert outcome is not None
        require(outcome.is_complete, f"left after {passes} applies: {outcome.remaining}")
        plan = self.plan(Request(fleet, SOURCE, Scope()))
        require(
            plan is not None and plan.is_empty,
            f"the next plan is not empty: {plan and (plan.recoveries, plan.changes, plan.blocked)}",
        )
        self.host.check()
        self.compare(fleet)
        self.destroy()

    def settle(self) -> None:
        """Let renames and exits of before come to their end, and start anew what ended."""
        first = self.apply(Request(self.specs.fleet(), SOURCE, Scope(by_hand=True)), "settle")
        if first is None:
            self.specs.forget_renames()
            self.apply(Request(self.specs.fleet(), SOURCE, Scope(by_hand=True)), "settle again")
        ledger = self.on_record()
        for managed in ledger.managed.values():
            record = ledger.vms.get(managed.uid)
            if record is not None and record.intent in {"completed", "failed"}:
                self.specs.start_anew(*managed.address.split("/")[1:])

    def compare(self, fleet: Fleet) -> None:
        fresh = World()
        fresh.apply(fleet)
        theirs = frozenset({*self.host.strangers.vms, *self.host.strangers.taps})
        mine = picture(self.host, self.on_record().managed, without=theirs)
        wanted = picture(fresh, fresh.managed, without=frozenset())
        for part, expected in wanted.items():
            require(
                mine[part] == expected,
                f"{part} differ from a fresh host's:\n{mine[part]}\n{expected}",
            )

    def destroy(self) -> None:
        """Everything goes, and what belongs to others stays."""
        request = Request(Fleet.of(()), SOURCE, Scope(destroy=True, by_hand=True))
        outcome = self.apply(request, "destroy")
        require(outcome is not None and outcome.is_complete, f"destroy leaves {outcome}")
        strangers = bool(self.host.strangers.taps)
        self.host.check()
        require(not (self.ours() or self.our_taps()), "destroy leaves VMs or taps")
        require(not self.on_record().managed, "destroy leaves resources on record")
        # Whose taps stay needs the rules and the forwarding as much as before.
        require(strangers or self.host.listing is None, "destroy leaves the rules")
        clean = set(self.host.sysctls.values()) == {"0"}
        require(strangers or clean, "destroy leaves sysctls as it set them")


__all__ = ["Simulation", "SpecError", "Totals", "Violation", "make_template"]
