"""Netlink's bytes: what does not add up is unknown, and never a shorter table."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import UnknownStateError
from reconciler.network import messages, tables
from reconciler.network.messages import InterruptedDumpError
from reconciler.network.tables import Link

NEWLINK, DONE, ERROR, OVERRUN = 16, 3, 2, 4
SEQUENCE, PORT = 77, 4242
MULTI, INTERRUPTED = 0x2, 0x10
COUNT = 6


def packed(kind: int, body: bytes, *, flags: int = MULTI, sequence: int = SEQUENCE) -> bytes:
    raw = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, PORT) + body
    return raw + bytes(-len(raw) % 4)


def link_body(number: int) -> bytes:
    conf = struct.pack("=30i", *range(30))
    return b"".join(
        [
            tables.LINK_HEAD.pack(0, 1, number, 0x10001, 0),
            messages.attribute(tables.IFLA_IFNAME, f"mt{number}\0".encode()),
            messages.attribute(tables.IFLA_MTU, struct.pack("=I", 1500)),
            messages.attribute(tables.IFLA_ADDRESS, bytes([2, 0, 0, 0, 0, number])),
            messages.attribute(tables.IFLA_IFALIAS, f"metald vm/a/v{number}\0".encode()),
            messages.nested(18, messages.attribute(1, b"tun\0")),
            messages.nested(tables.IFLA_AF_SPEC, messages.nested(10, messages.attribute(2, conf))),
        ]
    )


def dump(*, end: bytes | None = None, flags: int = MULTI) -> list[bytes]:
    """Six links in two datagrams, and the end in a third."""
    links = [packed(NEWLINK, link_body(number), flags=flags) for number in range(1, COUNT + 1)]
    done = packed(DONE, bytes(4)) if end is None else end
    return [b"".join(links[:4]), b"".join(links[4:]), done]


def read(datagrams: Iterable[bytes]) -> list[Link]:
    bodies = messages.read_dump(datagrams, kind=NEWLINK, sequence=SEQUENCE, port=PORT)
    return [tables.parse_link(body) for body in bodies]


WHOLE = read(dump())
HEADERS = [
    (which, start + offset)
    for which, datagram in enumerate(dump())
    for start in range(0, len(datagram), max(1, len(packed(NEWLINK, link_body(1)))))
    for offset in range(16)
]


def unknown_or(datagrams: Sequence[bytes]) -> list[Link] | None:
    try:
        return read(datagrams)
    except UnknownStateError:
        return None


def test_a_whole_dump_is_read() -> None:
    assert [link.name for link in WHOLE] == [f"mt{number}" for number in range(1, COUNT + 1)]
    assert WHOLE[0].alias == "metald vm/a/v1" and WHOLE[0].mac == "02:00:00:00:00:01"
    assert WHOLE[0].settings == {
        "accept_ra": 3, "accept_redirects": 4, "proxy_ndp": 22, "accept_source_route": 24
    }  # fmt: skip


@pytest.mark.parametrize(
    "datagrams",
    [
        [],
        dump()[:2],
        [*dump()[:1], packed(OVERRUN, b"")],
        [packed(ERROR, struct.pack("=i", -12) + bytes(16))],
        dump(end=packed(DONE, struct.pack("=i", -12))),
        dump(end=packed(DONE, b"")),
        [*dump()[:2], packed(NEWLINK + 1, b""), dump()[2]],
        dump(end=packed(DONE, bytes(4), sequence=SEQUENCE - 1)),
        dump(flags=0),
    ],
    ids=["nothing", "endless", "overrun", "error", "end-error", "no-result", "kind", "late", "one"],
)
def test_what_is_not_a_whole_dump_is_unknown(datagrams: list[bytes]) -> None:
    with pytest.raises(UnknownStateError):
        read(datagrams)


def test_a_dump_that_was_interrupted_is_read_to_its_end_and_refused() -> None:
    rest = iter([*dump(flags=MULTI | INTERRUPTED), b"not looked at"])
    with pytest.raises(InterruptedDumpError):
        read(rest)
    assert next(rest) == b"not looked at"
    with pytest.raises(InterruptedDumpError):
        read(dump(end=packed(DONE, bytes(4), flags=MULTI | INTERRUPTED)))


@given(which=st.integers(0, 2), data=st.data())
def test_a_datagram_cut_inside_a_message_is_unknown(which: int, data: st.DataObject) -> None:
    datagrams = dump()
    size = len(packed(NEWLINK, link_body(1)))
    cut = data.draw(st.integers(1, len(datagrams[which]) - 1).filter(lambda at: at % size))
    datagrams[which] = datagrams[which][:cut]
    assert unknown_or(datagrams) is None


@given(place=st.sampled_from(HEADERS), value=st.integers(0, 255))
def test_a_changed_byte_of_a_header_is_harmless_or_unknown(
    place: tuple[int, int], value: int
) -> None:
    which, position = place
    datagrams = [bytearray(datagram) for datagram in dump()]
    datagrams[which][position] = value
    assert unknown_or([bytes(datagram) for datagram in datagrams]) in (WHOLE, None)


@given(which=st.integers(0, 2), changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255))))
def test_changed_bytes_never_lose_an_entry(which: int, changes: list[tuple[int, int]]) -> None:
    """Nothing but UnknownStateError is raised either."""
    datagrams = [bytearray(datagram) for datagram in dump()]
    for position, value in changes:
        datagrams[which][position % len(datagrams[which])] = value
    found = unknown_or([bytes(datagram) for datagram in datagrams])
    assert found is None or len(found) == COUNT


@given(body=st.binary(max_size=80))
def test_any_bytes_are_entries_or_unknown(body: bytes) -> None:
    for parse in (
        tables.parse_link,
        tables.parse_address,
        lambda raw: list(tables.parse_routes(raw)),
        lambda raw: list(tables.parse_neighbour(raw)),
        lambda raw: messages.read_acknowledgements(raw, port=PORT),
    ):
        try:
            parse(body)
        except UnknownStateError:
            continue


def test_the_kernels_own_words_are_kept() -> None:
    words = messages.attribute(1, b"Invalid MTU\0")
    body = struct.pack("=i", -22) + bytes(16) + words
    (one,) = messages.read_acknowledgements(packed(ERROR, body, flags=0x300), port=PORT)
    assert (one.code, one.detail) == (22, "Invalid MTU")


@pytest.mark.parametrize(
    "raw",
    [packed(ERROR, bytes(8)), packed(ERROR, struct.pack("=i", 5) + bytes(16)), packed(DONE, b"")],
    ids=["cut", "positive", "kind"],
)
def test_a_strange_acknowledgement_is_unknown(raw: bytes) -> None:
    with pytest.raises(UnknownStateError):
        messages.read_acknowledgements(raw, port=PORT)
