"""Links of ours deleted: many at once, and never one that is not ours.

The kernel waits some 20 ms after each link it deletes, and once for a whole group of links
(rtnl_group_dellink): links to go are put into a group of their own, who is in it is looked at
once more, and the group is deleted. Called by ``network.kernel``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from reconciler.errors import MetaldError, RefusedError
from reconciler.model.identity import shaper_of
from reconciler.network import bridges, changes
from reconciler.network.owned import may_be_ours
from reconciler.network.rtnl import Rtnl
from reconciler.network.tables import Link, read_links
from reconciler.network.taps import Failures

# Where we look for a number that no link has as its group; people use small ones.
_FIRST_GROUP: Final = 0x6D740000
# How many go at once: the kernel lets nobody else change links meanwhile.
_AT_ONCE: Final = 500


def remove_all(names: Sequence[str]) -> Failures:
    """Delete taps of ours, what limits them, and bridges that nothing is on then, over one socket;
    fine when they are gone. Failures by name.
    """
    with Rtnl() as rtnl:
        links = read_links(rtnl)
        both = (entry for name in names for entry in (shaper_of(name), name))
        there = [links[name] for name in dict.fromkeys(both) if name in links]
        failures: Failures = {
            link.name: RefusedError("the link is not ours; left alone", subject=link.name)
            for link in there
            if not may_be_ours(link)
        }
        ours = [link for link in there if link.name not in failures]
        for part in _parts(ours):
            if len(part) > 1 and _delete_together(rtnl, part, links):
                continue
            failures.update(_delete_singly(rtnl, part))
        _leave_bridges(rtnl, ours, links)
    return failures


def _leave_bridges(rtnl: Rtnl, gone: Sequence[Link], links: Mapping[str, Link]) -> None:
    """A bridge of ours goes with the last link on it."""
    left = {link.master for link in gone if link.master}
    names = {name for name, link in links.items() if link.index in left}
    if names:
        bridges.remove_empty(rtnl, names)


def _parts(links: Sequence[Link]) -> Iterator[Sequence[Link]]:
    for start in range(0, len(links), _AT_ONCE):
        yield links[start : start + _AT_ONCE]


def _delete_singly(rtnl: Rtnl, links: Sequence[Link]) -> Mapping[str, MetaldError]:
    errors = rtnl.change([changes.delete_link(link.index, link.name) for link in links])
    return {
        link.name: error for link, error in zip(links, errors, strict=True) if error is not None
    }


def _delete_together(rtnl: Rtnl, links: Sequence[Link], known: Mapping[str, Link]) -> bool:
    """Whether they went as a group; when not, each is there or gone as it was."""
    group = _free_group(known)
    if any(rtnl.change([changes.set_group(link.index, group) for link in links])):
        return False  # one went by itself meanwhile: no reason to guess
    members = {link.index for link in read_links(rtnl).values() if link.group == group}
    if members != {link.index for link in links}:
        return False
    return rtnl.change([changes.delete_group(group)]) == [None]


def _free_group(known: Mapping[str, Link]) -> int:
    taken = {link.group for link in known.values()}
    return next(group for group in range(_FIRST_GROUP, 1 << 32) if group not in taken)
