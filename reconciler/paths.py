"""Every path metald owns, in one place: the state folder, the run folder, a VM's run folder.

The state folder (default /var/lib/metald) survives reboots; the run folder (default
/run/metald) does not need to. Nothing else builds these names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_STATE_DIR = Path("/var/lib/metald")
DEFAULT_RUN_DIR = Path("/run/metald")
DEFAULT_CONFIG_FILE = Path("/etc/metald/config.yaml")


@dataclass(frozen=True, slots=True)
class StatePaths:
    """What is kept for ever: the database, its lock, built images, VM disks and logs."""

    root: Path

    @property
    def database(self) -> Path:
        """SQLite state database (WAL files beside it)."""
        return self.root / "state.db"

    @property
    def lock(self) -> Path:
        """flock(2)ed by the one writer; its content names the holder."""
        return self.root / "lock"

    @property
    def images(self) -> Path:
        """Images built or imported here, one folder per image name."""
        return self.root / "images"


@dataclass(frozen=True, slots=True)
class VmPaths:
    """One VM's run folder, named by the VM's uid; mode 0700, owned by the VM's unix user."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held with flock by the VMM through an inherited descriptor: free only when dead."""
        return self.root / "vmm.lock"

    @property
    def launch(self) -> Path:
        """The launch record: what was started for whom (written before exec)."""
        return self.root / "launch.json"

    @property
    def process(self) -> Path:
        """The process record written by the launcher itself: boot id, pid, start time."""
        return self.root / "process.json"

    @property
    def qmp(self) -> Path:
        """QMP socket for commands."""
        return self.root / "qmp.sock"

    @property
    def qmp_events(self) -> Path:
        """Second QMP socket, for a follower of events; QMP serves one client per socket."""
        return self.root / "qmp-events.sock"

    @property
    def serial(self) -> Path:
        """Socket of the guest's serial port, its only client being the console holder."""
        return self.root / "serial.sock"

    @property
    def console(self) -> Path:
        """Socket the console holder offers to `metald console`."""
        return self.root / "console.sock"

    @property
    def console_lock(self) -> Path:
        """Held with flock by the console holder."""
        return self.root / "console.lock"

    @property
    def console_log(self) -> Path:
        """Bounded log of what the guest printed."""
        return self.root / "console.log"

    @property
    def vmm_log(self) -> Path:
        """Standard output and error of the VMM."""
        return self.root / "vmm.log"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """What lives as long as the host is up: sockets and the VMs' run folders."""

    root: Path

    @property
    def control(self) -> Path:
        """The control socket of `serve` and `watch` (root only)."""
        return self.root / "control.sock"

    @property
    def vms(self) -> Path:
        """Parent of all VM run folders (mode 0711, so a VM reaches its own folder only)."""
        return self.root / "vms"

    def vm(self, uid: str) -> VmPaths:
        """The run folder of the VM with this uid."""
        return VmPaths(self.vms / uid)
