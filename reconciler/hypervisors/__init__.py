"""One driver per hypervisor behind one Protocol, and the isolation of their processes."""
