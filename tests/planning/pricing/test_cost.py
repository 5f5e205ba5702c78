"""The cost of a plan: amounts worked out by hand, and what must hold for all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.planning.pricing.cost import CostDelta, cost_delta, cost_document
from reconciler.planning.resolution.resolve import resolve
from reconciler.source.tree import load
from tests.planning.test_cases import fleet_of
from tests.planning.world import World

NOW_S = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
HEAD = {"apiVersion": "metald/v1"}
REFERENCE = Path(__file__).resolve().parents[3] / "specs"
State = dict[ResourceAddress, Mapping[str, Any]]


def recorded(fleet: Fleet) -> State:
    """What the ledger holds of a fleet once it is applied."""
    world = World()
    found = resolve(fleet, world.ledger(), world.images)
    assert not found.findings
    return {
        address: entry.spec
        for part in (found.fleet.records, found.fleet.vms)
        for address, entry in part.items()
    }


def plan(name: str = "standard", currency: str = "EUR", **version: Any) -> dict[str, Any]:
    versions = version.pop("versions", [{"effectiveFrom": "2026-01-01", **version}])
    spec = {"currency": currency, "versions": versions}
    return {**HEAD, "kind": "PricePlan", "metadata": {"name": name}, "spec": spec}


def tenant(name: str = "acme", price_plan: str | None = "standard") -> list[dict[str, Any]]:
    spec = {} if price_plan is None else {"pricePlan": price_plan}
    rows = [{**HEAD, "kind": "Tenant", "metadata": {"name": name}, "spec": spec}]
    return rows + [
        {**HEAD, "kind": "Network", "metadata": {"name": f"n{number}", "tenant": name}}
        for number in range(3)
    ]


def vm(
    name: str, vcpus: int = 1, memory: str = "512Mi", *, addresses: int = 0, power: str = "running",
    owner: str = "acme",
) -> dict[str, Any]:  # fmt: skip
    spec = {
        "hypervisor": "simulated",
        "vcpus": vcpus,
        "memory": memory,
        "power": power,
        "interfaces": [{"network": f"n{number}"} for number in range(addresses)],
    }
    return {**HEAD, "kind": "VM", "metadata": {"name": name, "tenant": owner}, "spec": spec}


def state(*documents: dict[str, Any] | list[dict[str, Any]]) -> State:
    flat = [row for entry in documents for row in (entry if isinstance(entry, list) else [entry])]
    return recorded(fleet_of(flat))


def estimate(after: State, before: State | None = None, *, now_s: float = NOW_S) -> CostDelta:
    (delta,) = cost_delta(before or {}, after, now_s=now_s)
    return delta


def vcpu(**price: Any) -> dict[str, Any]:
    return {"prices": {"vcpuSeconds": {"per": "hour", **price}}}


TIERS = [{"upTo": "1000", "price": "0.02"}, {"upTo": "2000", "price": "0.01"}, {"price": "0.005"}]
CENT = vcpu(price="0.01")
ONE, TWO, THREE = [vm("a")], [vm("a"), vm("b")], [vm("a"), vm("b"), vm("c")]

# name: (plan, VMs, per month, per hour), each worked out by hand; a month has 730 hours.
GOLDEN: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str, str]] = {
    # 2 * 2,628,000 s * 0.000004
    "a bare price is per base unit": (
        {"prices": {"vcpuSeconds": "0.000004"}}, [vm("a", 2)], "21.02", "0.028800"),
    "three vCPUs at a cent an hour": (CENT, [vm("a", 3)], "21.90", "0.030000"),
    "a paused VM is powered": (CENT, [vm("a", 3, power="paused")], "21.90", "0.030000"),
    "a stopped VM uses no vCPU": (CENT, [vm("a", 3, power="stopped")], "0.00", "0.000000"),
    # 0.5 GiB * 730 * 0.005 = 1.825, and 1.5 GiB = 5.475: halves go to the even cent
    "a half rounds down to even": (
        {"prices": {"memoryByteSeconds": {"price": "0.005", "per": "GiB-hour"}}},
        [vm("a", 1, "512Mi")], "1.82", "0.002500"),
    "a half rounds up to even": (
        {"prices": {"memoryByteSeconds": {"price": "0.005", "per": "GiB-hour"}}},
        [vm("a", 1, "1536Mi")], "5.48", "0.007500"),
    # 2^30 B * 2,628,000 s * 10^-15 = 2.821793513472
    "memory by the byte-second": (
        {"prices": {"memoryByteSeconds": "0.000000000000001"}},
        [vm("a", 1, "1Gi")], "2.82", "0.003865"),
    # 1.00 / 730 = 0.00136986
    "addresses of a stopped VM": (
        {"prices": {"addresses": "0.50", "vcpuSeconds": "1"}},
        [vm("a", addresses=2, power="stopped")], "1.00", "0.001370"),
    "addresses by the hour": (
        {"prices": {"addresses": {"price": "0.005", "per": "hour"}}},
        [vm("a", addresses=3)], "10.95", "0.015000"),
    # 1,460 h - 1,000 h = 460 h; by VM nothing would be left to pay
    "included is of the tenant's total": (
        vcpu(price="0.01", included="1000"), TWO, "4.60", "0.006301"),
    "more included than used": (vcpu(price="0.01", included="1461"), TWO, "0.00", "0.000000"),
    # 2,190 h: 1,000 * 0.02 + 1,000 * 0.01 + 190 * 0.005
    "graduated tiers": (vcpu(tiers=TIERS), THREE, "30.95", "0.042397"),
    # 2,190 h, all at 0.005
    "volume tiers": (vcpu(tiers=TIERS, tiering="volume"), THREE, "10.95", "0.015000"),
    "a volume tier includes its end": (
        vcpu(tiers=[{"upTo": "730", "price": "0.02"}, {"price": "0.01"}], tiering="volume"),
        ONE, "14.60", "0.020000"),
    # 1,460 h - 400 h = 1,060 h: 1,000 * 0.02 + 60 * 0.01
    "tiers begin after what is included": (
        vcpu(tiers=TIERS, included="400"), TWO, "20.60", "0.028219"),
    "discount": ({**CENT, "discount": "10%"}, [vm("a", 3)], "19.71", "0.027000"),
    "minimum": ({**CENT, "minimum": "25"}, [vm("a", 3)], "25.00", "0.034247"),
    "minimum of a tenant without VMs": ({**CENT, "minimum": "5"}, [], "5.00", "0.006849"),
    "cap": ({**CENT, "cap": "20"}, [vm("a", 3)], "20.00", "0.027397"),
    # 21.90 * 0.5 = 10.95 < 11
    "minimum holds after the discount": (
        {**CENT, "discount": "50%", "minimum": "11"}, [vm("a", 3)], "11.00", "0.015068"),
    # 21.90 * 0.9 = 19.71 < 20
    "cap holds after the discount": (
        {**CENT, "discount": "10%", "cap": "20"}, [vm("a", 3)], "19.71", "0.027000"),
    "no minor unit": ({**vcpu(price="1.5"), "currency": "JPY"}, [vm("a", 3)], "3285", "4.500000"),
    "three digits": ({**vcpu(price="0.0001"), "currency": "KWD"}, ONE, "0.073", "0.000100"),
    # 730 h of one vCPU, fully busy
    "CPU time, not measured": (
        {"prices": {"cpuSeconds": {"price": "0.02", "per": "hour"}}}, ONE, "14.60", "0.020000"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_amounts_worked_out_by_hand(name: str) -> None:
    version, vms, monthly, hourly = GOLDEN[name]
    delta = estimate(state(plan(**version), tenant(), vms))
    assert (format(delta.monthly.after, "f"), format(delta.hourly.after, "f")) == (monthly, hourly)
    assert delta.monthly.before == 0 and delta.monthly.delta == delta.monthly.after


def test_the_reference_fleet() -> None:
    """acme: 68.40 (5,840 h of vCPU over two tiers) + 8.76 + 2.00; globex: 8.76 + 0.73."""
    after = recorded(load(REFERENCE).require())
    delta = estimate(after)
    assert {cost.tenant: str(cost.monthly.after) for cost in delta.tenants} == {
        "acme": "79.16",
        "globex": "9.49",
    }
    assert str(delta.monthly.after) == "88.65"
    next_year = estimate(after, now_s=datetime(2027, 1, 1, tzinfo=UTC).timestamp())
    assert str(next_year.tenants[0].monthly.after) == "75.00"  # 64.24 + 8.76 + 2.00


def test_lines_share_the_rounded_amount_by_largest_remainder() -> None:
    """A third of 0.01 each: one VM's line shows the cent, the first by name."""
    after = state(plan(**CENT, cap="0.01"), tenant(), THREE)
    (cost,) = estimate(after).tenants
    shown = {line.resource: str(line.monthly.after) for line in cost.lines}
    assert shown == {"vm/acme/a": "0.01", "vm/acme/b": "0.00", "vm/acme/c": "0.00"}


