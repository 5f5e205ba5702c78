"""QEMU over QMP: command line, boot probe, monitor and driver."""
