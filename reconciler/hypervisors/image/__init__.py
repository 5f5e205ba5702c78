"""The minimal guest image: the distribution's cloud kernel and a busybox initramfs."""

from reconciler.hypervisors.image.builder import BuiltImage, build_minimal, verify

__all__ = ["BuiltImage", "build_minimal", "verify"]
