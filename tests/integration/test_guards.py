"""Guards: what may not be destroyed, and how a person goes past it."""

from __future__ import annotations

import signal

import pytest

from tests.integration.host import SIMULATED, Host, network, tenant, vm

pytestmark = [pytest.mark.netns]
SAFE = vm("acme", "safe", SIMULATED + ", protect: true")


def fleet(count: int) -> str:
    vms = "".join(vm("acme", f"sim-{index}", SIMULATED) for index in range(count))
    return tenant("acme") + network("acme", "lan") + vms


def apply(host: Host, text: str, *words: str, expect: int = 0) -> str:
    host.write("fleet.yaml", text)
    done = host.run("apply", str(host.specs), "--yes", *words, expect=expect)
    return str(done.stderr)


def refused(host: Host, text: str, *words: str, expect: int = 4) -> str:
    """It changes nothing."""
    before = host.snapshot()
    said = apply(host, text, *words, expect=expect)
    assert host.snapshot() == before, words
    return said


def test_what_is_protected_is_neither_destroyed_nor_replaced(host: Host) -> None:
    apply(host, fleet(1) + SAFE)
    said = refused(host, fleet(1))
    assert "vm/acme/safe: protect: true forbids destroying it" in said
    assert "set protect: false first" in said
    said = refused(
        host, fleet(1) + SAFE.replace("hypervisor: simulated, ", "boot: {image: minimal}, ")
    )
    assert "protect: true forbids replacing it" in said
    assert "forbids destroying" in host.run("destroy", "--yes", expect=4).stderr
    # It does not keep others from going, under a daemon: only itself, and what it lives in.
    host.write("fleet.yaml", "".join(fleet(0).split("---\n")[:2]) + "---\n" + tenant("beta"))
    daemon = host.start("watch", str(host.specs), "--interval", "1", "--max-destroy", "100%")
    try:
        host.until("the other goes", lambda: "vm/acme/sim-0" not in host.ledger()[1])
        host.until("a pass later", lambda: "tenant/beta" in host.ledger()[1])
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0, host.log()
    assert {"vm/acme/safe", "network/acme/lan", "tenant/acme"} <= set(host.ledger()[1])
    apply(host, fleet(1) + SAFE.replace("protect: true", "protect: false"))
    apply(host, fleet(1))
    assert set(host.vms()) == {"vm/acme/sim-0"}


def test_an_address_that_a_held_vm_keeps_is_refused_by_name(host: Host) -> None:
    def at(name: str, end: int) -> str:
        nic = f'interfaces: [{{network: lan, address: "fd20:acde:0:1::{end}"}}]'
        return vm("acme", name, f"hypervisor: simulated, {nic}")

    home = tenant("acme", "prefix: fd20:acde::/48") + network(
        "acme", "lan", "prefix: fd20:acde:0:1::/64"
    )
    apply(host, home + at("a", 5))
    host.run("hold", "vm/acme/a", "--reason", "looking at it")
    said = refused(host, home + at("a", 6) + at("b", 5) + at("c", 7))
    assert "vm/acme/b: address fd20:acde:0:1::5 is still vm/acme/a's" in said
    assert "give it another, or end first what keeps the other as it is" in said


def test_how_much_may_be_destroyed_and_the_hash_that_goes_past_it(host: Host) -> None:
    apply(host, fleet(4))
    whole, part = fleet(1), fleet(3)
    for limit, text in (("2", whole), ("0", part), ("49%", whole), ("0%", part)):
        said = refused(host, text, "--max-destroy", limit)
        assert "would be destroyed, more than" in said and "--plan-hash" in said
    assert "4 of" not in said
    host.write("fleet.yaml", whole)
    agreed = host.json("plan", str(host.specs))["id"]
    guard = ("--max-destroy", "2")
    for wrong in ("0" * 16, agreed[:11] + "z", agreed[1:17]):
        code = 4 if all(c in "0123456789abcdef" for c in wrong) and len(wrong) > 11 else 2
        refused(host, whole, *guard, "--plan-hash", wrong, expect=code)
    for short in ("", agreed[:11]):
        said = refused(host, whole, *guard, "--plan-hash", short, expect=2)
        assert "no plan's hash" in said
    for bad in ("", "many", "-1", "101%", "1.5"):
        refused(host, whole, "--max-destroy", bad, expect=2)
    # The hash names one plan: with other specs it is another.
    refused(host, part, "--plan-hash", agreed[:16])
    assert apply(host, whole, *guard, "--plan-hash", agreed[:16]) == ""
    assert set(host.vms()) == {"vm/acme/sim-0"}
    # Exactly as many as are allowed may go; a deferred deletion counts like any.
    apply(host, fleet(4))
    refused(host, whole, "--max-destroy", "2", "--confirm", "1h")
    apply(host, fleet(2), "--max-destroy", "2")


def test_an_empty_or_unreadable_tree_is_an_error(host: Host) -> None:
    apply(host, fleet(2))
    for text in ("", "# nothing\n", "---\n---\n"):
        assert "never taken as an empty fleet" in refused(host, text, expect=1)
    (host.specs / "fleet.yaml").unlink()
    assert "never taken as an empty fleet" in host.run(
        "apply", str(host.specs), "--yes", expect=1).stderr  # fmt: skip
    host.write("fleet.txt", "not a spec")
    host.run("apply", str(host.specs), "--yes", expect=1)
    (host.specs / "fleet.yaml").symlink_to("nowhere.yaml")
    host.run("apply", str(host.specs), "--yes", expect=1)
    assert len(host.vms()) == 2


def test_a_tenant_goes_only_with_all_that_is_its_own_and_names_it(host: Host) -> None:
    apply(host, fleet(2) + tenant("beta"))
    orphaned = "".join(f"---{part}" for part in fleet(2).split("---")[2:]) + tenant("beta")
    assert "tenant/acme is not declared" in refused(host, orphaned, expect=1)
    host.write("fleet.yaml", tenant("beta"))
    gone = {
        change["resource"]
        for change in host.json("plan", str(host.specs))["changes"]
        if change["action"] == "delete"
    }
    assert gone == {"tenant/acme", "network/acme/lan", "vm/acme/sim-0", "vm/acme/sim-1"}
    said = host.run("apply", str(host.specs), "--yes", "--exclude", "vm/acme/sim-1", expect=4)
    assert "vm/acme/sim-1" in said.stderr
    # One that is held stays, and with it what it lives in.
    host.run("hold", "vm/acme/sim-1")
    document = host.json("apply", str(host.specs), "--yes")
    assert set(host.vms()) == {"vm/acme/sim-1"}
    assert {"tenant/acme", "network/acme/lan"} <= set(host.ledger()[1])
    warnings = document["plan"]["warnings"]
    assert "tenant/acme is not deleted: vm/acme/sim-1 stays in it" in " ".join(warnings)
    host.run("unhold", "vm/acme/sim-1")
    host.run("apply", str(host.specs), "--yes")
    assert set(host.ledger()[1]) == {"tenant/beta"}
