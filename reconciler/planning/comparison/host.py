"""Host-wide state: sysctls, our firewall table, and what of ours belongs to nobody.

Sysctls and rules are resources like any other: planned, shown, observed again.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from reconciler.model.addresses import ResourceAddress, host_address, kind_of
from reconciler.model.firewall import FACTS, RULES, Element
from reconciler.model.identity import tap_of
from reconciler.model.observed import NetworkState, proxy_ndp_of
from reconciler.model.plan import (
    Change,
    ChangeElements,
    FieldChange,
    LoadFirewall,
    RemoveFirewall,
    RemoveTap,
    RestoreSysctls,
    SetSysctls,
)
from reconciler.model.resolved import ResolvedFleet
from reconciler.planning.comparison.bridges import left_bridges
from reconciler.planning.comparison.draft import FIREWALL, SYSCTLS, Draft, Inputs
from reconciler.planning.comparison.facts import announcing
from reconciler.planning.comparison.ports import bind_keys
from reconciler.planning.resolution.ownership import (
    alias_parts,
    elements_about,
    foreign_taps,
    is_ours,
)

LOCAL_HOST = host_address("local")
_RULES = "status.firewall.rules"

# Whose they are is told by the rules of networks, and by the host.
_COMPARED_APART = RULES | FACTS


def host_of(fleet: ResolvedFleet) -> ResourceAddress:
    """The declared Host, or ``host/local`` when none is declared."""
    hosts = (address for address in fleet.records if address.startswith("host/"))
    return next(hosts, LOCAL_HOST)


def compare_host(draft: Draft, inputs: Inputs, network: NetworkState, fleet: ResolvedFleet) -> None:
    """Bring sysctls and rules to what this version wants on a host that has VMs."""
    host = host_of(fleet)
    fields = [*_sysctls(draft, network, fleet), *_rules(draft, inputs, network, host)]
    if fields:
        created = network.firewall.listing is None and inputs.ledger.firewall is None
        why = _why_healed(inputs, network, fields)
        reason = "the host is prepared for VMs" if created else why
        draft.changes.append(
            Change(host, "create" if created else "update", "none", tuple(fields), reason)
        )


def _why_healed(inputs: Inputs, network: NetworkState, fields: list[FieldChange]) -> str:
    firewall = network.firewall
    without = firewall.wanted(bridged=False)
    if [f.path for f in fields] == [_RULES] and inputs.ledger.firewall == without:
        return "bridged networks need rules of their own, loaded beside those that are there"
    found = []
    if any(field.path.startswith("status.sysctls") for field in fields):
        found.append("a sysctl that guests need was changed")
    if network.firewall.listing is None:
        found.append("its rules are gone: removed from outside, or the host rebooted")
    elif any(field.path == _RULES for field in fields):
        found.append("its rules were changed, or are another version's")
    return f"drift: {'; '.join(found)}; corrected in place"


def _announcing(fleet: ResolvedFleet, network: NetworkState) -> dict[str, str]:
    """What makes the host answer for guests on its uplinks, where it is to and they are there."""
    hosts = {a: record.spec for a, record in fleet.records.items() if kind_of(a) == "host"}
    return {
        proxy_ndp_of(link): "1"
        for uplink in announcing(hosts).values()
        for link in uplink["interface"]
        if link in network.foreign
    }


def _sysctls(draft: Draft, network: NetworkState, fleet: ResolvedFleet) -> list[FieldChange]:
    wrong = tuple(
        (key, value)
        for key, value in {**network.wanted_sysctls, **_announcing(fleet, network)}.items()
        if network.sysctl(key) != value
    )
    if wrong:
        draft.step(SYSCTLS, host_of(fleet), SetSysctls(wrong))
    return [FieldChange(f"status.sysctls.{k}", network.sysctl(k), value) for k, value in wrong]


def _rules(
    draft: Draft, inputs: Inputs, network: NetworkState, host: ResourceAddress
) -> list[FieldChange]:
    firewall = network.firewall
    bridged = firewall.bridge_listing is not None or bool(draft.bridges)
    template, listing = firewall.wanted(bridged=bridged)
    if inputs.ledger.firewall == (template, listing):
        return []
    draft.step(FIREWALL, host, LoadFirewall(template, bridged))
    return [FieldChange(_RULES, listing or firewall.listing, f"template {template}")]


@dataclass(frozen=True, slots=True)
class Accounted:
    """Taps, bridges and elements that desired, leaving or unknown VMs account for. ``spared``: taps
    and addresses whose elements are left alone besides.
    """

    taps: AbstractSet[str]
    elements: frozenset[Element]
    spared: frozenset[str]
    bridges: AbstractSet[str]


def remove_orphans(
    draft: Draft, inputs: Inputs, network: NetworkState, known: Accounted, host: ResourceAddress
) -> None:
    """Remove links and elements that are provably ours and that no VM accounts for."""
    taps = known.taps | known.spared
    # What limits a tap is told by the tap, and goes with it.
    aliases = {**network.shapers, **{name: state.alias for name, state in network.taps.items()}}
    orphans = {name: aliases[name] for name in sorted(aliases.keys() - taps)}
    ours = {
        name: alias
        for name, alias in orphans.items()
        if ("tap", name) in inputs.ledger.taken or is_ours(inputs.ledger, *alias_parts(alias))
    }
    foreign = orphans.keys() - ours.keys()
    draft.warnings.extend(
        f"link {name} carries metald's alias but is not of this state folder; left alone"
        for name in sorted(foreign)
    )
    spared = known.spared | foreign
    # A kill between creating a link and naming it leaves one without alias, and an alias can be
    # changed: its name, which only our ledger ever held, is the proof then.
    nameless = {
        tap: ""
        for tap in sorted({tap_of(name) for name in network.foreign} - taps)
        if ("tap", tap) in inputs.ledger.taken
    }
    links = [*ours.items(), *nameless.items()]
    links += [(n, "") for n in left_bridges(network, inputs.ledger, known.bridges)]
    keys = tuple(draft.step(f"host:untap:{name}", host, RemoveTap(name)) for name, _ in links)
    stale = frozenset(
        element
        for element in draft.other_elements - known.elements
        if element.container not in _COMPARED_APART and not spared.intersection(element.key)
    )
    stale -= elements_about(spared, draft.other_elements)
    # What holds with another value is replaced, if not now then later; until then the old one does.
    wanted = draft.missing_elements | known.elements if stale else frozenset()
    replaced = {(element.container, element.key) for element in wanted}
    stale = frozenset([e for e in stale if (e.container, e.key) not in replaced])
    if stale:
        after = (*keys, *bind_keys(draft, {part for element in stale for part in element.key}))
        draft.step("host:stale", host, ChangeElements(frozenset(), stale), after=after)
    fields = [FieldChange(f"status.links.{name}", alias, None) for name, alias in links]
    if stale:
        fields.append(FieldChange("status.firewall.elements", f"{len(stale)} stale", None))
    if fields:
        reason = "left over: no VM accounts for it"
        draft.changes.append(Change(host, "update", "none", tuple(fields), reason))


def tear_down_host(draft: Draft, inputs: Inputs, network: NetworkState) -> None:
    """Remove our table and restore sysctls, after everything else; nothing is managed then."""
    strangers = foreign_taps(inputs.ledger, network)
    if strangers:
        draft.warnings.append(
            f"rules and sysctls stay: {len(strangers)} links of another state folder need them"
        )
        return
    before = tuple(draft.steps)
    fields = []
    if (network.firewall.listing, network.firewall.bridge_listing) != (None, None):
        draft.step("host:unload", LOCAL_HOST, RemoveFirewall(), after=before)
        fields.append(FieldChange(_RULES, network.firewall.listing, None))
    restore = tuple(
        (key, value)
        for key, value in inputs.ledger.sysctls_before.items()
        if network.sysctl(key) not in (None, value)
    )
    if restore:
        draft.step("host:restore", LOCAL_HOST, RestoreSysctls(restore), after=before)
    fields += [FieldChange(f"status.sysctls.{k}", network.sysctl(k), value) for k, value in restore]
    if fields:
        reason = "nothing is managed any more"
        draft.changes.append(Change(LOCAL_HOST, "delete", "none", tuple(fields), reason))
