"""Back-off of what failed: doubled, spread, bounded, forgotten when the spec changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.errors import TransientError
from reconciler.execution.executor import RunResult
from reconciler.execution.outcome import Outcome
from reconciler.execution.retrying import FIRST_S, retries_after
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Ledger, Managed
from reconciler.model.plan import ChangeElements, Plan, Step
from reconciler.planning.bounds.waiting import LONGEST_S
from tests.planning.world import World

VM = ResourceAddress("vm/acme/one")
STEP = Step("raise", VM, ChangeElements(frozenset(), frozenset()))


def ledger(spec_hash: str = "first") -> Ledger:
    known = Managed(VM, "5f" * 16, 1, {}, spec_hash, 1, 1)
    return replace(World().ledger(), managed={VM: known})


def failed() -> Outcome:
    plan = Plan("id", (), (), (STEP,), (), (), (), 0)
    return Outcome(plan, 1, RunResult({STEP.key: TransientError("no")}, ()))


def test_the_delay_doubles_up_to_a_bound_and_is_spread_over_its_upper_half() -> None:
    now, delays = ledger(), []
    for _ in range(12):
        low, high = (retries_after(failed(), now, lambda d=drawn: d)[0]  # type: ignore[misc]
                     for drawn in (0.0, 1.0))  # fmt: skip
        assert low.not_before_s - now.now_s == pytest.approx((high.not_before_s - now.now_s) / 2)
        delays.append(high.not_before_s - now.now_s)
        now = replace(now, retries={VM: high})
    assert delays[:4] == pytest.approx([FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S])
    assert delays[-1] == pytest.approx(LONGEST_S) == max(delays)


def test_a_new_change_begins_anew() -> None:
    now = ledger()
    for _ in range(5):
        (retry,) = retries_after(failed(), now, lambda: 1.0)
        now = replace(now, retries={VM: retry})
    assert retry.failures == 5
    (anew,) = retries_after(failed(), replace(ledger("second"), retries={VM: retry}), lambda: 1.0)
    assert anew.failures == 1
    assert anew.not_before_s - now.now_s == pytest.approx(FIRST_S)
