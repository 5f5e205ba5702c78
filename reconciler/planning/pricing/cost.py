"""What a plan changes in the tenants' bills: an estimate from prices and what is declared.

Pure. A powered VM counts its vCPUs and memory around the clock, any VM its addresses; a
month has 730 hours, an hour is the month's 730th part, so included amounts, tiers, minimum
and cap count in both. Net of taxes. Called by whoever presents a plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

from pydantic import ValidationError

from reconciler.model.addresses import (
    ResourceAddress,
    kind_of,
    price_plan_address,
    tenant_address,
    tenant_of,
)
from reconciler.model.prices import HOURS_PER_MONTH, MINOR_DIGITS, PricePlanSpec, PriceVersion
from reconciler.model.quantities import parse_size
from reconciler.planning.pricing.rates import (
    HOURLY_DIGITS,
    meter_cost,
    money,
    rounded,
    settled,
    shared,
)

Basis = Literal["provisioned", "measured", "mixed"]
Side = Literal["before", "after", "both"]
State = Mapping[ResourceAddress, Mapping[str, Any]]
_MONTH_S = HOURS_PER_MONTH * 3600
_POWERED = frozenset({"running", "paused"})


@dataclass(frozen=True, slots=True)
class Movement:
    """An amount before and after, rounded; ``delta`` is the difference of these two."""

    before: Decimal
    after: Decimal
    delta: Decimal


@dataclass(frozen=True, slots=True)
class CostLine:
    """One resource's share of its tenant's month; the tenant's own line is what a minimum adds."""

    resource: ResourceAddress
    monthly: Movement


@dataclass(frozen=True, slots=True)
class TenantCost:
    """One tenant's amounts; ``lines`` sum to ``monthly``, on both sides."""

    tenant: str
    hourly: Movement
    monthly: Movement
    lines: tuple[CostLine, ...]


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A tenant that no total counts on this side, and why."""

    tenant: str
    side: Side
    reason: str


@dataclass(frozen=True, slots=True)
class CostDelta:
    """All amounts in one currency: hourly with 6 places, monthly with its minor unit's.

    ``tenants`` sum to the totals. ``unpriced`` is the same in every currency's delta.
    ``basis``: what metered CPU time was estimated from, measured use or vCPUs fully busy.
    """

    currency: str
    basis: Basis
    hourly: Movement
    monthly: Movement
    tenants: tuple[TenantCost, ...]
    unpriced: tuple[Unpriced, ...]


def cost_delta(
    before: State,
    after: State,
    *,
    now_s: float,
    measured: Mapping[ResourceAddress, Decimal] | None = None,
) -> tuple[CostDelta, ...]:
    """One delta per currency, in order; empty when no tenant of either side has a price plan.

    ``before``, ``after``: recorded specs by resource address, tenants and price plans
    included. ``now_s``: seconds since the Unix epoch, decides which prices are in force, for
    both sides. ``measured``: busy share (0 to 1) of all of a VM's vCPUs, for prices of CPU
    time; a VM without one counts as fully busy while it runs.
    """
    day = datetime.fromtimestamp(now_s, UTC).date()
    old = _bills(before, day, measured or {})
    new = _bills(after, day, measured or {})
    unpriced = _unpriced(old, new)
    currencies = {bill.currency for bill in (*old.values(), *new.values())} - {""}
    return tuple(_delta(currency, old, new, unpriced) for currency in sorted(currencies))


def cost_document(deltas: Iterable[CostDelta]) -> list[dict[str, Any]]:
    """``cost`` of the plan's JSON: amounts as decimal strings, only resources that move."""
    return [
        {
            "currency": delta.currency,
            "basis": delta.basis,
            "hoursPerMonth": HOURS_PER_MONTH,
            **_amounts(delta),
            "tenants": [
                {
                    "tenant": cost.tenant,
                    **_amounts(cost),
                    "resources": [
                        {"resource": line.resource, **_movement("monthly", line.monthly)}
                        for line in cost.lines
                        if line.monthly.delta
                    ],
                }
                for cost in delta.tenants
            ],
            "unpriced": [
                {"tenant": entry.tenant, "side": entry.side, "reason": entry.reason}
                for entry in delta.unpriced
            ],
        }
        for delta in deltas
    ]


