"""Cloud Hypervisor: one VMM process per VM, behind seccomp and Landlock."""
