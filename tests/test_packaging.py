"""The wheel: one name in site-packages, its data inside, working from any folder."""

from __future__ import annotations

import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return next(target.glob("*.whl"))


def test_the_top_level_is_one_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"reconciler"}
    assert "reconciler/py.typed" in names
    for needed in (
        "reconciler/_data/state/sqlite/0001_ledger_journal_events.sql",
        "reconciler/_data/templates/nftables/metald.nft",
        "reconciler/_data/templates/guest/init.sh",
        "reconciler/_data/specs/README.md",
    ):
        assert needed in names
    assert not [name for name in names if "/_data/" in name and name.endswith(".py")]


def test_it_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("apiVersion: metald/v1\nkind: Tenant\nmetadata: {name: acme}\n")
    # The dependencies come from here, metald itself from the wheel alone.
    libraries = [path for path in site.getsitepackages() if Path(path).is_dir()]
    script = (
        "import sys; sys.path[:0] = sys.argv.pop(1).split(':')\n"
        "from reconciler import __file__ as where, resources\n"
        "assert '/site/' in where and '_data' in str(resources.data_folder('state'))\n"
        "from reconciler.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, ":".join([str(target), *libraries]),
         "validate", str(fleet)],
        cwd=tmp_path, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "OK: 1 tenant\n"