def _amounts(cost: CostDelta | TenantCost) -> dict[str, str]:
    return {**_movement("hourly", cost.hourly), **_movement("monthly", cost.monthly)}


def _movement(period: str, movement: Movement) -> dict[str, str]:
    return {
        f"{period}Before": format(movement.before, "f"),
        f"{period}After": format(movement.after, "f"),
        f"{period}Delta": format(movement.delta, "f"),
    }


@dataclass(frozen=True, slots=True)
class _Bill:
    """A tenant's month on one side, in whole units of the rounding; or why there is none."""

    currency: str
    problem: str = ""
    hourly: int = 0
    monthly: int = 0
    lines: Mapping[ResourceAddress, int] = field(default_factory=dict)
    bases: frozenset[Basis] = frozenset()


def _bills(
    state: State, day: date, measured: Mapping[ResourceAddress, Decimal]
) -> dict[str, _Bill]:
    """Every tenant's bill of one side."""
    vms: dict[str, dict[ResourceAddress, _Shape]] = defaultdict(dict)
    for address in state:
        if kind_of(address) == "tenant":
            vms[tenant_of(address)]  # a tenant without VMs still owes its minimum
        elif kind_of(address) == "vm":
            vms[tenant_of(address)][address] = _shape(state[address], measured.get(address))
    plans: dict[ResourceAddress, PricePlanSpec | None] = {}
    return {tenant: _bill(state, tenant, vms[tenant], (day, plans)) for tenant in vms}


def _bill(
    state: State,
    tenant: str,
    vms: Mapping[ResourceAddress, _Shape],
    prices: tuple[date, dict[ResourceAddress, PricePlanSpec | None]],
) -> _Bill:
    day, plans = prices
    name = state.get(tenant_address(tenant), {}).get("pricePlan")
    if name is None:
        return _Bill("", "it names no price plan")
    address = price_plan_address(name)
    if address not in state:
        return _Bill("", f"{address} is not on record")
    if address not in plans:
        plans[address] = _read(state[address])
    plan = plans[address]
    if plan is None:
        return _Bill("", f"{address} was recorded in a form that this version does not read")
    version = plan.version_on(day)
    if version is None:
        return _Bill(plan.currency, f"{address} has no price in force on {day}")
    return _priced(tenant, vms, plan.currency, version)


def _read(recorded: Mapping[str, Any]) -> PricePlanSpec | None:
    # A record holds some of the metadata too.
    spec = {key: recorded.get(key) for key in ("currency", "versions")}
    try:
        return PricePlanSpec.model_validate(spec)
    except ValidationError:
        return None  # the caller names the tenants that have no price because of it


@dataclass(frozen=True, slots=True)
class _Shape:
    """What of a VM is priced; most VMs share a few shapes."""

    power: str
    vcpus: int
    memory: str
    addresses: int
    busy: Decimal | None

    def usage(self) -> dict[str, Fraction]:
        """A month's base units by meter."""
        powered_s = _MONTH_S if self.power in _POWERED else 0
        busy = Fraction(1 if self.busy is None else self.busy) if self.power == "running" else 0
        return {
            "cpu_seconds": Fraction(self.vcpus * powered_s) * busy,
            "vcpu_seconds": Fraction(self.vcpus * powered_s),
            "memory_byte_seconds": Fraction(parse_size(self.memory) * powered_s),
            "addresses": Fraction(self.addresses * _MONTH_S),
        }


def _shape(spec: Mapping[str, Any], busy: Decimal | None) -> _Shape:
    addresses = sum(len(interface["addresses"]) for interface in spec["interfaces"])
    return _Shape(spec["power"], spec["vcpus"], spec["memory"], addresses, busy)


