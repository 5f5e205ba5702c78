"""The one module that goes through pyroute2: what is taken off a link that stays.

Healing is rare and small, so the complete library serves it; it is loaded only when
something is to be healed (0.25 s, 20 MiB). Whole tables and many changes at once go through
``rtnl``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

from reconciler.errors import MetaldError, TransientError, UnknownStateError

_AF_INET6: Final = 10


class Netlink:
    """A netlink socket in the calling thread's network namespace; use inside ``with``."""

    def __init__(self) -> None:
        """Open the socket. Raises UnknownStateError when the kernel gives none."""
        from pyroute2 import IPRoute  # noqa: PLC0415 - only when something is to be healed
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

        self._refusal: type[Exception] = NetlinkError
        try:
            self._socket = IPRoute()
        except OSError as error:
            raise UnknownStateError(f"no netlink socket: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def delete_address(self, index: int, address: str, prefix_length: int) -> None:
        """Remove an address; fine when it is gone."""
        with self._explained(address, tolerate=errno.EADDRNOTAVAIL):
            self._socket.addr(
                "del", index=index, address=address, prefixlen=prefix_length, family=_AF_INET6
            )

    def delete_neighbour(self, index: int, address: str) -> None:
        """Remove a neighbour entry; fine when it is gone."""
        with self._explained(address, tolerate=errno.ENOENT):
            self._socket.neigh("del", ifindex=index, dst=address, family=_AF_INET6)

    def delete_route(self, index: int, destination: str) -> None:
        """Remove a link's route to a prefix or an address; fine when it is gone."""
        destination = destination if "/" in destination else f"{destination}/128"
        with self._explained(destination, tolerate=errno.ESRCH):
            self._socket.route("del", dst=destination, oif=index, family=_AF_INET6)

    @contextmanager
    def _explained(self, subject: str, *, tolerate: int) -> Iterator[None]:
        """Turn netlink's errors into ours; ``tolerate`` is the one code for "so already"."""
        try:
            yield
        except self._refusal as error:
            code: Any = getattr(error, "code", None)
            if code != tolerate:
                raise TransientError(f"netlink refused: {error}", subject=subject) from error
        except OSError as error:
            raise MetaldError(f"netlink failed: {error}", subject=subject) from error
