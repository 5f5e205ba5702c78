"""``kind: PricePlan``: what a tenant pays for, at which price, from which day on.

``source`` builds it from YAML, ``planning.pricing.cost`` estimates with it. Money is exact: amounts
are decimal text, never numbers of YAML, and every unit is a whole number of base units.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from reconciler.model.base import SpecModel

HOURS_PER_MONTH = 730
"""A month of prices and estimates: a twelfth of 365 days, whatever the calendar says."""

_HOUR = 3600
_MONTH = HOURS_PER_MONTH * _HOUR
_GIB = 2**30
UNITS: Mapping[str, int] = {
    "second": 1, "hour": _HOUR, "month": _MONTH,
    "byte-second": 1, "GiB-hour": _GIB * _HOUR, "GiB-month": _GIB * _MONTH,
}  # fmt: skip
"""Base units (seconds of one thing, or byte-seconds) in each unit that a price may be per."""

# ISO 4217 active codes of money (no metals, funds or test codes) by digits of the minor unit;
# https://www.six-group.com/en/products-services/financial-information/data-standards.html
_CODES_BY_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP "
    "BYN BZD CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL "
    "GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP "
    "LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR "
    "NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP "
    "STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER "
    "ZAR ZMW ZWG",
    3: "BHD IQD JOD KWD LYD OMR TND",
}
MINOR_DIGITS: Mapping[str, int] = {
    code: digits for digits, codes in _CODES_BY_DIGITS.items() for code in codes.split()
}

AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,24})?$"
PERCENT_PATTERN = r"^(0|[1-9][0-9]?|100)(\.[0-9]{1,6})?%$"
DATE_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


def _amount(value: object) -> Decimal:
    if isinstance(value, int | float):
        raise ValueError(f'{value} is a number of YAML, not exact; quote it, like "{value}"')
    if not isinstance(value, str) or re.fullmatch(AMOUNT_PATTERN, value) is None:
        raise ValueError(f'{value!r} is not an amount; write it like "0.0125", not negative')
    # Without trailing zeros, so that equal prices are recorded as equal text.
    return Decimal(value.rstrip("0").rstrip(".") if "." in value else value)


def _percent(value: object) -> Decimal:
    if not isinstance(value, str) or re.fullmatch(PERCENT_PATTERN, value) is None:
        raise ValueError(f"{value!r} is not a percentage; write it like 10% or 2.5%")
    percent = Decimal(value.removesuffix("%"))
    if percent > 100:  # noqa: PLR2004 - percent
        raise ValueError(f"{value} is more than 100%")
    return _amount(str(percent))


def _day(value: object) -> date:
    if not isinstance(value, str) or re.fullmatch(DATE_PATTERN, value) is None:
        raise ValueError(f"{value!r} is not a day; write it like 2026-01-01")
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{value} is not in the calendar: {error}") from error


def _known_currency(code: str) -> str:
    if code not in MINOR_DIGITS:
        raise ValueError(f"{code} is not a currency of ISO 4217; write it like EUR")
    return code


def _plain(value: Decimal) -> str:
    return format(value, "f")


Amount = Annotated[
    Decimal,
    BeforeValidator(_amount),
    PlainSerializer(_plain, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": AMOUNT_PATTERN, "description": "exact decimal"}),
]
Percent = Annotated[
    Decimal,
    BeforeValidator(_percent),
    PlainSerializer(lambda value: f"{_plain(value)}%", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": PERCENT_PATTERN, "description": "like 2.5%"}),
]
Day = Annotated[
    date,
    BeforeValidator(_day),
    WithJsonSchema({"type": "string", "format": "date"}),
]
Currency = Annotated[
    str,
    AfterValidator(_known_currency),
    WithJsonSchema({"type": "string", "enum": sorted(MINOR_DIGITS)}),
]


class Tier(SpecModel):
    """One step of a price; the last one has no end."""

    up_to: Amount | None = Field(
        default=None, description="end of the tier, in units per month beyond what is included"
    )
    price: Amount


class MeterPrice(SpecModel):
    """What one meter costs: a price per unit, or tiers of prices, over a tenant's total.

    What is included each month is free and comes before the first tier.
    """

    per: str
    price: Amount | None = Field(default=None, description="per unit")
    included: Amount = Field(default=Decimal(0), description="free units per tenant and month")
    tiers: tuple[Tier, ...] = Field(default=(), max_length=100, description="instead of price")
    tiering: Literal["graduated", "volume"] = Field(
        default="graduated",
        description="graduated: each tier's units at its price; volume: all at the last's reached",
    )

    @model_validator(mode="after")
    def _one_ladder(self) -> Self:
        if (self.price is None) == (not self.tiers):
            raise ValueError("give either price or tiers")
        ends = [tier.up_to for tier in self.tiers]
        if ends and (ends[-1] is not None or None in ends[:-1]):
            raise ValueError("every tier but the last needs upTo, and the last has none")
        bounds = [Decimal(0), *(end for end in ends if end is not None)]
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError("upTo must grow from tier to tier")
        return self

    def steps(self) -> tuple[tuple[Decimal | None, Decimal], ...]:
        """(end or None, price per unit) in rising order; one step for a plain price."""
        if self.price is not None:
            return ((None, self.price),)
        return tuple((tier.up_to, tier.price) for tier in self.tiers)


class TimePrice(MeterPrice):
    """Price of a meter of seconds."""

    per: Literal["second", "hour", "month"] = Field(
        default="second", description="a month is 730 hours"
    )


class ByteTimePrice(MeterPrice):
    """Price of a meter of byte-seconds."""

    per: Literal["byte-second", "GiB-hour", "GiB-month"] = Field(
        default="byte-second", description="a month is 730 hours"
    )


class AddressPrice(MeterPrice):
    """Price of holding an address."""

    per: Literal["hour", "month"] = Field(default="month", description="a month is 730 hours")


def _expanded(value: object) -> object:
    # A bare price is the usual case: vcpuSeconds: "0.000004". A number is refused further down.
    return {"price": value} if isinstance(value, str | int | float) else value


def _also_text(schema: dict[str, Any]) -> None:
    schema["anyOf"].insert(0, {"type": "string", "pattern": AMOUNT_PATTERN})


_BARE = BeforeValidator(_expanded)


class Prices(SpecModel):
    """Prices by meter; a meter that is not named here costs nothing."""

    cpu_seconds: Annotated[TimePrice | None, _BARE] = Field(
        default=None, json_schema_extra=_also_text, description="vCPU time really used"
    )
    vcpu_seconds: Annotated[TimePrice | None, _BARE] = Field(
        default=None, json_schema_extra=_also_text, description="vCPUs of VMs that are powered"
    )
    memory_byte_seconds: Annotated[ByteTimePrice | None, _BARE] = Field(
        default=None, json_schema_extra=_also_text, description="memory of VMs that are powered"
    )
    addresses: Annotated[AddressPrice | None, _BARE] = Field(
        default=None, json_schema_extra=_also_text, description="addresses of VMs, powered or not"
    )

    def by_meter(self) -> dict[str, MeterPrice]:
        """The meters that cost something, by field name."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: price for name, price in named.items() if price is not None}


