"""Desired state from files: YAML with positions, whole trees, wake-ups when something changes."""
