"""The console holder: keeps a guest's serial port connected, its output on disk, within bounds.

Loaded and called by the launcher (``launch.py``), one process per VM, under the VM's unix
user; standard library only, all of it imported here. It outlives metald. It is the only client of
the VMM's serial socket, writes what the guest prints to a log of bounded size, and offers a
socket for attaching: each client first gets the tail of the log, then everything as it comes;
what clients type goes to the guest. A client that does not read is dropped, the guest never
waits for one. It ends when the VMM's end of the serial port ends.
"""

import json
import os
import selectors
import socket
import sys

LOG_LIMIT = 1 << 20
TAIL = 16 << 10
BACKLOG_LIMIT = 1 << 20
_CHUNK = 64 << 10


class Log:
    """Two files of at most LOG_LIMIT bytes: the current one and the one before (``.1``)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stream = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as we run

    def write(self, data: bytes) -> None:
        """Append; a full disk loses output, never the console."""
        try:
            if self.stream.tell() + len(data) > LOG_LIMIT:
                self.stream.close()
                os.replace(self.path, self.path + ".1")
                self.stream = open(self.path, "ab", buffering=0)  # noqa: SIM115
            self.stream.write(data)
        except OSError:
            return

    def tail(self) -> bytes:
        """The last bytes written."""
        try:
            with open(self.path, "rb") as stream:
                stream.seek(max(0, self.stream.tell() - TAIL))
                return stream.read()
        except OSError:
            return b""


class Fifos:
    """A serial port that is two FIFOs, used like a connected socket."""

    def __init__(self, out: str, into: str) -> None:
        self._out = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
        self._into = os.open(into, os.O_WRONLY | os.O_NONBLOCK)

    def fileno(self) -> int:
        """What to wait for; what cannot be written at once goes with the next that is read."""
        return self._out

    def recv(self, size: int) -> bytes:
        """What the guest printed; nothing when the VMM is gone."""
        return os.read(self._out, size)

    def send(self, data: bytearray) -> int:
        """How much of it the guest's port took."""
        return os.write(self._into, data)


class Holder:
    """One serial port, one log, any number of attached clients."""

    def __init__(self, serial: list, attach: str, log: str) -> None:  # type: ignore[type-arg]
        self.selector = selectors.DefaultSelector()
        self.log = Log(log)
        self.backlogs: dict[socket.socket, bytearray] = {}
        self.guest = Fifos(*serial) if len(serial) > 1 else _connected(*serial)
        self.to_guest = bytearray()
        self.listener = _listen(attach)
        self.selector.register(self.guest, selectors.EVENT_READ)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the guest's end closes."""
        while True:
            for key, events in self.selector.select():
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj is self.guest:
                    if not self.serve_guest(events):
                        return
                elif isinstance(key.fileobj, socket.socket):
                    self.serve_client(key.fileobj, events)

    def accept(self) -> None:
        """A new client: it starts with the tail of the log."""
        client, _ = self.listener.accept()
        client.setblocking(False)
        self.backlogs[client] = bytearray(self.log.tail())
        self.selector.register(client, selectors.EVENT_READ)
        self.flush(client)

    def serve_guest(self, events: int) -> bool:
        """Move bytes to and from the guest; False when its end is closed."""
        if events & selectors.EVENT_READ:
            try:
                data = self.guest.recv(_CHUNK)
            except BlockingIOError:
                data = None
            except OSError:
                return False
            if data == b"":
                return False
            if data:
                self.log.write(data)
                for client in list(self.backlogs):
                    self.backlogs[client] += data
                    self.flush(client)
        return self.flush_guest()

    def flush_guest(self) -> bool:
        """Send what clients typed; False when the guest's end is closed."""
        try:
            while self.to_guest:
                del self.to_guest[: self.guest.send(self.to_guest)]
        except BlockingIOError:
            self.selector.modify(self.guest, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return True
        except OSError:
            return False
        self.selector.modify(self.guest, selectors.EVENT_READ)
        return True

    def serve_client(self, client: socket.socket, events: int) -> None:
        """Move bytes to and from one client."""
        if events & selectors.EVENT_WRITE:
            self.flush(client)
        if client not in self.backlogs or not events & selectors.EVENT_READ:
            return
        try:
            data = client.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop(client)
            return
        if len(self.to_guest) < BACKLOG_LIMIT:
            self.to_guest += data
        self.flush_guest()

    def flush(self, client: socket.socket) -> None:
        """Send a client what it can take; drop it when it has fallen too far behind."""
        backlog = self.backlogs[client]
        try:
            while backlog:
                del backlog[: client.send(backlog)]
        except BlockingIOError:
            if len(backlog) > BACKLOG_LIMIT:
                self.drop(client)
            else:
                self.selector.modify(client, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return
        except OSError:
            self.drop(client)
            return
        self.selector.modify(client, selectors.EVENT_READ)

    def drop(self, client: socket.socket) -> None:
        """Let a client go."""
        self.selector.unregister(client)
        del self.backlogs[client]
        client.close()


def _connected(path: str) -> socket.socket:
    guest = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    guest.connect(path)
    guest.setblocking(False)
    return guest


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener.bind(path)
    listener.listen(8)
    listener.setblocking(False)
    return listener


def main() -> None:
    """Hold the console described by the JSON argument; say ``ready`` once it is connected."""
    spec = json.loads(sys.argv[1])
    holder = Holder(spec["serial"], spec["console"], spec["log"])
    os.write(spec["ready"], b"ready")
    os.close(spec["ready"])
    holder.run()
