"""What a source is called, and what that name leads back to."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.daemon.desired import Location


@pytest.mark.parametrize("ref", ["", "main", "release/2", "v1.0"])
@pytest.mark.parametrize(
    "place",
    [
        "/srv/specs",
        "https://git.example.com/fleet.git",
        "ssh://git.example.com:2222/fleet",
        "git@git.example.com:fleet.git",
        "file:///srv/fleet",
    ],
)
def test_a_name_leads_back_to_place_and_ref(place: str, ref: str) -> None:
    assert Location.named(Location(place, ref).name) == (place, ref)


def test_an_existing_path_with_an_at_has_no_ref(tmp_path: Path) -> None:
    path = tmp_path / "fleet@home"
    path.mkdir()
    assert Location.named(str(path)) == (str(path), "")


def test_a_name_holds_no_password() -> None:
    location = Location("https://ann:hunter2@git.example.com/fleet", "main")
    assert location.name == "https://git.example.com/fleet@main"
