"""Which boot files a fleet needs, and what a VM boots once they have been looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.model.addresses import image_address
from reconciler.model.fleet import Fleet
from reconciler.model.observed import ImageFacts
from reconciler.model.resolved import BootFiles
from reconciler.model.specs import Boot


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """Boot files to look at. ``built`` names an image built here when no document declares
    it; digests are empty where nothing pins them.
    """

    key: str
    built: str = ""
    kernel: str = ""
    kernel_sha256: str = ""
    initrd: str = ""
    initrd_sha256: str = ""
    cmdline: str = ""


def image_key(boot: Boot) -> str:
    """Key of a boot section's files in ``Observed.images``."""
    return boot.image if boot.image is not None else f"{boot.kernel}|{boot.initrd or ''}"


def wanted_images(fleet: Fleet) -> tuple[ImageRequest, ...]:
    """Every distinct set of boot files the fleet's VMs name, in key order."""
    requests: dict[str, ImageRequest] = {}
    for vm in fleet.vms.values():
        boot = vm.spec.boot
        if boot is not None and (key := image_key(boot)) not in requests:
            requests[key] = _request(fleet, boot, key)
    return tuple(requests[key] for key in sorted(requests))


def _request(fleet: Fleet, boot: Boot, key: str) -> ImageRequest:
    if boot.image is None:
        return ImageRequest(key, kernel=boot.kernel or "", initrd=boot.initrd or "")
    declared = fleet.images.get(image_address(boot.image))
    if declared is None:
        return ImageRequest(key, built=boot.image)
    spec = declared.spec
    return ImageRequest(
        key,
        kernel=spec.kernel.path,
        kernel_sha256=spec.kernel.sha256,
        initrd=spec.initrd.path if spec.initrd else "",
        initrd_sha256=spec.initrd.sha256 if spec.initrd else "",
        cmdline=spec.cmdline,
    )


def boot_files(boot: Boot, images: Mapping[str, ImageFacts]) -> BootFiles | ImageFacts:
    """The verified files of a boot section, or the facts that say why there are none."""
    missing = ImageFacts(problem="its boot files were not looked at", hint="run the plan again")
    facts = images.get(image_key(boot), missing)
    if facts.problem:
        return facts
    words = " ".join(part for part in (facts.cmdline, boot.cmdline) if part)
    return BootFiles(facts.kernel, facts.kernel_sha256, facts.initrd, facts.initrd_sha256, words)
