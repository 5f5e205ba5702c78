"""Proof that something found on the host is ours: its uid derives from our own secret.

Names and aliases alone prove nothing: another state folder may have written them.
"""

from __future__ import annotations

from reconciler.model import identity
from reconciler.model.ledger import Ledger


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