class PriceVersion(SpecModel):
    """What is asked from one day on, until the next version's day.

    Per tenant and month: the meters' sum, less the discount, at least the minimum, at most
    the cap. All of it is net of taxes.
    """

    effective_from: Day = Field(description="its first day, in UTC")
    prices: Prices = Field(default_factory=Prices)
    discount: Percent = Field(default=Decimal(0), description="off the meters' sum")
    minimum: Amount = Field(default=Decimal(0), description="per tenant and month")
    cap: Amount | None = Field(default=None, description="per tenant and month")

    @model_validator(mode="after")
    def _cap_above_minimum(self) -> Self:
        if self.cap is not None and self.cap < self.minimum:
            raise ValueError(f"the cap {self.cap} is less than the minimum {self.minimum}")
        return self


class PricePlanSpec(SpecModel):
    """A currency and its prices over time: a price is superseded by a later version, not edited."""

    currency: Currency
    versions: tuple[PriceVersion, ...] = Field(
        description="in order of their days", json_schema_extra={"minItems": 1}
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        # Not min_length: that would also complain of versions that are there and wrong.
        if not self.versions:
            raise ValueError("versions needs at least one")
        days = [version.effective_from for version in self.versions]
        if any(first >= second for first, second in pairwise(days)):
            raise ValueError("versions must stand in order, each effectiveFrom after the last")
        return self

    def version_on(self, day: date) -> PriceVersion | None:
        """The version in force on a day, None before the first one's."""
        started = [version for version in self.versions if version.effective_from <= day]
        return started[-1] if started else None
