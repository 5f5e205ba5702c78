"""Firecracker: one VMM process per VM, in a jail of its own."""
