"""The VMMs on PATH: the real ones where they are installed, else the stub under their names."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler import commands
from reconciler.hypervisors import devices, vmm
from reconciler.hypervisors.cloud_hypervisor import driver as cloud
from reconciler.model.hypervisors import HYPERVISORS
from tests.hypervisors import vmm_stub
from tests.hypervisors.vmm_stub import Document

API = Path(__file__).with_name("vmm_api")


@cache
def document(name: str) -> Document:
    data: dict[str, Any] = yaml.load((API / f"{name}.yaml").read_bytes(), Loader=yaml.CSafeLoader)
    return Document(data)


def is_real(hypervisor: str) -> bool:
    """All its programs are installed, so that the stub is not needed."""
    return all(commands.path_of(entry.program) for entry in HYPERVISORS[hypervisor].programs)


@contextmanager
def on_path(hypervisor: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Have the hypervisor's programs found; whether they are the stub."""
    if is_real(hypervisor):
        yield False
        return
    folder = Path(tempfile.mkdtemp(prefix="mt-vmm-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        for entry in HYPERVISORS[hypervisor].programs:
            shutil.copyfile(vmm_stub.__file__, folder / entry.program)
            (folder / entry.program).chmod(0o755)
        data = json.dumps(document(hypervisor).data, default=str)
        (folder / f"{hypervisor}.json").write_text(data)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        if not vmm.KVM_DEVICE.exists():
            # The stub needs none; what is asked of the rest stays as it is.
            monkeypatch.setattr(vmm, "KVM_DEVICE", Path(os.devnull))
            monkeypatch.setattr(cloud, "DEVICES", (devices.TUN,))
        yield True
    finally:
        shutil.rmtree(folder)
