"""Pure decisions: desired and observed in, plan out. No I/O, no clock, no randomness."""
