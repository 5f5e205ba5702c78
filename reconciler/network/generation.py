"""The number nftables gives each state of its rules: the same number, the same rules.

The kernel counts it up with every transaction, whoever made it, per network namespace
(NFT_MSG_GETGEN, include/uapi/linux/netfilter/nf_tables.h). Called by ``network.rules``,
which need not list again what nobody changed.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from reconciler.errors import UnknownStateError
from reconciler.network import messages

_NETLINK_NETFILTER: Final = 12
_NFT_MSG_NEWGEN, _NFT_MSG_GETGEN = 0x0A0F, 0x0A10  # subsystem 10, messages 15 and 16
_HEAD: Final = struct.Struct("=BBH")  # struct nfgenmsg
_NFTA_GEN_ID: Final = 1
_DEADLINE_S: Final = 5.0


def generation() -> int | None:
    """The generation in the calling thread's namespace; None when it cannot be told, which
    means that one has to look.
    """
    question = messages.message(_NFT_MSG_GETGEN, 0, 1, _HEAD.pack(0, 0, 0))
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        ) as opened:
            opened.settimeout(_DEADLINE_S)
            opened.bind((0, 0))
            opened.sendto(question, (0, 0))
            for answer in messages.split(opened.recv(4096)):
                if answer.kind == _NFT_MSG_NEWGEN and answer.sequence == 1:
                    number = messages.attributes(answer.body, _HEAD.size).get(_NFTA_GEN_ID, b"")
                    return int.from_bytes(number, "big") or None
    except (OSError, UnknownStateError):
        return None
    return None
