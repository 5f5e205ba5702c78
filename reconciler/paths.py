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
    def features(self) -> Path:
        """What this kernel was found to do, in which boot."""
        return self.root / "features.json"

    @property
    def images(self) -> Path:
        """Images built or imported here, one folder per image name."""
        return self.root / "images"

    @property
    def jails(self) -> Path:
        """Firecracker's jails (device nodes and a program: not on the run folder's tmpfs, which
        systemd mounts without both).
        """
        return self.root / "jails"

    @property
    def sources(self) -> Path:
        """A cache: repositories specs are read from, commits checked out of them, parsed specs."""
        return self.root / "sources"


@dataclass(frozen=True, slots=True)
class VmPaths:
    """One VM's run folder, named by the VM's uid.

    The folder and the records in it are root's; only ``io`` belongs to the VM's own unix
    user, so that a VMM gone bad can replace its sockets but neither its lock nor the records
    that prove who it is. Names are short: a socket's path holds 107 bytes (unix(7)).
    """

    root: Path

    @property
    def lock(self) -> Path:
        """Held with flock by the VMM through an inherited descriptor: free only when dead."""
        return self.root / "vmm.lock"

    @property
    def launch(self) -> Path:
        """The launch record: what is started for whom; there as long as the folder is."""
        return self.root / "launch.json"

    @property
    def process(self) -> Path:
        """The process record written by the launcher itself: boot id, pid, start time."""
        return self.root / "vmm.json"

    @property
    def vmm_log(self) -> Path:
        """Standard output and error of the VMM."""
        return self.root / "vmm.log"

    @property
    def console_lock(self) -> Path:
        """Held with flock by the console holder."""
        return self.root / "console.lock"

    @property
    def console_process(self) -> Path:
        """The console holder's process record."""
        return self.root / "console.json"

    @property
    def io(self) -> Path:
        """The one folder the VM's unix user may write to; mode 0700."""
        return self.root / "io"

    @property
    def qmp(self) -> Path:
        """QMP socket for commands."""
        return self.io / "qmp"

    @property
    def qmp_events(self) -> Path:
        """Second QMP socket, for a follower of events; QMP serves one client per socket."""
        return self.io / "events"

    @property
    def serial(self) -> Path:
        """Socket of the guest's serial port, its only client being the console holder."""
        return self.io / "serial"

    @property
    def serial_in(self) -> Path:
        """FIFO from the console holder to the guest's serial port, where that is no socket."""
        return self.io / "serial.in"

    @property
    def serial_out(self) -> Path:
        """FIFO from the guest's serial port to the console holder."""
        return self.io / "serial.out"

    @property
    def api(self) -> Path:
        """HTTP socket of a VMM that has one and no jail."""
        return self.io / "api"

    @property
    def vmm_events(self) -> Path:
        """What a VMM without QMP writes of its guest's events, a JSON object after the other."""
        return self.io / "events.json"

    @property
    def configured(self) -> Path:
        """There once the VMM holds its VM's whole configuration."""
        return self.root / "configured"

    @property
    def console(self) -> Path:
        """Socket the console holder offers to `metald console`."""
        return self.io / "console"

    @property
    def console_log(self) -> Path:
        """Bounded log of what the guest printed; the older half is beside it as .1."""
        return self.io / "console.log"


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

    @property
    def advertiser(self) -> Path:
        """What advertises prefixes to guests (mode 0755: that process is nobody)."""
        return self.root / "advertiser"

    @property
    def names(self) -> Path:
        """The names of guests, in a folder of hosts files (0755: whoever serves them reads)."""
        return self.root / "names"

    @property
    def records(self) -> Path:
        """Copies of what is on record, for `adopt` (root only)."""
        return self.root / "records"

    @property
    def source(self) -> Path:
        """What the daemon keeps applied, and what it last said of it, for `status`."""
        return self.root / "source.json"

    @property
    def accelerator(self) -> Path:
        """What the probe for KVM found in this boot of the host."""
        return self.root / "accelerator.json"

    @property
    def turns(self) -> Path:
        """A lock per VM (root only)."""
        return self.root / "turns"

    def turn(self, uid: str) -> Path:
        """Held with flock by whoever acts on the VM with this uid."""
        return self.turns / uid

    def vm(self, uid: str) -> VmPaths:
        """The run folder of the VM with this uid."""
        return VmPaths(self.vms / uid)
