"""What runs under metald's name and is not on record: found, proved, described in specs."""
