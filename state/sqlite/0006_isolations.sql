-- VMs that an operator cut off. No reference to resources: who comes back is cut off still.
CREATE TABLE isolations (
    address TEXT PRIMARY KEY,
    owner   TEXT NOT NULL,
    reason  TEXT NOT NULL,
    since_s REAL NOT NULL,
    until_s REAL
) STRICT;
