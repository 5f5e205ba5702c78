"""Proof that something found on the host is ours: its uid derives from our own secret.

Names and aliases alone prove nothing: another state folder may have written them.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from reconciler.model import identity
from reconciler.model.firewall import (
    BRIDGE,
    BRIDGES,
    CONNECTIONS,
    RULES,
    TIERS,
    Element,
    zone_class,
)
from reconciler.model.identity import bridge_of
from reconciler.model.ledger import Ledger
from reconciler.model.observed import NetworkState, Unknown
from reconciler.model.resolved import ALIAS_PREFIX

_MEMBERS = frozenset({"members", "member_prefixes"})
_SOURCES = frozenset({"sources", BRIDGE + "sources"})
_CONNECTIONS = frozenset({CONNECTIONS, BRIDGE + CONNECTIONS})
_TIERS = frozenset({TIERS, BRIDGE + TIERS})
_OF_BRIDGES = frozenset({BRIDGES, "class_of_segment", "denies_logged_at"})


def is_ours(ledger: Ledger, owner: str, uid: str) -> bool:
    """Some incarnation of ``owner`` (an address or ``vm/…#network``) has this uid."""
    if not owner or not uid:
        return False
    if uid in ledger.taken.values():
        return True  # it holds, or lately held, a name or an address of this ledger
    address = owner.split("#", 1)[0]
    return any(
        identity.derive_uid(ledger.secret, owner=owner, incarnation=number) == uid
        for number in range(1, ledger.incarnations.get(address, 0) + 1)
    )


def alias_parts(alias: str) -> tuple[str, str]:
    """(owner, uid) written in a link's alias; empty strings when it reads differently."""
    words = alias.removeprefix(ALIAS_PREFIX).split(" ")
    return (words[0], words[1]) if len(words) == 2 else ("", "")  # noqa: PLR2004


def foreign_taps(ledger: Ledger, network: NetworkState | Unknown) -> frozenset[str]:
    """Links that carry metald's alias and are not provably ours."""
    if isinstance(network, Unknown):
        return frozenset()
    return frozenset(
        name
        for name, state in network.taps.items()
        if ("tap", name) not in ledger.taken and not is_ours(ledger, *alias_parts(state.alias))
    )


def elements_about(taps: AbstractSet[str], elements: AbstractSet[Element]) -> frozenset[Element]:
    """Every firewall element that lets these links' VMs talk: their own, their addresses'
    membership, and what their networks are allowed.
    """
    if not taps:
        return frozenset()
    own = {element for element in elements if taps & set(element.key)}
    marks = {entry.value for entry in own if entry.container in {"zone_of", "segment_of"}}
    bridges = {bridge_of(int(mark, 0)) for mark in marks}
    marks |= {zone_class(int(mark, 0)) for mark in marks}
    addresses = {entry.key[1] for entry in own if entry.container in _SOURCES}
    tiers = {entry.value.rpartition("_")[2] for entry in own if entry.container in _CONNECTIONS}
    return frozenset(own) | {
        element
        for element in elements
        if (element.container in _MEMBERS and (marks | addresses) & set(element.key))
        or (element.container in RULES and marks & set(element.key[:2]))
        or (element.container in _TIERS and element.key[0] in tiers)
        or (element.container in _OF_BRIDGES and (bridges | marks | addresses) & set(element.key))
    }