def test_what_a_minimum_adds_is_the_tenants_own_line() -> None:
    after = state(plan(**CENT, minimum="25"), tenant(), vm("a", 3))
    (cost,) = estimate(after).tenants
    shown = {line.resource: str(line.monthly.after) for line in cost.lines}
    assert shown == {"tenant/acme": "3.10", "vm/acme/a": "21.90"}


def test_a_version_supersedes_the_one_before_it_on_its_day() -> None:
    versions = [
        {"effectiveFrom": "2026-01-01", **vcpu(price="0.01")},
        {"effectiveFrom": "2026-07-01", **vcpu(price="0.02")},
    ]
    after = state(plan(versions=versions), tenant(), ONE)
    changes_s = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
    assert str(estimate(after, now_s=changes_s - 0.001).monthly.after) == "7.30"
    assert str(estimate(after, now_s=changes_s).monthly.after) == "14.60"


def test_a_price_plan_is_recorded_compared_by_its_days_and_deleted_when_gone() -> None:
    first = {"effectiveFrom": "2026-01-01", **vcpu(price="0.010")}
    early = {"effectiveFrom": "2025-01-01", **vcpu(price="0.02")}
    world = World()
    world.apply(fleet_of([plan(versions=[first]), *tenant()]))
    same = {"effectiveFrom": "2026-01-01", **vcpu(price="0.01")}
    assert world.plan(fleet_of([plan(versions=[same]), *tenant()])).is_empty
    (change,) = world.apply(fleet_of([plan(versions=[early, first]), *tenant()])).changes
    assert (change.resource, change.action) == ("priceplan/standard", "update")
    assert {field.path.split(".")[1] for field in change.fields} == {"versions[2025-01-01]"}
    gone = world.apply(fleet_of(tenant(price_plan=None))).changes
    assert {(entry.resource, entry.action) for entry in gone} == {
        ("tenant/acme", "update"),
        ("priceplan/standard", "delete"),
    }


