"""Carrying plans out: state, journal, ordering, concurrency, verification."""
