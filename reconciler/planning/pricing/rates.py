"""Arithmetic of money: what a quantity costs, how a sum is shared out, where it is rounded.

Exact fractions up to the one rounding in ``rounded``; ``Decimal`` only at the edges, so that
no context's precision matters. Called by ``planning.pricing.cost``.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

from reconciler.model.prices import UNITS, MeterPrice, PriceVersion

_K = TypeVar("_K", bound=str)

HOURLY_DIGITS = 6
"""Decimal places of an amount per hour; per month it has its currency's minor unit."""


def meter_cost(price: MeterPrice, base_units: Fraction) -> Fraction:
    """Price of a tenant's total of one meter in a month, in base units (see ``UNITS``)."""
    used = base_units / UNITS[price.per] - Fraction(price.included)
    if used <= 0:
        return Fraction(0)
    total, start = Fraction(0), Fraction(0)
    for end, unit_price in price.steps():
        reached = end is None or used <= Fraction(end)
        if reached and price.tiering == "volume":
            return used * Fraction(unit_price)
        stop = used if end is None or reached else Fraction(end)
        total += (stop - start) * Fraction(unit_price)
        if reached:
            break
        start = stop
    return total


def settled(version: PriceVersion, metered: Fraction) -> tuple[Fraction, Fraction]:
    """(factor on every metered amount, what the minimum adds) for a month's metered sum.

    Discount first, then the minimum, then the cap: factor * metered + addition is due.
    """
    factor = 1 - Fraction(version.discount) / 100
    due = metered * factor
    if due < version.minimum:
        return factor, Fraction(version.minimum) - due
    if version.cap is not None and due > version.cap:
        return Fraction(version.cap) / metered, Fraction(0)
    return factor, Fraction(0)


def rounded(amount: Fraction, digits: int) -> int:
    """The nearest whole number of units of 10**-digits, halves to even: the one rounding."""
    units: int = round(amount * 10**digits)
    return units


def shared(exact: Mapping[_K, Fraction], total: int, digits: int) -> dict[_K, int]:
    """Whole units of 10**-digits per key that sum to ``total``, the rounded sum of ``exact``.

    Largest remainder: each is cut off, what is missing goes one by one to those that lost
    most, the first key first among equals.
    """
    scaled = {key: amount * 10**digits for key, amount in exact.items()}
    shares = {key: amount.numerator // amount.denominator for key, amount in scaled.items()}
    missing = total - sum(shares.values())
    by_loss = sorted(scaled, key=lambda key: (shares[key] - scaled[key], key))
    for key in by_loss[:missing]:
        shares[key] += 1
    return shares


def money(units: int, digits: int) -> Decimal:
    """Whole units of 10**-digits as an exact Decimal with that many places."""
    return Decimal(f"{units}E-{digits}")