def test_stopping_resizing_and_deleting_show_as_differences() -> None:
    prices = plan(**CENT)
    before = state(prices, tenant(), vm("a", 2), vm("b", 1), vm("c", 1))
    after = state(prices, tenant(), vm("a", 4), vm("b", 1, power="stopped"))
    delta = estimate(after, before)
    shown = [(str(m.before), str(m.after), str(m.delta)) for m in (delta.monthly, delta.hourly)]
    assert shown == [("29.20", "29.20", "0.00"), ("0.040000", "0.040000", "0.000000")]
    moved = {line.resource: str(line.monthly.delta) for line in delta.tenants[0].lines}
    assert moved == {"vm/acme/a": "14.60", "vm/acme/b": "-7.30", "vm/acme/c": "-7.30"}


def test_each_currency_has_its_own_delta_and_a_changed_one_shows_in_both() -> None:
    euros, dollars = plan(**CENT), plan("us", "USD", **vcpu(price="0.02"))
    before = state(euros, dollars, tenant(), ONE)
    after = state(euros, dollars, tenant(price_plan="us"), ONE)
    in_euros, in_dollars = cost_delta(before, after, now_s=NOW_S)
    assert (in_euros.currency, str(in_euros.monthly.delta)) == ("EUR", "-7.30")
    assert (in_dollars.currency, str(in_dollars.monthly.delta)) == ("USD", "14.60")


