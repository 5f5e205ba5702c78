"""Copies of the record: one file a resource, renewed after a kill, never believed when torn."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import UnknownStateError
from reconciler.execution.copies import Copies
from reconciler.model.kept import Kept, KeptRecord
from reconciler.model.ledger import Ledger
from reconciler.paths import RunPaths
from tests.planning.adoption.test_adoption import applied, two_tenants


def ledger() -> Ledger:
    return applied(two_tenants())[0].ledger()


def test_what_is_kept_reads_back_and_is_for_root_alone(tmp_path: Path) -> None:
    run, known = RunPaths(tmp_path), ledger()
    copies = Copies(run)
    assert copies.read() == Kept()
    copies.renew(lambda: known, after_a_kill=False)
    kept = copies.read()
    assert {a: (e.uid, e.spec) for a, e in kept.records.items()} == {
        a: (m.uid, m.spec) for a, m in known.managed.items()
    }
    assert (kept.firewall, kept.sysctls_before) == (known.firewall, known.sysctls_before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in run.records.iterdir()} == {0o600}
    assert stat.S_IMODE(run.records.stat().st_mode) == 0o700


def test_it_is_renewed_after_a_kill_and_forgets_only_what_is_dropped(tmp_path: Path) -> None:
    known, copies = ledger(), Copies(RunPaths(tmp_path))
    copies.renew(lambda: known, after_a_kill=False)
    first = next(iter(known.managed.values()))
    copies.keep([KeptRecord(first.address, first.uid, {"old": True})])
    copies.renew(lambda: pytest.fail("nothing asks for it"), after_a_kill=False)
    copies.renew(lambda: known, after_a_kill=True)
    assert copies.read().records[first.address].spec == first.spec
    # A new, empty state renews nothing: these copies may be all that is left.
    copies.renew(lambda: replace(known, managed={}), after_a_kill=True)
    assert copies.read().records.keys() == known.managed.keys()
    copies.keep_host(replace(known, firewall=("new", "new"), sysctls_before={}))
    assert copies.read().firewall == ("new", "new")
    assert copies.read().sysctls_before == known.sysctls_before
    copies.drop(first.uid)
    copies.drop(first.uid)
    assert copies.read().records.keys() == known.managed.keys() - {first.address}


def test_an_address_kept_twice_proves_nothing_and_a_torn_copy_is_unknown(tmp_path: Path) -> None:
    known, run = ledger(), RunPaths(tmp_path)
    copies = Copies(run)
    first = next(iter(known.managed.values()))
    copies.keep([KeptRecord(first.address, uid, {}) for uid in ("1" * 32, "2" * 32)])
    assert copies.read().records == {}
    (run.records / f"{'1' * 32}.json").write_text("torn")
    with pytest.raises(UnknownStateError, match="cannot be read"):
        copies.read()


def test_a_copy_that_cannot_be_written_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "records").write_text("in the way")
    Copies(RunPaths(tmp_path)).keep_host(ledger())
    assert "cannot be copied" in caplog.text
