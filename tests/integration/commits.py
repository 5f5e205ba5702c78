"""A seeded history of commits to a repository of specs: additions, removals, changes, renames,
rules, moves between files, reverts, merges, bursts; and some that are broken.

The model here is what the specs mean; the files are written from it, so that it is known of
every commit whether it is good, and of a broken one what must converge all the same.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.integration.host import network, tenant
from tests.source.repositories import Repo

BAD_SHARE = 0.15
TENANTS, VMS, NETWORKS = 4, 5, 3


@dataclass
class Vm:
    network: str
    vcpus: int = 1
    power: str = "running"
    label: str = "a"
    was: str = ""
    elsewhere: bool = False


@dataclass
class Tenant:
    networks: dict[str, set[str]] = field(default_factory=dict)  # name to whom it lets in
    vms: dict[str, Vm] = field(default_factory=dict)


Model = dict[str, Tenant]


def files_of(model: Model) -> dict[str, str]:
    """The texts of a model: a file per tenant, and one more for what was moved out of it."""
    texts = {}
    for owner, parts in model.items():
        text = tenant(owner)
        for name, sources in parts.networks.items():
            rules = [f"{{from: network/{owner}/{s}, protocol: tcp, ports: [80]}}"
                     for s in sorted(sources)]  # fmt: skip
            text += network(owner, name, f"ingress: [{', '.join(rules)}]" if rules else "")
        here = [name for name, entry in parts.vms.items() if not entry.elsewhere]
        texts[f"{owner}.yaml"] = text + "".join(vm_text(owner, n, parts.vms[n]) for n in here)
        there = [name for name, entry in parts.vms.items() if entry.elsewhere]
        if there:
            moved = "".join(vm_text(owner, name, parts.vms[name]) for name in there)
            texts[f"more/{owner}.yaml"] = moved
    return texts


def vm_text(owner: str, name: str, entry: Vm) -> str:
    was = f", renamedFrom: {entry.was}" if entry.was else ""
    return (
        "---\napiVersion: metald/v1\nkind: VM\n"
        f"metadata: {{name: {name}, tenant: {owner}, labels: {{app: {entry.label}}}{was}}}\n"
        f"spec: {{hypervisor: simulated, vcpus: {entry.vcpus}, power: {entry.power}, "
        f"interfaces: [{{network: {entry.network}}}]}}\n"
    )


@dataclass(frozen=True)
class Commit:
    """One state to wait for. ``arrived``: VMs that must be there although it is ``bad``."""

    hash: str
    subject: str
    bad: bool = False
    arrived: tuple[str, ...] = ()


class History:
    """Makes commits in ``repo``, all decided by ``draw``."""

    def __init__(self, repo: Repo, draw: random.Random) -> None:
        self.repo = repo
        self.draw = draw
        self.model: Model = {}
        self._number = 0
        self._before: Model | None = None  # of the last commit, when that can be reverted
        self._names: list[str] = []  # VMs given up, to be used again
        self._broken = self._was_broken = False  # by this commit, by the one before
        for _ in range(3):
            self._add_tenant()

    def first(self) -> Commit:
        return self._commit("three tenants")

    def next(self) -> Commit:
        """One more; of a burst or a merge the last."""
        drawn = self.draw.random()
        self._was_broken, self._broken = self._broken, drawn < BAD_SHARE
        if self._broken:
            return self._break()
        if drawn < BAD_SHARE + 0.05 and self._before is not None:
            return self._revert()
        if drawn < BAD_SHARE + 0.10 and len(self.model) > 1 and not self._was_broken:
            return self._merge()
        if drawn < BAD_SHARE + 0.14:
            for _ in range(self.draw.randint(1, 2)):
                self._step(self._some_tenant())
            return self._step(self._some_tenant())
        if drawn < BAD_SHARE + 0.17:
            return self._commit("nothing of the specs", "README.md", str(self._number))
        if drawn < BAD_SHARE + 0.22 and len(self.model) < TENANTS:
            name = self._add_tenant()
            return self._commit(f"tenant {name}")
        if drawn < BAD_SHARE + 0.27 and len(self.model) > 2:
            return self._remove_tenant()
        return self._step(self._some_tenant())

    # -- good ones --------------------------------------------------------------------------

    def _step(self, owner: str) -> Commit:
        """One change inside one tenant."""
        # What repaired a broken file would break it again when reverted.
        self._before = None if self._was_broken else copy.deepcopy(self.model)
        self._was_broken = False
        changes: list[Callable[[str, Tenant], str]] = [
            self._add_vm, self._add_vm, self._remove_vm, self._change_vm, self._rename_vm,
            self._move_vm, self._change_rule, self._add_network, self._remove_network,
        ]  # fmt: skip
        self.draw.shuffle(changes)
        subject = next(filter(None, (change(owner, self.model[owner]) for change in changes)))
        return self._commit(f"{owner}: {subject}")

    def _add_vm(self, owner: str, parts: Tenant) -> str:
        if len(parts.vms) >= VMS:
            return ""
        old = {entry.was for entry in parts.vms.values()}
        names = [n for n in self._names if n not in parts.vms and n not in old]
        name = self.draw.choice(names) if names and self.draw.random() < 0.4 else self._new("vm")
        parts.vms[name] = Vm(self._some(parts.networks), elsewhere=self.draw.random() < 0.3)
        return f"add {name}"

    def _remove_vm(self, owner: str, parts: Tenant) -> str:
        if not parts.vms:
            return ""
        name = self._some(parts.vms)
        del parts.vms[name]
        self._names.append(name)
        return f"remove {name}"

    def _change_vm(self, owner: str, parts: Tenant) -> str:
        if not parts.vms:
            return ""
        name = self._some(parts.vms)
        entry = parts.vms[name]
        match self.draw.choice(("vcpus", "power", "label", "network")):
            case "vcpus":
                entry.vcpus = 1 + entry.vcpus % 4
            case "power":
                others = {"running", "paused", "stopped"} - {entry.power}
                entry.power = self.draw.choice(sorted(others))
            case "label":
                entry.label = self._new("label")
            case _:
                others = parts.networks.keys() - {entry.network}
                if not others:
                    return ""  # what changes nothing cannot be reverted
                entry.network = self._some(others)
        entry.was = ""
        return f"change {name}"

    def _rename_vm(self, owner: str, parts: Tenant) -> str:
        if not parts.vms:
            return ""
        old, new = self._some(parts.vms), self._new("vm")
        parts.vms[new] = parts.vms.pop(old)
        parts.vms[new].was = old
        return f"rename {old} to {new}"

    def _move_vm(self, owner: str, parts: Tenant) -> str:
        if not parts.vms:
            return ""
        name = self._some(parts.vms)
        parts.vms[name].elsewhere = not parts.vms[name].elsewhere
        return f"move {name} to another file"

    def _change_rule(self, owner: str, parts: Tenant) -> str:
        if len(parts.networks) < 2:
            return ""
        target, source = self.draw.sample(sorted(parts.networks), 2)
        parts.networks[target] ^= {source}
        return f"{target} and {source}: a rule"

    def _add_network(self, owner: str, parts: Tenant) -> str:
        if len(parts.networks) >= NETWORKS:
            return ""
        name = self._new("net")
        parts.networks[name] = set()
        return f"add {name}"

    def _remove_network(self, owner: str, parts: Tenant) -> str:
        used = {entry.network for entry in parts.vms.values()}.union(*parts.networks.values())
        free = sorted(parts.networks.keys() - used)
        if not free or len(parts.networks) < 2:
            return ""
        name = self.draw.choice(free)
        del parts.networks[name]
        return f"remove {name}"

    def _add_tenant(self) -> str:
        self._before = None
        owner, name = self._new("t"), self._new("net")
        self.model[owner] = Tenant({name: set()}, {self._new("vm"): Vm(name)})
        return owner

    def _remove_tenant(self) -> Commit:
        small = [n for n, parts in self.model.items() if len(parts.vms) + len(parts.networks) < 3]
        if not small:
            return self._step(self._some_tenant())
        self._before = None
        name = self.draw.choice(small)
        del self.model[name]
        return self._commit(f"remove tenant {name}")

    def _revert(self) -> Commit:
        assert self._before is not None
        self.repo.git("revert", "--no-edit", "HEAD")
        self.model, self._before = self._before, None
        return Commit(self.repo.git("rev-parse", "HEAD"), "revert")

    def _merge(self) -> Commit:
        ours, theirs = self.draw.sample(sorted(self.model), 2)
        self.repo.git("switch", "--quiet", "--create", "side")
        before = copy.deepcopy(self.model)
        self._step(theirs)
        side, self.model = self.model[theirs], before
        self.repo.git("switch", "--quiet", "main")
        self._step(ours)
        self.repo.git("merge", "--quiet", "--no-edit", "--no-ff", "side")
        self.repo.git("branch", "--quiet", "--delete", "side")
        self.model[theirs] = side
        self._before = None
        return Commit(self.repo.git("rev-parse", "HEAD"), f"merge {theirs} into {ours}")

    # -- bad ones ---------------------------------------------------------------------------

    def _break(self) -> Commit:
        """One tenant's file is broken; another tenant has a new VM, which must come to be."""
        self._before = None
        broken, *others = self.draw.sample(sorted(self.model), len(self.model))
        arrived = []
        for owner in others[:1]:
            parts = self.model[owner]
            if subject := self._add_vm(owner, parts):
                arrived.append(f"vm/{owner}/{subject.removeprefix('add ')}")
        texts = files_of(self.model)
        name = f"{broken}.yaml"
        kind = self.draw.choice(("yaml", "reference", "conflict", "bytes", "twice", "key"))
        good = texts.pop(name).encode()
        wrong = {
            "yaml": good + b"---\nkind: [VM\n",
            "reference": good + vm_text(broken, "lost", Vm("nowhere")).encode(),
            "conflict": b"<<<<<<< HEAD\n" + good + b"=======\n" + good + b">>>>>>> side\n",
            "bytes": good + b"# caf\xe9\n",
            "twice": good + tenant(broken).encode(),
            "key": good + tenant(self._new("t"), "quotas: {vms: 1}").encode(),
        }[kind]
        self._write(texts)
        (self.repo.top / name).write_bytes(wrong)
        commit = self.repo.commit_all(f"broken: {kind} in {name}")
        return Commit(commit, f"broken: {kind} in {name}", bad=True, arrived=tuple(arrived))

    # -- helpers ----------------------------------------------------------------------------

    def _commit(self, subject: str, *beside: str) -> Commit:
        self._write(files_of(self.model))
        if beside:
            self._before = None
            self.repo.write(*beside)
        return Commit(self.repo.commit_all(subject), subject)

    def _write(self, texts: dict[str, str]) -> None:
        for file in self.repo.top.rglob("*.yaml"):
            if str(file.relative_to(self.repo.top)) not in texts:
                file.unlink()
        for name, text in texts.items():
            self.repo.write(name, text)

    def _some_tenant(self) -> str:
        return self._some(self.model)

    def _some(self, names: Iterable[str]) -> str:
        return self.draw.choice(sorted(names))

    def _new(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._number}"
