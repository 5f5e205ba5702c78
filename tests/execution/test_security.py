"""What of drops is told: all of it, once, of everybody in turn, whatever happens to the counts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import MetaldError
from reconciler.execution.drops import Whose
from reconciler.execution.security import AT_ONCE, EACH_S, Counted, Dropped, Told, news
from reconciler.model.addresses import ResourceAddress
from reconciler.model.drops import Denied, Drops, Tally
from reconciler.model.firewall import CONTROLS

NUMBERS = {control.name: number for number, control in enumerate(CONTROLS, 1)}
TENANT, RAGUARD = NUMBERS["tenant"], NUMBERS["raguard"]
LINKS = ("mt1", "mt2", "mt3")


def whose(name: str, logging: str = "events") -> Whose:
    return Whose(ResourceAddress(f"vm/acme/{name}"), "front", (f"fd20::{name[-1]}",), logging)


OWNERS = {link: whose(f"v{link[-1]}") for link in LINKS}


def drops(since_s: int = 1000, **counts: int) -> Drops:
    by_link = {(link, TENANT): Tally(count, 100 * count) for link, count in counts.items()}
    return Drops({}, by_link, since_s)


def told_of(events: tuple[Dropped, ...]) -> dict[str, int]:
    return {event.vm.rsplit("/", 1)[1]: event.grown.packets for event in events}


def test_growth_is_told_once_a_minute_with_all_that_came_meanwhile() -> None:
    told, events = news(Told(), drops(mt1=3), OWNERS, (), 2000.0)
    assert told_of(events) == {"v1": 3}
    assert (events[0].since_s, events[0].grown.octets) == (1000.0, 300)
    told, events = news(told, drops(mt1=5), OWNERS, (), 2030.0)
    assert events == ()
    told, events = news(told, drops(mt1=9), OWNERS, (), 2000.0 + EACH_S)
    assert told_of(events) == {"v1": 6} and events[0].since_s == 2000.0
    told, events = news(told, drops(mt1=9), OWNERS, (), 5000.0)
    assert events == ()


def test_counts_that_began_anew_are_told_from_there() -> None:
    told, _ = news(Told(), drops(mt1=30), OWNERS, (), 2000.0)
    told, events = news(told, drops(since_s=3000, mt1=40), OWNERS, (), 4000.0)
    assert told_of(events) == {"v1": 40}, "another beginning: all of it is new"
    _, events = news(told, drops(since_s=3000, mt1=2), OWNERS, (), 5000.0)
    assert told_of(events) == {"v1": 2}, "the entry was made anew"


def test_logging_says_who_is_told_and_with_examples() -> None:
    owners = {"mt1": whose("v1", "off"), "mt2": whose("v2", "events"), "mt3": whose("v3", "denies")}
    recent = [Denied(link, "fd99::1", "tcp", port) for link in LINKS for port in range(1, 9)]
    told, events = news(Told(), drops(mt1=1, mt2=1, mt3=1), owners, recent, 2000.0)
    assert {e.vm: [x.port for x in e.examples] for e in events} == {
        "vm/acme/v2": [], "vm/acme/v3": [1, 2, 3],
    }  # fmt: skip
    assert "lately tcp 1 of fd99::1" in events[-1].to_event("").message
    # Whoever is told of from now on is not told of what was before.
    owners["mt1"] = whose("v1", "events")
    _, events = news(told, drops(mt1=2, mt2=1, mt3=1), owners, (), 3000.0)
    assert told_of(events) == {"v1": 1}
    raguard = Drops({}, {("mt3", RAGUARD): Tally(1, 1)}, 1000)
    _, (event,) = news(Told(), raguard, owners, recent, 2000.0)
    assert event.examples == (), "examples are of what was denied"


def test_what_is_nobodys_any_more_is_not_told() -> None:
    _, events = news(Told(), drops(mt9=4), OWNERS, (), 2000.0)
    assert events == ()


@given(st.data())
def test_everything_is_told_once_and_nobody_waits_for_ever(data: st.DataObject) -> None:
    """Many interfaces, more than one look tells of, counts that grow, restarts in between."""
    links = [f"mt{number}" for number in range(AT_ONCE + 20)]
    owners = {link: whose(f"v{link[2:]}") for link in links}
    told, now_s = Told(), 10_000.0
    counts: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for _ in range(data.draw(st.integers(1, 6))):
        counts.update(data.draw(st.dictionaries(st.sampled_from(links), st.integers(1, 9))))
        now_s += data.draw(st.sampled_from([1.0, 30.0, 61.0]))
        told, events = news(told, drops(**counts), owners, (), now_s)
        assert len(events) <= AT_ONCE
        said.update({f"mt{name[1:]}": n for name, n in told_of(events).items()})
        told = Told.from_text(told.to_text())
    for _ in range(2):
        now_s += EACH_S
        told, events = news(told, drops(**counts), owners, (), now_s)
        said.update({f"mt{name[1:]}": n for name, n in told_of(events).items()})
    assert said == counts


def test_what_was_kept_is_read_back_or_said_to_be_unreadable() -> None:
    told = Told({("mt1", 3): Counted(1, 2, 3.5)}, 1000)
    assert Told.from_text(told.to_text()) == told
    assert Told.from_text("") == Told()
    for broken in ("{", "[]", '{"counts": [[1]], "since": 0}'):
        with pytest.raises(MetaldError, match="last told of drops"):
            Told.from_text(broken)