def test_a_tenant_without_a_price_is_named_and_in_no_total() -> None:
    late = plan("late", versions=[{"effectiveFrom": "2030-01-01", **CENT}])
    rows: list[dict[str, Any] | list[dict[str, Any]]] = [
        plan(**CENT), late, tenant(), vm("a"),
        tenant("free", None), vm("b", owner="free"), tenant("soon", "late"), vm("c", owner="soon"),
    ]  # fmt: skip
    delta = estimate(state(*rows), state(plan(**CENT), tenant("free", None)))
    assert [cost.tenant for cost in delta.tenants] == ["acme"]
    assert [(entry.tenant, entry.side, entry.reason) for entry in delta.unpriced] == [
        ("free", "both", "it names no price plan"),
        ("soon", "after", "priceplan/late has no price in force on 2026-06-01"),
    ]
    assert str(delta.monthly.after) == "7.30"


def test_a_plan_not_yet_in_force_is_told_even_when_nothing_else_is_priced() -> None:
    late = plan(versions=[{"effectiveFrom": "2030-01-01", **CENT}])
    delta = estimate(state(late, tenant(), ONE))
    assert not delta.tenants and [entry.tenant for entry in delta.unpriced] == ["acme"]


def test_a_record_that_cannot_be_read_is_told_and_not_guessed() -> None:
    after = state(plan(**CENT), tenant(), ONE)
    plan_address = ResourceAddress("priceplan/standard")
    before: State = {**after, plan_address: {"currency": "EUR", "prices": "by the sack"}}
    missing = {address: spec for address, spec in after.items() if address != plan_address}
    for broken in (before, missing):
        (entry,) = estimate(after, broken).unpriced
        assert (entry.tenant, entry.side) == ("acme", "before")
        assert "priceplan/standard" in entry.reason


def test_without_price_plans_there_is_no_cost_to_show() -> None:
    assert cost_delta({}, state(tenant(price_plan=None), ONE), now_s=NOW_S) == ()


def test_measured_use_replaces_the_upper_bound_where_it_exists() -> None:
    by_use = plan(prices={"cpuSeconds": {"price": "0.02", "per": "hour"}})
    after = state(by_use, tenant(), vm("a", 2), vm("b"), vm("c", power="paused"))
    a, b = ResourceAddress("vm/acme/a"), ResourceAddress("vm/acme/b")

    def told(measured: dict[ResourceAddress, Decimal]) -> tuple[str, str]:
        (delta,) = cost_delta({}, after, now_s=NOW_S, measured=measured)
        return str(delta.monthly.after), delta.basis

    assert told({}) == ("43.80", "provisioned")  # 3 vCPUs * 730 h * 0.02; paused uses none
    assert told({a: Decimal("0.25")}) == ("21.90", "mixed")
    assert told({a: Decimal("0.25"), b: Decimal(0)}) == ("7.30", "measured")


def test_the_document_holds_text_and_only_what_moves() -> None:
    prices = plan(**CENT)
    before, after = state(prices, tenant(), ONE), state(prices, tenant(), TWO)
    assert cost_document(cost_delta(before, after, now_s=NOW_S)) == [
        {
            "currency": "EUR", "basis": "provisioned", "hoursPerMonth": 730,
            "hourlyBefore": "0.010000", "hourlyAfter": "0.020000", "hourlyDelta": "0.010000",
            "monthlyBefore": "7.30", "monthlyAfter": "14.60", "monthlyDelta": "7.30",
            "tenants": [
                {
                    "tenant": "acme",
                    "hourlyBefore": "0.010000", "hourlyAfter": "0.020000",
                    "hourlyDelta": "0.010000",
                    "monthlyBefore": "7.30", "monthlyAfter": "14.60", "monthlyDelta": "7.30",
                    "resources": [
                        {"resource": "vm/acme/b", "monthlyBefore": "0.00",
                         "monthlyAfter": "7.30", "monthlyDelta": "7.30"},
                    ],
                },
            ],
            "unpriced": [],
        },
    ]  # fmt: skip


