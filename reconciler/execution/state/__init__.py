"""The state database: who is who, what was done, what was said, what to remember.

``store`` says what may be asked of it, ``sqlite`` answers; nothing else of metald knows SQL.
"""
