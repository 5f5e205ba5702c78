"""What metald talks about: spec kinds, identities, observed facts, plans. Frozen, no I/O."""
