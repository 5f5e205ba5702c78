"""The launcher: from root's process to a detached, powerless program with a name on record.

Run as a script by a fresh interpreter (``python -I -S launch.py SOCKET``); standard library
only. It serves one metald process, over a socket, for as long as that has the other end: a
fork of this small process takes a millisecond where an interpreter takes thirty. For each
program it forks twice, so that the program outlives it without becoming anybody's zombie; the
grandchild joins its cgroup, sets limits, writes the process record, and only then gives up
every privilege and becomes the program: by exec for ``argv``, or for ``script`` by calling the
``main`` of a Python file loaded before (after, the interpreter's own files may be out of
reach). Because the record is written before that, and the lock descriptor is inherited, no
instant exists in which a program runs unrecorded.

With each request comes a pipe, first of its descriptors: the starter reads BEGUN from it, and
nothing more, once the program has begun; else what went wrong.
"""

import ctypes
import fcntl
import json
import os
import resource
import runpy
import socket
import struct
import sys

BEGUN = b"begun"
REQUEST_BYTES = 1 << 17
MOST_DESCRIPTORS = 64
_PR_SET_NAME, _NAME = 15, b"metald-console"
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY_FILE = "/proc/sys/kernel/cap_last_cap"


def main() -> None:
    """Detach, then start what each request describes, until the other end is closed."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    requests = socket.socket(fileno=int(sys.argv[1]))
    requests.set_inheritable(False)
    while True:
        data, descriptors, flags, _ = socket.recv_fds(
            requests, REQUEST_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return
        try:
            _start(requests, data, descriptors, cut=flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
        finally:
            # A copy kept here would hold the lock of a program that is long dead.
            for descriptor in descriptors:
                os.close(descriptor)


def _start(requests: socket.socket, data: bytes, descriptors: list, cut: int) -> None:  # type: ignore[type-arg]
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork():
            os._exit(0)
        requests.close()
        if cut:
            raise ValueError("the request was cut short")
        spec = json.loads(data)
        _place(descriptors, spec["keep"])
        _become(spec, descriptors[0])
    except BaseException as error:  # noqa: BLE001 - whatever it is, the starter must hear it
        os.write(descriptors[0], f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(1)


def _place(descriptors: list, numbers: list) -> None:  # type: ignore[type-arg]
    """Bring what the program inherits to its numbers, and the starter's pipe out of the way."""
    beyond = max((2, *descriptors, *numbers)) + 1
    starter, *kept = (fcntl.fcntl(d, fcntl.F_DUPFD_CLOEXEC, beyond) for d in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    descriptors[0] = starter
    for number, descriptor in zip(numbers, kept, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _become(spec: dict, starter: int) -> None:  # type: ignore[type-arg]  # plain JSON
    os.setsid()
    script = runpy.run_path(spec["script"]) if spec["script"] else None
    _redirect(spec["log"])
    for stream, descriptor in spec["streams"].items():
        os.dup2(descriptor, int(stream))
        os.close(descriptor)
    for procs in spec["cgroups"]:
        with open(procs, "w") as stream:
            stream.write(str(os.getpid()))
    for name, value in spec["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    _record(spec["record"], spec["uid"])
    os.umask(0o077)
    os.chdir(spec["folder"])
    _drop_privileges(spec["unix_id"], spec["retain"])
    os.write(starter, BEGUN)
    if script is None:
        os.execve(spec["argv"][0], spec["argv"], spec["environment"])
    os.close(starter)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
    sys.argv = spec["argv"]
    script["main"]()
    os._exit(0)


def _redirect(log: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for descriptor in (null, out):
        if descriptor > 2:  # noqa: PLR2004 - the standard streams
            os.close(descriptor)


def _record(path: str, uid: str) -> None:
    """Who we are, durably: pids are reused, (boot id, pid, start time) never is."""
    with open("/proc/sys/kernel/random/boot_id") as stream:
        boot_id = stream.read().strip()
    with open("/proc/self/stat") as stream:
        start_ticks = int(stream.read().rpartition(")")[2].split()[19])
    record = {"boot_id": boot_id, "pid": os.getpid(), "start_ticks": start_ticks, "uid": uid}
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as stream:
        json.dump(record, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)


def _drop_privileges(unix_id: int, retain: list) -> None:  # type: ignore[type-arg]
    """Give up everything for good; ``retain``: capabilities of a program that stays root, because
    it makes a prison that it then enters as ``unix_id`` by itself.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open(_LAST_CAPABILITY_FILE) as stream:
        last = int(stream.read())
    for capability in range(last + 1):
        if capability not in retain:
            _checked(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))
    _checked(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    os.setgroups([])
    if retain:
        # exec gives root what the bounding set has left, capabilities(7).
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return
    os.setresgid(unix_id, unix_id, unix_id)
    os.setresuid(unix_id, unix_id, unix_id)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _checked(libc.capset(header, bytes(24)))
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main()
