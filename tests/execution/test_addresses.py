"""Who holds which address and how full pools are, held against counting one by one."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.execution.addresses import addresses_document, pools_document
from reconciler.execution.state.records import AddressRecord
from reconciler.execution.state.sqlite import open_reader, open_store
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Managed
from reconciler.paths import StatePaths
from reconciler.planning.documents.render import SourceInfo
from tests.planning.test_cases import fleet_of
from tests.planning.test_delegated import PREFIX, with_prefix
from tests.planning.test_left_alone import document, vm
from tests.planning.world import World

TENANT = ResourceAddress("tenant/acme")


def recorded(world: World, now_s: float) -> tuple[AddressRecord, ...]:
    """As the state has it: what is held, and what was given up, until a moment."""
    live = [AddressRecord(e.kind, e.value, e.owner, ResourceAddress(e.resource), None)
            for e in world.allocations.values() if e.kind in {"address", "prefix"}]  # fmt: skip
    gone = [AddressRecord(kind, value, owner, ResourceAddress("vm/acme/gone"), now_s)
            for (kind, value), owner in world.quarantine.items()
            if kind in {"address", "prefix"}]  # fmt: skip
    return (*live, *gone)


def pools(world: World) -> dict[str, dict[str, Any]]:
    found = pools_document(world.ledger(), recorded(world, 5.0))["items"]
    return {entry["resource"]: entry for entry in found}


def declared(*vms: dict[str, Any]) -> Any:
    rows = [
        document("Tenant", "acme", spec={"prefix": PREFIX}),
        document("Network", "front", "acme"),
    ]
    return fleet_of([*rows, *vms])


def test_pools_count_what_is_held_and_what_waits() -> None:
    world = World()
    world.apply(declared(vm("a"), with_prefix("b")))
    found = pools(world)
    assert found["host/local"]["unit"] == "/48" and found["host/local"]["used"] == 0
    assert {k: found["tenant/acme"][k] for k in ("total", "used", "quarantined", "free")} == {
        "total": 256, "used": 2, "quarantined": 0, "free": 254,
    }  # fmt: skip
    front = found["network/acme/front"]
    assert (front["used"], front["reserved"]) == (2, 6)
    assert front["free"] == 2**64 - 8
    world.apply(declared(vm("a")))
    after = pools(world)
    assert (after["tenant/acme"]["used"], after["tenant/acme"]["quarantined"]) == (1, 1)
    assert (after["network/acme/front"]["used"], after["network/acme/front"]["quarantined"]) == (
        1, 1,
    )  # fmt: skip
    told = addresses_document(world.ledger(), recorded(world, 5.0))["items"]
    assert [(e["state"], e["interface"], e["until"]) for e in told] == [
        ("held", "front", None),
        ("quarantined", "", "1970-01-01T00:00:05.000Z"),
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 31), st.sampled_from([59, 60, 62, 64]), st.booleans()), max_size=12
    )
)
def test_a_tenants_pool_is_what_counting_one_by_one_gives(
    rows: list[tuple[int, int, bool]],
) -> None:
    """Prefixes of any length, inside and beside the tenant's /60, overlapping as they like."""
    whole, own = int(IPv6Network("fd20:acde::/59").network_address), IPv6Network("fd20:acde::/60")
    records: list[AddressRecord] = []
    used: set[int] = set()
    waiting: set[int] = set()
    for number, length, live in rows:
        start = whole + (number << 64)
        prefix = IPv6Network((start, length), strict=False)
        until_s = None if live else 1.0
        owner = ResourceAddress("network/acme/any")
        records.append(AddressRecord("prefix", str(prefix), "u", owner, until_s))
        inside = {n for n in range(16)
                  if IPv6Network((whole + (n << 64), 64)).overlaps(prefix)}  # fmt: skip
        (used if live else waiting).update(inside)
    spec = {"prefix": str(own)}
    world = World()
    world.managed[TENANT] = Managed(TENANT, "t", 1, spec, "h", 1, 1)
    (_, found) = pools_document(world.ledger(), records)["items"]
    assert (found["total"], found["used"]) == (16, len(used))
    assert found["quarantined"] == len(waiting - used)
    assert found["free"] == 16 - len(used | waiting)


def test_the_state_gives_what_is_held_and_forgets_when_the_quarantine_is_over(
    tmp_path: Path,
) -> None:
    paths = StatePaths(tmp_path / "state")
    now = [1000.0]
    store = open_store(paths, quarantine_s=60.0, clock=lambda: now[0])
    try:
        world = World()
        world.secret = store.ledger(now[0]).secret
        made = dataclasses.replace(world.plan(declared(vm("a"))), steps=())
        store.begin_run(made, SourceInfo("specs"), now_s=now[0])
        with_reader = open_reader(paths, quarantine_s=60.0)
        held = with_reader.addresses(now[0])
        assert sorted(entry.kind for entry in held) == ["address", "prefix", "prefix"]
        assert all(entry.until_s is None for entry in held)
        (address,) = (entry for entry in held if entry.kind == "address")
        vm_uid = next(m.uid for a, m in store.ledger(now[0]).managed.items() if a.startswith("vm/"))
        store.retire(vm_uid, now_s=now[0])
        (given_up,) = (e for e in with_reader.addresses(now[0] + 59) if e.kind == "address")
        assert given_up == dataclasses.replace(address, until_s=1060.0)
        assert [e.kind for e in with_reader.addresses(now[0] + 61)] == ["prefix", "prefix"]
        with_reader.close()
    finally:
        store.close()