amounts = st.decimals(0, 1000, places=9).map(lambda value: format(value, "f"))
ladders = st.lists(st.integers(1, 4000), unique=True, max_size=3).flatmap(
    lambda ends: st.lists(amounts, min_size=len(ends) + 1, max_size=len(ends) + 1).map(
        lambda prices: [
            *({"upTo": str(end), "price": price}
              for end, price in zip(sorted(ends), prices, strict=False)),
            {"price": prices[-1]},
        ]
    )
)  # fmt: skip
units = {
    "vcpuSeconds": ("second", "hour", "month"),
    "cpuSeconds": ("second", "hour", "month"),
    "memoryByteSeconds": ("byte-second", "GiB-hour", "GiB-month"),
    "addresses": ("hour", "month"),
}
price_sets = st.fixed_dictionaries(
    {},
    optional={
        meter: st.fixed_dictionaries(
            {"per": st.sampled_from(per), "tiers": ladders, "included": amounts,
             "tiering": st.sampled_from(["graduated", "volume"])}
        )
        for meter, per in units.items()
    },
)  # fmt: skip
plans: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "prices": price_sets,
        "currency": st.sampled_from(["EUR", "JPY", "KWD"]),
        "discount": st.integers(0, 100).map(lambda percent: f"{percent}%"),
        "minimum": st.sampled_from(["0", "3.337", "50"]),
    },
    optional={"cap": st.sampled_from(["50", "99.999"])},
)
machines = st.lists(
    st.tuples(
        st.integers(1, 5), st.sampled_from(["100M", "512Mi", "3Gi"]), st.integers(0, 3),
        st.sampled_from(["running", "paused", "stopped"]), st.sampled_from(["acme", "globex"]),
    ),
    max_size=7,
)  # fmt: skip


@st.composite
def situations(draw: st.DrawFn) -> tuple[State, State]:
    def side() -> State:
        rows = [
            vm(f"v{index}", vcpus, memory, addresses=addresses, power=power, owner=owner)
            for index, (vcpus, memory, addresses, power, owner) in enumerate(draw(machines))
        ]
        named = [plan("one", **draw(plans)), plan("two", **draw(plans))]
        chosen = st.sampled_from(["one", "two", None])
        tenants = [tenant("acme", draw(chosen)), tenant("globex", draw(chosen))]
        return state(*named, *tenants, rows)

    return side(), side()


def values(data: Any) -> Iterator[Any]:
    if is_dataclass(data):
        for entry in fields(data):
            yield from values(getattr(data, entry.name))
    elif isinstance(data, tuple):
        for item in data:
            yield from values(item)
    else:
        yield data


@given(situations())
def test_every_sum_is_exact(pair: tuple[State, State]) -> None:
    deltas = cost_delta(*pair, now_s=NOW_S)
    assert {type(value) for value in values(deltas)} <= {str, Decimal}
    for delta in deltas:
        for period in ("hourly", "monthly"):
            total = getattr(delta, period)
            parts = [getattr(cost, period) for cost in delta.tenants]
            for side in ("before", "after", "delta"):
                assert sum(getattr(part, side) for part in parts) == getattr(total, side)
            assert all(m.delta == m.after - m.before for m in (total, *parts))
        for cost in delta.tenants:
            for side in ("before", "after", "delta"):
                lines = [getattr(line.monthly, side) for line in cost.lines]
                assert sum(lines) == getattr(cost.monthly, side)
            assert all(line.monthly.before >= 0 <= line.monthly.after for line in cost.lines)


@given(situations(), st.randoms(use_true_random=False))
def test_neither_order_nor_decimal_context_matters(
    pair: tuple[State, State], shuffler: random.Random
) -> None:
    def shuffled(side: State) -> State:
        rows = list(side.items())
        shuffler.shuffle(rows)
        return dict(rows)

    expected = cost_delta(*pair, now_s=NOW_S)
    with localcontext() as context:
        context.prec = 3
        assert cost_delta(*map(shuffled, pair), now_s=NOW_S) == expected


@given(situations())
def test_there_and_back_is_nothing(pair: tuple[State, State]) -> None:
    before, after = pair
    there = cost_delta(before, after, now_s=NOW_S)
    back = cost_delta(after, before, now_s=NOW_S)
    assert [delta.monthly.delta for delta in there] == [-delta.monthly.delta for delta in back]
