"""The attack matrix: every attack, under every profile, in every mode, against what a real apply
loaded; with the control that told of it, and ordinary traffic that goes on. Zero leaks.

`pytest -s tests/security/test_matrix.py` prints the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.integration.host import Host
from tests.integration.shell import Shell
from tests.security.attacks import ATTACKS, IDLE, KERNEL, PASSES, Attack
from tests.security.ground import MODES, PROFILES, Ground, bridges_track, ground

pytestmark = [pytest.mark.netns]


@dataclass(frozen=True)
class Row:
    """What became of one attack under one profile."""

    attack: str
    profile: str
    expected: str
    seen: frozenset[str]
    told: dict[str, int]
    wrong: tuple[str, ...]


def tried(on: Ground, attack: Attack, profile: str) -> Row:
    """Send it, then something ordinary, and look everywhere."""
    scene = on.scene(profile)
    expected = attack.expected(on.mode, profile, tracked=bridges_track())
    on.empty()
    before, known = on.drops(scene.attacker), on.neighbours()
    frames = [bytes(frame) for frame in attack.frames(scene)]
    for frame in frames:
        scene.attacker.put(frame)
    wrong = []
    found = on.sighted(scene)
    seen = found or set()
    after = on.drops(scene.attacker)
    told = {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}
    if found is None:
        wrong.append("ordinary traffic is stopped")
    allowed = {"its sender"} if attack.answered else set()
    spreads = attack.spreads and on.mode == "bridged"
    allowed |= {f"vm/acme/{profile}-neighbour"} if expected == PASSES or spreads else set()
    allowed |= {"the host"} if expected == IDLE else set()
    if seen - allowed:
        wrong.append(f"leaks to {', '.join(sorted(seen - allowed))}")
    if expected == PASSES and not seen:
        wrong.append("is stopped, though the policy allows it")
    control = set() if expected in {PASSES, IDLE, KERNEL} else {expected}
    if told.keys() - control - attack.also:
        wrong.append(f"told as {told}")
    least = len(frames) if attack.at_least is None else attack.at_least
    if control and told.get(expected, 0) < least:
        wrong.append(f"{expected} tells of {told.get(expected, 0)} of {len(frames)}")
    if on.neighbours() != known:
        wrong.append("the host's neighbours changed")
    return Row(attack.name, profile, expected, frozenset(seen), told, tuple(wrong))


@pytest.mark.parametrize("mode", MODES)
def test_every_attack_is_stopped_where_the_policy_says_so_and_only_there(
    host: Host, metald: Shell, mode: str
) -> None:
    with ground(host, metald, mode) as on:
        attacks = [attack for attack in ATTACKS if mode in attack.modes]
        rows = [tried(on, attack, profile) for attack in attacks for profile in PROFILES]
    print(f"\n{mode}")
    print(f"{'attack':38}" + "".join(f"{profile:16}" for profile in PROFILES))
    for attack in attacks:
        cells = {row.profile: row for row in rows if row.attack == attack.name}
        line = "".join(
            f"{'LEAK! ' if cells[p].wrong else ''}{cells[p].expected:16}" for p in PROFILES
        )
        print(f"{attack.name:38}{line}")
    print(f"{len(rows)} tried; {sum(bool(row.wrong) for row in rows)} not as they should be")
    bad = [f"{row.attack}, {row.profile}: {'; '.join(row.wrong)}" for row in rows if row.wrong]
    assert not bad, "\n".join(bad)


BROKEN = {
    "routed": {
        "inet metald forward_guest": "another tenant",
        "inet metald guard_guest": "source of another network",
        "inet metald early_guest": "chain of 9",
        "inet metald input_guest": "the host's port by its uplink",
    },
    "bridged": {
        "inet metald forward_bridged": "another tenant",
        "bridge metald own_target": "neighbour's address advertised",
        "bridge metald early_guest": "chain of 9",
        "inet metald input_guest": "the host's port by its uplink",
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_the_matrix_sees_what_gets_through(host: Host, metald: Shell, mode: str) -> None:
    """Rules broken by hand: the rows that they stopped are no longer as they should be."""
    named = {attack.name: attack for attack in ATTACKS}
    with ground(host, metald, mode) as on:
        for chain, name in BROKEN[mode].items():
            assert not tried(on, named[name], "high").wrong
            verdict = "return" if chain.endswith("own_target") else "accept"
            done = host.inside("nft", "insert", "rule", *chain.split(), verdict)
            assert done.returncode == 0, done.stderr
            row = tried(on, named[name], "high")
            assert any("leaks to" in line for line in row.wrong), row
            metald.run("apply", str(host.specs), "--yes")
