"""Written specs read back as what was written, whatever is in them; nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import MetaldError, RefusedError
from reconciler.model.addresses import ResourceAddress
from reconciler.model.specs import KINDS, AnyDocument
from reconciler.planning.resolution.renames import all_documents
from reconciler.source.tree import load
from reconciler.source.writing import draft, put_in_place, sweep, texts_of

HEAD = {"apiVersion": "metald/v1"}
# Words that some YAML reads as a number, a truth, a time, nothing, or as more than a word.
TRICKY = [
    "1e3", "0o17", "0x1F", "1_000", "yes", "on", "null", "~", "1:20", "2026-01-01", ".inf", "NaN",
    "-", "a: b", "{x", "[y", "#z", "'", '"', "", " padded ", "=", "!tag", "*a", "\u00e9",
]  # fmt: skip


def documents(words: list[str]) -> list[AnyDocument]:
    labels = {f"key-{index}": word for index, word in enumerate(words)}
    rows = [
        {**HEAD, "kind": "Tenant", "metadata": {"name": "acme", "labels": labels},
         "spec": {"prefix": "fd20:acde::/48", "quota": {"vms": 3, "memory": "3Gi"}}},
        {**HEAD, "kind": "Network", "metadata": {"name": "1e3", "tenant": "acme"},
         "spec": {"prefix": "fd20:acde:0:1::/64", "ingress": [
             {"from": "tenant/acme", "protocol": "tcp", "ports": [port, "8000-8010"]}
             for port in range(1, 9)]}},
        {**HEAD, "kind": "VM", "metadata": {"name": "007", "tenant": "acme", "labels": labels},
         "spec": {"memory": "128Mi", "boot": {"kernel": "/k", "cmdline": " ".join(words)},
                  "interfaces": [{"network": "1e3", "address": "fd20:acde:0:1::abc"}]}},
        {**HEAD, "kind": "Host", "metadata": {"name": "local"}},
    ]  # fmt: skip
    return [KINDS[str(row["kind"])].model_validate(row) for row in rows]


@given(words=st.lists(st.sampled_from(TRICKY), max_size=6))
def test_every_word_reads_back_as_itself(tmp_path_factory: pytest.TempPathFactory,
                                         words: list[str]) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("specs") / "out"
    wanted = documents(words)
    made = draft(folder, texts_of(wanted, {}))
    assert made is not None
    put_in_place(made, folder)
    fleet = load(folder).require()
    assert {d.address: d for d in all_documents(fleet)} == {d.address: d for d in wanted}


def test_files_look_as_an_operator_would_have_written_them() -> None:
    texts = texts_of(documents([])[:1], {ResourceAddress("tenant/acme"): ["labels"]})
    assert texts["acme.yaml"].splitlines()[2:] == [
        "# Nothing here told its labels: review them.",
        "apiVersion: metald/v1",
        "kind: Tenant",
        "metadata: {name: acme}",
        "spec:",
        "  prefix: fd20:acde::/48",
        "  quota: {vms: 3, memory: 3Gi}",
    ]


def test_a_folder_appears_whole_and_only_where_nothing_else_is(tmp_path: Path) -> None:
    out, texts = tmp_path / "out", {"a.yaml": "a\n", "b.yaml": "b\n"}
    out.mkdir()
    made = draft(out, texts)
    assert made is not None and list(out.iterdir()) == []
    put_in_place(made, out)
    assert {p.name: p.read_text() for p in out.iterdir()} == texts
    assert draft(out, texts) is None, "a run that was cut off goes on"
    for other in ({"a.yaml": "a\n"}, {**texts, "b.yaml": "other\n"}):
        with pytest.raises(RefusedError, match="nothing in it is overwritten"):
            draft(out, other)
    with pytest.raises(RefusedError, match="a file by that name"):
        draft(out / "a.yaml", texts)
    with pytest.raises(MetaldError, match="cannot be written"):
        draft(tmp_path / "no" / "such", texts)
    left = draft(tmp_path / "new", texts)
    assert left is not None
    sweep(tmp_path / "new")
    assert not list(tmp_path.glob(".*"))
