"""Files of a tree: links are followed, and nothing is passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import MetaldError
from reconciler.source.tree import load
from reconciler.source.walk import spec_files
from tests.source.test_tree import ACME, GLOBEX, addresses, write


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    for name in ("specs", "shared"):
        (tmp_path / name).mkdir()
    write(tmp_path / "specs", acme=ACME)
    write(tmp_path / "shared", globex=GLOBEX)
    (tmp_path / "specs" / "linked").symlink_to("../shared")
    found = spec_files(tmp_path / "specs")
    assert [file.name for file in found] == ["acme.yaml", "globex.yaml"]
    assert "network/globex/front" in addresses(load(tmp_path / "specs"))


def test_a_mounted_config_map_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "..2026_01").mkdir()
    write(tmp_path / "..2026_01", acme=ACME)
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "acme.yaml").symlink_to("..data/acme.yaml")
    assert spec_files(tmp_path) == (tmp_path / "acme.yaml",)
    assert not load(tmp_path).problems


@pytest.mark.parametrize("target", [".", "..", "../../sub/deep"])
def test_a_link_that_leads_back_is_an_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    write(tmp_path, acme=ACME)
    link = tmp_path / "sub" / "deep" / "link"
    link.symlink_to(target)
    with pytest.raises(MetaldError, match="leads back to") as caught:
        spec_files(tmp_path)
    assert caught.value.subject.startswith(str(link))


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    """It may have led to a folder with anything in it."""
    write(tmp_path, acme=ACME)
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(MetaldError, match="leads nowhere") as caught:
        load(tmp_path)
    assert caught.value.subject == str(tmp_path / "gone")
