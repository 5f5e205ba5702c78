"""Saved plans: carried out once, exactly, and only while specs and host are what they were."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.planning.canonical import digest_plain
from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.source.repositories import Repo

pytestmark = [pytest.mark.netns]
FLEET = tenant("acme") + network("acme", "lan") + vm("acme", "one", SIMULATED)
MORE = FLEET + vm("acme", "two", SIMULATED)


@pytest.fixture
def settled(host: Host) -> Host:
    host.write("fleet.yaml", FLEET)
    host.run("apply", str(host.specs), "--yes")
    return host


def save(host: Host, text: str, place: str = "") -> Path:
    host.write("fleet.yaml", text)
    file = host.folder / "saved.plan"
    host.run("plan", place or str(host.specs), "--out", str(file))
    return file


def test_a_saved_plan_is_readable_and_carried_out_once_as_it_is(settled: Host) -> None:
    file = save(settled, MORE)
    text = file.read_text()
    saved = json.loads(text)
    assert text == json.dumps(saved, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert saved["format"] == "metald.planfile/v1"
    assert set(saved["specs"]) == {
        "tenant/acme", "network/acme/lan", "vm/acme/one", "vm/acme/two"
    }  # fmt: skip
    assert "host boot" in saved["observed"] and "process of vm/acme/one" in saved["observed"]
    assert saved["plan"]["fingerprint"] and saved["plan"]["source"]["path"] == str(settled.specs)

    done = settled.json("apply", str(file))
    assert done["outcome"] == "done"
    assert done["plan"]["id"] == saved["plan"]["id"]
    assert done["plan"]["changes"] == saved["plan"]["changes"]
    assert settled.json("history")["items"][0]["plan"] == saved["plan"]["id"]
    again = settled.run("apply", str(file), expect=4)
    assert "this plan was carried out already, by run 2" in again.stderr
    # Also where it would have nothing to do, or the same to do again.
    settled.run("destroy", "--target", "vm/acme/two", "--yes")
    settled.run("apply", str(file), expect=4)
    assert set(settled.vms()) == {"vm/acme/one"}


def test_whatever_moved_is_refused_and_named(settled: Host) -> None:
    def specs_moved() -> None:
        settled.write("fleet.yaml", MORE.replace("name: two", "name: three"))

    def link_gone() -> None:
        settled.ip("link", "delete", settled.vms()["vm/acme/one"]["taps"][0])

    def vm_died() -> None:
        settled.runs.vm(settled.vms()["vm/acme/one"]["uid"]).process.unlink()

    def rules_gone() -> None:
        settled.inside("nft", "flush", "set", "inet", "metald", "taps")

    def sysctl_moved() -> None:
        settled.inside("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding")

    cases: dict[Callable[[], object], tuple[str, ...]] = {
        specs_moved: ("vm/acme/three is new", "vm/acme/two is gone"),
        lambda: settled.run("hold", "vm/acme/one"): ("hold on vm/acme/one is new",),
        vm_died: ("process of vm/acme/one changed",),
        link_gone: ("vm/acme/one", "is gone"),
        rules_gone: ("firewall entries changed",),
        sysctl_moved: ("sysctl", "forwarding changed"),
    }
    for move, expected in cases.items():
        file = save(settled, MORE)
        move()
        before = settled.snapshot()
        refused = settled.run("apply", str(file), expect=4)
        for text in ("the saved plan is stale", *expected):
            assert text in refused.stderr, (expected, refused.stderr)
        assert settled.snapshot() == before
        settled.run("unhold", "vm/acme/one", expect=None)
        settled.write("fleet.yaml", FLEET)
        settled.run("apply", str(settled.specs), "--yes")


def edited(text: str, change: Callable[[dict[str, Any]], object], *, sealed: bool = False) -> str:
    content = json.loads(text)
    change(content)
    if sealed:
        content["digest"] = digest_plain({k: v for k, v in content.items() if k != "digest"})
    return json.dumps(content)


def test_what_is_no_saved_plan_or_no_longer_is_says_so(settled: Host) -> None:
    file = save(settled, MORE)
    text = file.read_text()
    plan = settled.run("plan", str(settled.specs), "--json").stdout
    before = settled.snapshot()
    cases: dict[str, tuple[str, int, str]] = {
        "edited": (edited(text, lambda c: c["plan"].update(id="0" * 32)), 4, "was edited"),
        "emptied": (edited(text, lambda c: c["specs"].clear()), 4, "was edited"),
        "sealed anew": (
            edited(text, lambda c: c["plan"].update(id="0" * 32), sealed=True),
            4,
            "stale",
        ),
        "truncated": (text[: len(text) // 2], 1, "or not all of it"),
        "another version": (text.replace("planfile/v1", "planfile/v9"), 1, "metald.planfile/v9"),
        "a plan's JSON": (plan, 1, "metald.plan/v1"),
        "deep": ('{"format": "metald.planfile/v1", "a": ' + "[" * 100_000, 1, "or not all of it"),
        "no object inside": ('{"format": "metald.planfile/v1"}', 1, "no saved plan"),
        "not JSON": ("{'format': \"metald.planfile/v1\"}", 1, "no saved plan"),
        "nothing": ("", 1, "error"),
        "binary": ("\x00\x01{", 1, "error"),
    }
    for name, (content, code, expected) in cases.items():
        file.write_text(content)
        refused = settled.run("apply", str(file), "--yes", expect=code)
        assert expected in refused.stderr, (name, refused.stderr)
    assert settled.snapshot() == before
    file.write_text(text)
    mixed = settled.run("apply", str(file), "--target", "vm/acme/two", expect=1)
    assert "carried out as it is" in mixed.stderr
    unsaved = settled.run("plan", str(settled.specs), "--out", "/proc/nowhere/plan", expect=1)
    assert "cannot be saved" in unsaved.stderr
    settled.run("apply", str(file))


def test_a_plan_of_a_repository_is_bound_to_its_commit(settled: Host) -> None:
    repo = Repo(settled.folder / "repo")
    repo.write("fleet.yaml", MORE)
    first = repo.commit_all("two")
    file = save(settled, FLEET, str(repo.top))
    assert json.loads(file.read_text())["request"]["commit"] == first
    repo.write("README", "of no consequence")
    second = repo.commit_all("a text")
    before = settled.snapshot()
    refused = settled.run("apply", str(file), expect=4)
    assert f"is at commit {second[:12]}, the plan was made at commit {first[:12]}" in refused.stderr
    assert settled.snapshot() == before
    file = save(settled, FLEET, str(repo.top))
    (repo.top / "fleet.yaml").write_text(FLEET)  # not committed: it does not count
    settled.run("apply", str(file))
    (newest, *_) = settled.json("history")["items"]
    assert (newest["commit"], newest["author"]) == (second, "Ann Operator <ann@example.com>")
    assert "vm/acme/two" in settled.vms()


def test_a_saved_plan_can_await_confirmation_and_a_guard_still_counts(settled: Host) -> None:
    settled.write("fleet.yaml", MORE)
    settled.run("apply", str(settled.specs), "--yes")
    file = save(settled, tenant("acme") + network("acme", "lan"))
    guarded = settled.run("apply", str(file), "--max-destroy", "1", expect=4)
    assert "2 of" in guarded.stderr and "would be destroyed" in guarded.stderr
    settled.run("apply", str(file), "--confirm", "1h")
    assert len(settled.vms()) == 2 and not settled.links()
    settled.run("confirm")
    assert settled.vms() == {}
    settled.run("apply", str(file), expect=4)
