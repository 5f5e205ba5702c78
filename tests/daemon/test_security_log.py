"""The security log: lines of JSON and CEF, in a file that others rotate, or to a syslog socket."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from reconciler.daemon.security_log import SecurityLog, as_cef, as_json, log_from
from reconciler.errors import MetaldError
from reconciler.execution.drops import Whose
from reconciler.execution.security import Dropped
from reconciler.model.addresses import ResourceAddress
from reconciler.model.drops import Denied, Tally

SCHEMA = Path(__file__).parents[2] / "specs" / "schema" / "output" / "security.json"
VM = ResourceAddress("vm/acme/web-1")
EVENT = Dropped(
    2000.5, 1000.25, VM, Whose(VM, "front", ("fd20::1",), "denies"), "tenant", Tally(3, 240),
    (Denied("mt1", "fd99::1", "tcp", 22),),
)  # fmt: skip
HOSTILE = replace(
    EVENT, control="a|b\\c", whose=Whose(VM, "x=y\\z\nCEF:0|fake", (), "denies"), examples=()
)


def test_json_has_its_published_form() -> None:
    document = json.loads(as_json(EVENT, "rack-1"))
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(
        schema, format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)  # fmt: skip
    assert (document["packets"], document["bytes"], document["host"]) == (3, 240, "rack-1")
    assert document["examples"] == [{"to": "fd99::1", "protocol": "tcp", "port": 22}]


def test_cef_is_one_line_with_everything_escaped() -> None:
    line = as_cef(EVENT, "rack-1")
    assert re.match(r"^CEF:0\|metald\|metald\|[^|]+\|tenant\|guests reaching [^|]+\|5\|rt=", line)
    assert " cnt=3 in=240 cs1Label=resource cs1=vm/acme/web-1 " in line
    assert line.endswith("c6a3=fd99::1 proto=tcp dpt=22")
    hostile = as_cef(HOSTILE, "rack-1")
    assert "\n" not in hostile
    assert r"|a\|b\\c|" in hostile
    assert r"cs2=x\=y\\z\nCEF:0|fake" in hostile
    fields = re.split(r"(?<!\\)\|", hostile, maxsplit=7)
    assert fields[4] == r"a\|b\\c" and fields[6] == "5"


def test_a_file_is_appended_to_and_may_be_rotated(tmp_path: Path) -> None:
    file = tmp_path / "security.log"
    log = SecurityLog(as_json, file=file)
    log.write([EVENT, EVENT], "rack-1")
    assert file.stat().st_mode & 0o777 == 0o600
    file.rename(tmp_path / "security.log.1")
    log.write([EVENT], "rack-1")
    assert len((tmp_path / "security.log.1").read_text().splitlines()) == 2
    assert len(file.read_text().splitlines()) == 1


def test_what_cannot_be_written_is_said_with_its_place(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    for log, said in (
        (SecurityLog(as_json, file=Path("/dev/full")), "No space left on device"),
        (SecurityLog(as_json, file=tmp_path / "none" / "x"), "No such file or directory"),
        (SecurityLog(as_json, file=link), "symbolic links"),
        (SecurityLog(as_json, file=tmp_path / "pipe"), "No such device or address"),
        (SecurityLog(as_json, syslog=tmp_path / "none"), "No such file or directory"),
    ):
        with pytest.raises(MetaldError, match=said) as caught:
            log.write([EVENT], "rack-1")
        assert caught.value.subject in {str(log.file), str(log.syslog)}


def test_a_line_of_which_only_a_part_fits_is_not_there_at_all(tmp_path: Path) -> None:
    file = tmp_path / "security.log"
    log = SecurityLog(as_json, file=file)
    log.write([EVENT], "rack-1")
    whole = file.read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        with pytest.raises(MetaldError, match="only a part of it fits"):
            log.write([EVENT], "rack-1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == whole
    log.write([EVENT], "rack-1")
    assert file.read_text() == 2 * whole


def test_syslog_gets_a_datagram_for_each(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as server:
        server.bind(str(path))
        server.settimeout(5)
        log = log_from({"format": "cef", "syslog": str(path)})
        assert log is not None
        log.write([EVENT, EVENT], "rack-1")
        for _ in range(2):
            line = server.recv(4096).decode()
            assert re.match(r"^<84>metald\[\d+\]: CEF:0\|metald\|", line)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("syslog", "must have format, and file or syslog"),
        ({"fromat": "json", "syslog": True}, "must have format, and file or syslog"),
        ({"format": "xml", "syslog": True}, "format is json or cef"),
        ({"format": "json"}, "give either file or syslog"),
        ({"file": "/x", "syslog": True}, "give either file or syslog"),
        ({"file": "relative.log"}, "must be an absolute path"),
        ({"syslog": 5}, "must be an absolute path"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(written: object, said: str) -> None:
    with pytest.raises(MetaldError, match=said) as caught:
        log_from(written)
    assert caught.value.subject and caught.value.subject.startswith("securityLog")


def test_none_is_none_and_json_is_usual() -> None:
    assert log_from(None) is None
    assert log_from({"syslog": True}) == SecurityLog(as_json, syslog=Path("/dev/log"))
    assert log_from({"file": "/var/log/x"}) == SecurityLog(as_json, file=Path("/var/log/x"))
