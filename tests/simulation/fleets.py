"""Random fleets, and the edits an operator would make to them, all drawn from the seed."""

from __future__ import annotations

import copy
import random
from typing import Any

from reconciler.model.fleet import Fleet
from reconciler.planning.checks import check
from tests.planning.test_cases import fleet_of

Document = dict[str, Any]
TENANTS = ("acme", "beta")
NETWORKS = ("front", "back", "dmz")
VM_NAMES = ("a", "b", "c", "d", "e")
# Addresses that move between VMs of the one network whose prefix is declared.
STATIC_PREFIX = "fd20:acde:0:1::/64"
STATIC = tuple(f"fd20:acde:0:1::{number:x}" for number in range(16, 20))
MOST_VMS = 7


class Specs:
    """An operator's folder: documents that always make a valid fleet."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.made = 0
        self.documents: list[Document] = [
            self._document("Tenant", {"name": "acme"}, {"prefix": "fd20:acde::/48"}),
            self._document("Tenant", {"name": "beta"}, {}),
            self._document(
                "Network", {"name": "front", "tenant": "acme"}, {"prefix": STATIC_PREFIX}
            ),
            self._document("Network", {"name": "back", "tenant": "acme"}, {}),
            self._document("Network", {"name": "front", "tenant": "beta"}, {}),
        ]
        for _ in range(rng.randint(1, 4)):
            self.edit()

    @staticmethod
    def _document(kind: str, metadata: dict[str, Any], spec: dict[str, Any]) -> Document:
        return {"apiVersion": "metald/v1", "kind": kind, "metadata": metadata, "spec": spec}

    def fleet(self) -> Fleet:
        return fleet_of(self.documents)

    def broken(self) -> Fleet:
        """A fleet that is fine by itself, and that this host must refuse: not in the prefix."""
        documents = copy.deepcopy(self.documents)
        spec = {"hypervisor": "simulated", "interfaces": [
            {"network": "front", "address": "fd99::1"}]}  # fmt: skip
        owner = next(d["metadata"] for d in documents if d["kind"] == "Network"
                     and "prefix" not in d["spec"])  # fmt: skip
        spec["interfaces"][0]["network"] = owner["name"]  # type: ignore[index]  # built above
        meta = {"name": "wrong", "tenant": owner["tenant"]}
        return fleet_of([*documents, self._document("VM", meta, spec)])

    def edit(self) -> str:
        """One edit that leaves a valid fleet; gives its name."""
        edits = (
            self._add_vm, self._add_vm, self._remove_vm, self._change_vm, self._change_vm,
            self._change_vm, self._add_network, self._remove_network, self._change_rules,
            self._change_security, self._change_mode,
            self._rename_vm, self._rename_network, self._rename_tenant, self._move_address,
            self._move_address, self._move_address,
            self._relabel, self._set_mode,
        )  # fmt: skip
        for _ in range(20):
            before = copy.deepcopy(self.documents)
            chosen = self.rng.choice(edits)
            chosen()
            if self.documents != before and not any(
                finding.severity == "error" for finding in check(self.fleet())
            ):
                return chosen.__name__.lstrip("_").replace("_", " ")
            self.documents = before
        return "nothing"

    def of_kind(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def _any(self, kind: str) -> Document | None:
        found = self.of_kind(kind)
        return self.rng.choice(found) if found else None

    def _interfaces(self, tenant: str) -> list[dict[str, Any]]:
        names = [
            d["metadata"]["name"] for d in self.of_kind("Network")
            if d["metadata"]["tenant"] == tenant
        ]  # fmt: skip
        chosen = self.rng.sample(names, min(len(names), self.rng.randint(0, 2)))
        return [self._interface(tenant, name) for name in chosen]

    def _interface(self, tenant: str, network: str) -> dict[str, Any]:
        prefixed = any(
            d["metadata"] == {**d["metadata"], "name": network, "tenant": tenant}
            and "prefix" in d["spec"]
            for d in self.of_kind("Network")
        )
        if prefixed and self.rng.random() < 0.6:
            return {"network": network, "address": self.rng.choice(STATIC)}
        return {"network": network}

    def _add_vm(self) -> None:
        if len(self.of_kind("VM")) >= MOST_VMS:
            return
        tenant = self.rng.choice(self.of_kind("Tenant"))["metadata"]["name"]
        name = self.rng.choice(VM_NAMES)
        meta = {"name": name, "tenant": tenant}
        if any(d["metadata"] == {**d["metadata"], **meta} for d in self.of_kind("VM")):
            return
        spec: dict[str, Any] = {
            "hypervisor": self.rng.choice(("qemu", "qemu", "simulated")),
            "power": self.rng.choice(("running", "running", "paused", "stopped")),
            "restart": self.rng.choice(("always", "on-failure", "never")),
            "interfaces": self._interfaces(tenant),
            "boot": {"image": "minimal"},
        }
        self.made += 1
        labels = {"labels": {"id": str(self.made)}}
        self.documents.append(self._document("VM", meta | labels, spec))

    def _remove_vm(self) -> None:
        if (vm := self._any("VM")) is not None:
            self.documents.remove(vm)

    def _change_vm(self) -> None:
        vm = self._any("VM")
        if vm is None:
            return
        spec, rng = vm["spec"], self.rng
        match rng.choice(("memory", "vcpus", "power", "restart", "interfaces", "hypervisor")):
            case "memory":
                spec["memory"] = rng.choice(("256Mi", "512Mi", "1Gi"))
            case "vcpus":
                spec["vcpus"] = rng.randint(1, 4)
            case "power":
                spec["power"] = rng.choice(("running", "paused", "stopped"))
            case "restart":
                spec["restart"] = rng.choice(("always", "on-failure", "never"))
            case "interfaces":
                spec["interfaces"] = self._interfaces(vm["metadata"]["tenant"])
            case "hypervisor":
                spec["hypervisor"] = rng.choice(("qemu", "simulated"))

    def _relabel(self) -> None:
        if (document := self._any(self.rng.choice(("VM", "Network", "Tenant")))) is not None:
            labels = document["metadata"].setdefault("labels", {})
            labels["edit"] = str(self.rng.randrange(1000))

    def _set_mode(self) -> None:
        """Only report on it, or freeze it for a while, or correct it again."""
        document = self._any(self.rng.choice(("VM", "VM", "Network", "Tenant")))
        if document is None:
            return
        meta = document["metadata"]
        if meta.pop("reconcile", None) is None:
            until = {"until": self.rng.choice(("2027-01-17T00:00:00Z", "2999-01-01T00:00:00Z"))}
            freeze = {"mode": "freeze", "owner": "op", "reason": "looking at it", **until}
            meta["reconcile"] = self.rng.choice(("report", freeze))

    def _add_network(self) -> None:
        tenant = self.rng.choice(self.of_kind("Tenant"))["metadata"]["name"]
        meta = {"name": self.rng.choice(NETWORKS), "tenant": tenant}
        if not any(d["metadata"] == {**d["metadata"], **meta} for d in self.of_kind("Network")):
            self.documents.append(self._document("Network", meta, {}))

    def _remove_network(self) -> None:
        """With every interface in it."""
        network = self._any("Network")
        if network is None or "prefix" in network["spec"] or len(self.of_kind("Network")) < 3:
            return
        meta = network["metadata"]
        self.documents.remove(network)
        for vm in self.of_kind("VM"):
            if vm["metadata"]["tenant"] == meta["tenant"]:
                vm["spec"]["interfaces"] = [
                    e for e in vm["spec"]["interfaces"] if e["network"] != meta["name"]
                ]

    def _change_security(self) -> None:
        if (network := self._any("Network")) is not None:
            network["spec"]["security"] = self.rng.choice(("high", "medium", "low"))

    def _change_mode(self) -> None:
        if (network := self._any("Network")) is not None:
            spec = network["spec"]
            spec["mode"] = "routed" if spec.get("mode") == "bridged" else "bridged"

    def _change_rules(self) -> None:
        target = self._any("Network")
        source = self._any("Network")
        if target is None or source is None or target is source:
            return
        meta = source["metadata"]
        rule: dict[str, Any] = {"from": f"network/{meta['tenant']}/{meta['name']}"}
        if self.rng.random() < 0.7:
            rule |= {"protocol": "tcp", "ports": self.rng.choice(([443], [80, "8000-8010"]))}
        target["spec"]["ingress"] = [] if target["spec"].get("ingress") else [rule]

    def _rename_vm(self) -> None:
        if (vm := self._any("VM")) is not None:
            self._rename(vm, self.rng.choice(VM_NAMES))

    def _rename(self, document: Document, name: str) -> None:
        meta = document["metadata"]
        meta["renamedFrom"], meta["name"] = meta["name"], name
        same = [d for d in self.of_kind(document["kind"])
                if d["metadata"]["name"] == name
                and d["metadata"].get("tenant") == meta.get("tenant")]  # fmt: skip
        if len(same) > 1 or meta["renamedFrom"] == name:
            meta["name"] = meta.pop("renamedFrom")

    def _rename_network(self) -> None:
        network = self._any("Network")
        if network is None:
            return
        tenant, old = network["metadata"]["tenant"], network["metadata"]["name"]
        self._rename(network, self.rng.choice(NETWORKS))
        for vm in self.of_kind("VM"):
            for interface in vm["spec"]["interfaces"]:
                if vm["metadata"]["tenant"] == tenant and interface["network"] == old:
                    interface["network"] = network["metadata"]["name"]
        self._repoint(f"network/{tenant}/{old}", f"network/{tenant}/{network['metadata']['name']}")

    def _repoint(self, old: str, new: str) -> None:
        for network in self.of_kind("Network"):
            for rule in network["spec"].get("ingress", ()):
                if rule["from"] == old:
                    rule["from"] = new

    def _rename_tenant(self) -> None:
        tenant = self._any("Tenant")
        if tenant is None:
            return
        old = tenant["metadata"]["name"]
        self._rename(tenant, self.rng.choice((*TENANTS, "gamma")))
        new = tenant["metadata"]["name"]
        for document in self.documents:
            if document["metadata"].get("tenant") == old:
                document["metadata"]["tenant"] = new
        for network in self.of_kind("Network"):
            name = network["metadata"]["name"]
            self._repoint(f"network/{old}/{name}", f"network/{new}/{name}")

    def _move_address(self) -> None:
        """From one VM to another, or the two trade theirs."""
        static = [
            e for vm in self.of_kind("VM") for e in vm["spec"]["interfaces"] if "address" in e
        ]  # fmt: skip
        if len(static) >= 2:
            one, other = self.rng.sample(static, 2)
            one["address"], other["address"] = other["address"], one["address"]
            if self.rng.random() < 0.5:
                other["address"] = self.rng.choice(STATIC)
        elif static:
            static[0]["address"] = self.rng.choice(STATIC)

    def correct_all(self) -> None:
        """Nothing is only reported on or frozen any more."""
        for document in self.documents:
            document["metadata"].pop("reconcile", None)

    def forget_renames(self) -> None:
        """The renames are done, or never will be."""
        for document in self.documents:
            document["metadata"].pop("renamedFrom", None)

    def start_anew(self, tenant: str, name: str) -> None:
        """Change a VM's spec, so that one that ended for good starts again."""
        for vm in self.of_kind("VM"):
            if vm["metadata"]["tenant"] == tenant and vm["metadata"]["name"] == name:
                vm["spec"]["vcpus"] = vm["spec"].get("vcpus", 1) + 1
