"""metald: a declarative reconciler for virtual-machine hosts."""

__version__ = "0.1.0"
