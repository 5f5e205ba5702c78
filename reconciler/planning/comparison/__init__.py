"""Desired against recorded against observed: what each resource lacks, in which order, and why."""