def _priced(
    tenant: str, vms: Mapping[ResourceAddress, _Shape], currency: str, version: PriceVersion
) -> _Bill:
    """Meters are priced on the tenant's totals, then shared by each VM's part of them."""
    usages = {shape: shape.usage() for shape in set(vms.values())}
    totals: dict[str, Fraction] = defaultdict(Fraction)
    for shape in vms.values():
        for meter, units in usages[shape].items():
            totals[meter] += units
    prices = version.prices.by_meter()
    costs = {meter: meter_cost(price, totals[meter]) for meter, price in prices.items()}
    factor, added = settled(version, sum(costs.values(), Fraction(0)))
    due = sum(costs.values(), Fraction(0)) * factor + added
    rates = {meter: cost * factor / totals[meter] for meter, cost in costs.items() if cost}
    parts = {
        shape: sum((rate * usage[meter] for meter, rate in rates.items()), Fraction(0))
        for shape, usage in usages.items()
    }
    exact = {address: parts[shape] for address, shape in vms.items()}
    if added:
        exact[tenant_address(tenant)] = added
    digits = MINOR_DIGITS[currency]
    monthly = rounded(due, digits)
    return _Bill(
        currency,
        hourly=rounded(due / HOURS_PER_MONTH, HOURLY_DIGITS),
        monthly=monthly,
        lines=shared(exact, monthly, digits),
        bases=_bases(vms.values()) if "cpu_seconds" in prices else frozenset(),
    )


def _bases(shapes: Iterable[_Shape]) -> frozenset[Basis]:
    return frozenset(
        "provisioned" if shape.busy is None else "measured"
        for shape in shapes
        if shape.power == "running"
    )


def _unpriced(old: Mapping[str, _Bill], new: Mapping[str, _Bill]) -> tuple[Unpriced, ...]:
    found: dict[tuple[str, str], list[Side]] = defaultdict(list)
    sides: tuple[tuple[Side, Mapping[str, _Bill]], ...] = (("before", old), ("after", new))
    for side, bills in sides:
        for tenant, bill in bills.items():
            if bill.problem:
                found[tenant, bill.problem].append(side)
    return tuple(
        Unpriced(tenant, where[0] if len(where) == 1 else "both", reason)
        for (tenant, reason), where in sorted(found.items())
    )


def _delta(
    currency: str,
    old: Mapping[str, _Bill],
    new: Mapping[str, _Bill],
    unpriced: tuple[Unpriced, ...],
) -> CostDelta:
    nothing = _Bill(currency)
    ours = [
        {name: bill for name, bill in bills.items() if bill.currency == currency}
        for bills in (old, new)
    ]
    pairs = {
        name: (ours[0].get(name, nothing), ours[1].get(name, nothing))
        for name in sorted({*ours[0], *ours[1]})
        if any(name in bills and not bills[name].problem for bills in ours)
    }
    bases = frozenset().union(*(bill.bases for pair in pairs.values() for bill in pair))
    return CostDelta(
        currency,
        "mixed" if len(bases) > 1 else next(iter(bases), "provisioned"),
        _moved(((pair[0].hourly, pair[1].hourly) for pair in pairs.values()), HOURLY_DIGITS),
        _moved(((pair[0].monthly, pair[1].monthly) for pair in pairs.values()),
               MINOR_DIGITS[currency]),
        tuple(_tenant_cost(name, pair) for name, pair in pairs.items()),
        unpriced,
    )  # fmt: skip


def _tenant_cost(tenant: str, pair: tuple[_Bill, _Bill]) -> TenantCost:
    old, new = pair
    digits = MINOR_DIGITS[old.currency]
    return TenantCost(
        tenant,
        _moved([(old.hourly, new.hourly)], HOURLY_DIGITS),
        _moved([(old.monthly, new.monthly)], digits),
        tuple(
            CostLine(address, _moved([(old.lines.get(address, 0), new.lines.get(address, 0))],
                                     digits))
            for address in sorted({*old.lines, *new.lines})
        ),
    )  # fmt: skip


def _moved(pairs: Iterable[tuple[int, int]], digits: int) -> Movement:
    """The sum of (before, after) pairs of whole units, as money."""
    before = after = 0
    for one_before, one_after in pairs:
        before += one_before
        after += one_after
    return Movement(money(before, digits), money(after, digits), money(after - before, digits))
