"""Looks at boot files: where they are and whether their content is what was pinned.

A file is hashed once per (inode, size, change time); the daemon keeps one store, so an
unchanged 40 MiB initrd is not read again on every pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler.model.observed import ImageFacts
from reconciler.paths import StatePaths
from reconciler.planning.resolution.images import ImageRequest

_CHUNK_BYTES = 1 << 20
_Stamp = tuple[int, int, int, int]


class ImageStore:
    """Images built or imported here, and files that specs name by path."""

    def __init__(self, state: StatePaths) -> None:
        self._root = state.images
        self._digests: dict[str, tuple[_Stamp, str]] = {}

    def look_at(self, requests: Sequence[ImageRequest]) -> Mapping[str, ImageFacts]:
        """Facts by request key; what cannot be used carries a problem and a hint."""
        return {request.key: self._facts(request) for request in requests}

    def _facts(self, request: ImageRequest) -> ImageFacts:
        if request.built:
            found = self._built(request.built)
            if isinstance(found, ImageFacts):
                return found
            request = found
        kernel = self._verified(request.kernel, request.kernel_sha256)
        if isinstance(kernel, ImageFacts):
            return kernel
        initrd: str | ImageFacts = ""
        if request.initrd:
            initrd = self._verified(request.initrd, request.initrd_sha256)
        if isinstance(initrd, ImageFacts):
            return initrd
        return ImageFacts(request.kernel, kernel, request.initrd, initrd, request.cmdline)

    def _built(self, name: str) -> ImageRequest | ImageFacts:
        """What the manifest of an image built here pins."""
        manifest = self._root / name / "manifest.json"
        try:
            data = json.loads(manifest.read_text(encoding="utf-8"))
            return ImageRequest(
                name,
                kernel=str(self._root / name / data["kernel"]),
                kernel_sha256=data["kernel_sha256"],
                initrd=str(self._root / name / data["initrd"]),
                initrd_sha256=data["initrd_sha256"],
                cmdline=data.get("cmdline", ""),
            )
        except FileNotFoundError:
            return ImageFacts(
                problem=f"no image {name} is declared, and none was built here",
                hint=f"run metald image build {name}, or declare it with kind: Image",
            )
        except (OSError, ValueError, KeyError) as error:
            return ImageFacts(
                problem=f"the manifest {manifest} cannot be used: {error!r}",
                hint=f"run metald image build {name} again",
            )

    def _verified(self, path: str, pinned: str) -> str | ImageFacts:
        """sha256 of the file's content, or what is wrong with it."""
        try:
            found = self._sha256(Path(path))
        except OSError as error:
            return ImageFacts(
                problem=f"the boot file {path} cannot be read: {error.strerror}",
                hint="correct the path, or put the file there",
            )
        if pinned and found != pinned:
            return ImageFacts(
                problem=f"the sha256 of {path} is {found}, pinned is {pinned}",
                hint="restore the file, or pin the new digest if the change is wanted",
            )
        return found

    def _sha256(self, path: Path) -> str:
        status = path.stat()
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
        known = self._digests.get(str(path))
        if known is not None and known[0] == stamp:
            return known[1]
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        self._digests[str(path)] = (stamp, digest.hexdigest())
        return digest.hexdigest()
