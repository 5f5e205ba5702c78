"""Identities, allocations, quarantine, tombstones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.errors import BugError
from reconciler.execution.state.records import Generations
from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation, AllocationKind, Hold, Retry, VmRecord
from reconciler.paths import StatePaths
from tests.execution.state.plans import DB, WEB, begin, plan_of

TAP = Allocation("tap", "mt01", "uid-if-1", "vm/acme/web")
ADDRESS = Allocation("address", "fd00::5", "uid-if-1", "vm/acme/web")


def test_the_secret_is_drawn_once_and_kept(state: StatePaths, store: SqliteStore) -> None:
    secret = store.ledger(0.0).secret
    store.close()
    again = open_store(state)
    assert len(secret) == 32
    assert again.ledger(0.0).secret == secret
    again.close()


def test_a_registration_is_managed_with_its_spec(store: SqliteStore) -> None:
    begin(store, plan_of(WEB))
    managed = store.ledger(0.0).managed[WEB.address]
    assert (managed.uid, managed.incarnation, managed.spec) == ("uid-web-1", 1, {"vcpus": 1})
    assert (managed.generation, managed.observed_generation) == (1, 0)


def test_only_another_spec_is_another_generation(store: SqliteStore) -> None:
    begin(store, plan_of(WEB))
    begin(store, plan_of(WEB))
    assert store.generations()[WEB.address] == Generations(1, 0)
    begin(store, plan_of(replace(WEB, spec={"vcpus": 4}, spec_hash="hash-2")))
    store.set_observed_generation({WEB.address: 2})
    assert store.generations()[WEB.address] == Generations(2, 2)
    labelled = {"vcpus": 4, "labels": {"app": "web"}}
    begin(store, plan_of(replace(WEB, spec=labelled, spec_hash="hash-3")))
    assert store.generations()[WEB.address] == Generations(2, 2)
    assert store.ledger(0.0).managed[WEB.address].spec == labelled


def test_a_generation_never_reached_is_not_observed(store: SqliteStore) -> None:
    begin(store, plan_of(WEB))
    with pytest.raises(BugError):
        store.set_observed_generation({WEB.address: 2})


@pytest.mark.parametrize("incarnation", [1, 2])
def test_a_second_identity_beside_a_living_one_is_refused(
    store: SqliteStore, incarnation: int
) -> None:
    begin(store, plan_of(WEB))
    other = replace(WEB, uid="uid-other", incarnation=incarnation)
    with pytest.raises(BugError, match="alive"):
        begin(store, plan_of(other))
    assert store.ledger(0.0).managed[WEB.address].uid == "uid-web-1"


def test_an_incarnation_is_never_used_again(store: SqliteStore) -> None:
    begin(store, plan_of(WEB))
    store.retire(WEB.uid, now_s=1.0)
    assert store.ledger(1.0).managed == {}
    assert store.ledger(1.0).incarnations == {WEB.address: 1}
    with pytest.raises(BugError, match="used before"):
        begin(store, plan_of(WEB))
    begin(store, plan_of(replace(WEB, uid="uid-web-2", incarnation=2)))
    assert store.ledger(1.0).incarnations == {WEB.address: 2}


def test_a_refused_plan_leaves_nothing_of_itself(store: SqliteStore) -> None:
    begin(store, plan_of(WEB, allocations=(TAP,)))
    stolen = TAP._replace(owner="uid-if-2", resource=DB.address)
    with pytest.raises(BugError, match="mt01 is held by uid-if-1"):
        begin(store, plan_of(DB, allocations=(stolen,)))
    ledger = store.ledger(0.0)
    assert set(ledger.managed) == {WEB.address}
    assert ledger.taken == {("tap", "mt01"): "uid-if-1"}
    assert len(store.runs(10)) == 1


def test_two_owners_within_one_plan_are_refused(store: SqliteStore) -> None:
    twice = (TAP, TAP._replace(owner="uid-if-2", resource=DB.address))
    with pytest.raises(BugError, match="planned for both"):
        begin(store, plan_of(WEB, DB, allocations=twice))


def test_an_allocation_needs_a_resource_on_record(store: SqliteStore) -> None:
    with pytest.raises(BugError, match="not on record"):
        begin(store, plan_of(allocations=(TAP,)))


def test_a_plan_may_hand_a_declared_value_over(store: SqliteStore) -> None:
    begin(store, plan_of(WEB, allocations=(ADDRESS,)))
    moved = ADDRESS._replace(owner="uid-if-2", resource=DB.address)
    begin(store, plan_of(DB, allocations=(moved,), releases=(ADDRESS,)))
    assert store.ledger(0.0).held == {"uid-if-2": (moved,)}
    store.release((ADDRESS,), now_s=1.0)
    assert store.ledger(1.0).held == {"uid-if-2": (moved,)}, "the old owner's release is void"


def test_retiring_the_holder_in_the_plan_frees_what_its_interfaces_hold(store: SqliteStore) -> None:
    begin(store, plan_of(WEB, allocations=(ADDRESS,)))
    moved = ADDRESS._replace(owner="uid-if-2", resource=DB.address)
    begin(store, plan_of(DB, allocations=(moved,), retires=(WEB.uid,)))
    store.retire(WEB.uid, now_s=1.0)
    assert store.ledger(1.0).held == {"uid-if-2": (moved,)}, "it is no longer the retired one's"


def test_a_plan_that_decides_anew_on_the_holder_may_hand_its_values_over(
    store: SqliteStore,
) -> None:
    begin(store, plan_of(WEB, DB, allocations=(ADDRESS,)))
    moved = ADDRESS._replace(owner="uid-if-2", resource=DB.address)
    without = replace(WEB, spec={"vcpus": 1, "interfaces": []}, spec_hash="hash-2")
    begin(store, plan_of(without, allocations=(moved,)))
    assert store.ledger(0.0).held == {"uid-if-2": (moved,)}


def test_retiring_quarantines_what_the_resource_and_its_interfaces_hold(store: SqliteStore) -> None:
    own = Allocation("unix-id", "2000", WEB.uid, WEB.address)
    others = Allocation("unix-id", "2001", DB.uid, DB.address)
    begin(store, plan_of(WEB, DB, allocations=(TAP, ADDRESS, own, others)))
    store.record_vms([VmRecord(WEB.uid, "started", "boot", 1.0, 0, 1)])
    store.retire(WEB.uid, now_s=50.0)
    store.retire(WEB.uid, now_s=60.0)
    ledger = store.ledger(149.0)
    assert ledger.held == {DB.uid: (others,)}
    assert ("tap", "mt01") in ledger.taken
    assert ledger.vms == {}
    after = store.ledger(150.0)
    assert after.taken == {("unix-id", "2001"): DB.uid}, "100 s after the first retirement"


def test_retiring_what_was_never_registered_is_a_bug(store: SqliteStore) -> None:
    with pytest.raises(BugError, match="without ever having been registered"):
        store.retire("uid-nobody", now_s=0.0)


@pytest.mark.parametrize(
    ("kind", "now_s", "accepted"),
    [("tap", 99.0, False), ("tap", 100.0, True), ("address", 99.0, True), ("prefix", 99.0, True)],
)
def test_drawn_values_wait_out_the_quarantine_and_declared_ones_need_not(
    store: SqliteStore,
    kind: AllocationKind,
    now_s: float,
    accepted: bool,
) -> None:
    value = Allocation(kind, "value", "uid-if-1", WEB.address)
    begin(store, plan_of(WEB, DB, allocations=(value,)))
    store.release((value,), now_s=0.0)
    again = plan_of(allocations=(value._replace(owner="uid-if-2", resource=DB.address),))
    if accepted:
        begin(store, again, now_s=now_s)
        assert store.ledger(now_s).taken == {(kind, "value"): "uid-if-2"}
    else:
        with pytest.raises(BugError, match="in quarantine"):
            begin(store, again, now_s=now_s)


def test_an_owner_may_have_its_own_value_back_at_once(store: SqliteStore) -> None:
    begin(store, plan_of(WEB, allocations=(TAP,)))
    store.release((TAP,), now_s=0.0)
    assert store.ledger(1.0).held == {}
    begin(store, plan_of(allocations=(TAP,)), now_s=1.0)
    assert store.ledger(1.0).held == {"uid-if-1": (TAP,)}


def test_vm_records_are_replaced_by_uid(store: SqliteStore) -> None:
    begin(store, plan_of(WEB))
    store.record_vms([VmRecord(WEB.uid, "started", "boot", 1.0, 0, 1)])
    failed = VmRecord(WEB.uid, "failed", "boot", 1.0, 3, 1, "panic")
    store.record_vms([failed])
    assert store.ledger(0.0).vms == {WEB.uid: failed}


def test_a_hold_outlives_the_resource_it_is_about(store: SqliteStore) -> None:
    begin(store, plan_of(WEB))
    hold = Hold(WEB.address, "root", "destroyed by hand", 5.0, "hash-1")
    store.add_hold(hold)
    store.retire(WEB.uid, now_s=6.0)
    assert store.ledger(7.0).holds == {WEB.address: hold}
    assert store.remove_hold(WEB.address)
    assert not store.remove_hold(WEB.address)


def test_images_keep_the_latest_digest(store: SqliteStore) -> None:
    store.record_image("minimal", {"kernel": "a"})
    store.record_image("minimal", {"kernel": "b"})
    image = store.images()["minimal"]
    assert (image.digest, image.recorded_at_s) == ({"kernel": "b"}, 1000.0)


def test_a_hold_and_a_back_off_go_with_a_resource_that_is_renamed(store: SqliteStore) -> None:
    begin(store, plan_of(WEB))
    store.add_hold(Hold(WEB.address, "op", "looking at it", 1.0, ""))
    store.record_retries([Retry(WEB.address, 1, 9.0, "busy", "hash-1")], ())
    new = ResourceAddress("vm/gamma/web")
    begin(store, plan_of(replace(WEB, address=new, renamed_from=WEB.address)))
    ledger = store.ledger(2.0)
    assert [*ledger.managed] == [*ledger.holds] == [*ledger.retries] == [new]


def test_holds_that_are_over_go_when_another_is_made(store: SqliteStore) -> None:
    db = ResourceAddress("vm/acme/db")
    store.add_hold(Hold(WEB.address, "op", "for a while", 1.0, "", 5.0))
    store.add_hold(Hold(db, "op", "for good", 4.0, ""))
    assert set(store.ledger(6.0).holds) == {WEB.address, db}
    store.add_hold(Hold(db, "op", "for good", 5.0, ""))
    assert set(store.ledger(6.0).holds) == {db}
