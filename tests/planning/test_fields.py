"""The fields of a new resource: written out late, and then what anybody would expect."""

from __future__ import annotations

from reconciler.model.plan import FieldChange
from reconciler.planning.comparison.fields import Shown, beside_spec

SPEC = {"vcpus": 2, "labels": {}, "protect": False, "boot": {"image": "minimal", "cmdline": ""}}
PHASE = FieldChange("status.phase", "absent", "running")
WRITTEN = (
    FieldChange("spec.boot.image", None, "minimal"),
    FieldChange("spec.protect", None, False),
    FieldChange("spec.vcpus", None, 2),
    PHASE,
)


def test_what_is_set_is_shown_in_path_order_and_then_what_is_seen() -> None:
    shown = Shown(SPEC, (PHASE,))
    assert tuple(shown) == WRITTEN
    assert (len(shown), shown[0], shown[-1], shown[1:]) == (4, WRITTEN[0], PHASE, WRITTEN[1:])


def test_they_are_equal_to_the_same_fields_however_these_are_kept() -> None:
    shown = Shown(SPEC, (PHASE,))
    assert shown == WRITTEN
    assert shown == Shown(dict(SPEC), (PHASE,))
    assert shown != Shown(SPEC)
    assert repr(shown) == repr(WRITTEN)


def test_what_is_not_of_the_spec_is_told_apart_written_out_or_not() -> None:
    assert beside_spec(Shown(SPEC, (PHASE,))) == beside_spec(WRITTEN) == (PHASE,)
