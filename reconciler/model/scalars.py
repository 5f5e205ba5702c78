"""Scalars of the spec language: what a field takes that is one word or number, strictly read."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from reconciler.model.addresses import NAME_PATTERN


def _whole_number(value: object) -> object:
    # Lax parsing would take true, "4" and 2.0; the specs say what they mean.
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("int_type", "must be a whole number")
    return value


def _true_or_false(value: object) -> object:
    if not isinstance(value, bool):
        raise PydanticCustomError("bool_type", "must be true or false")
    return value


def _text_only(value: object) -> object:
    # ipaddress takes whole numbers too; a spec that says 5 is a mistake, not an address.
    if not isinstance(value, str):
        raise ValueError("write it as text, like fd20:acde::/48 or auto")
    return value


Count = Annotated[int, BeforeValidator(_whole_number)]
Flag = Annotated[bool, BeforeValidator(_true_or_false)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, description="RFC 1123 label")]
Auto = Literal["auto"]
AutoSubnet = Literal["auto/64"]
Address6 = Annotated[IPv6Address, BeforeValidator(_text_only)]
Prefix6 = Annotated[IPv6Network, BeforeValidator(_text_only)]
