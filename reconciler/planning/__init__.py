"""Pure decisions: desired and observed in, plan out. No I/O, no clock, no randomness.

`planner.plan` decides, by way of ``resolution`` (what was declared, with nothing left open),
``bounds`` (what this plan may be about) and ``comparison`` (what each resource lacks).
``reachability``, ``pricing`` and ``documents`` say what a plan means; ``adoption`` and ``drift``
ask the same planner about what is found, and about what is on record.
"""
