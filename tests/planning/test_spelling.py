"""Addresses as planning spells and reads them, against what ``ipaddress`` says."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.identity import link_local_of
from reconciler.model.ip6 import address_number, address_text, is_within

# Groups of zeroes, which are written otherwise, among others.
groups = st.sampled_from([0, 0, 1, 0xFFFF, 0xFD20]) | st.integers(0, 0xFFFF)
numbers = st.lists(groups, min_size=8, max_size=8).map(
    lambda found: sum(group << 16 * place for place, group in enumerate(found))
)
octets = st.sampled_from([0, 1, 2, 0xFF]) | st.integers(0, 0xFF)


@given(numbers)
def test_text_and_number_are_as_everywhere(number: int) -> None:
    text = str(IPv6Address(number))
    assert address_text(number) == text
    assert address_number(text) == number


@given(numbers, numbers, st.integers(40, 72), st.booleans())
def test_inside_a_prefix_or_not(number: int, other: int, length: int, near: bool) -> None:
    prefix = IPv6Network((number, length), strict=False)
    low = (1 << (128 - length)) - 1
    address = IPv6Address(number & ~low | other & low if near else other)
    assert is_within(str(address), prefix) == (address in prefix)


@given(st.lists(octets, min_size=6, max_size=6))
def test_the_link_local_address_of_a_mac(mac: list[int]) -> None:
    whole = bytes([0xFE, 0x80, *[0] * 6, mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])
    assert link_local_of(bytes(mac).hex(":")) == str(IPv6Address(whole))
