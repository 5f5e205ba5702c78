-- The state database of one host: who is who (ledger), what was done (journal), what was
-- said (events), and what the next run needs to remember (facts).
-- Times are seconds since the Unix epoch. Applied once, never edited: changes come as a new file.

-- "mtld", so that a file which is not ours is recognised before anything is written to it.
PRAGMA application_id = 1836346468;

CREATE TABLE migrations (
    number       INTEGER PRIMARY KEY,
    name         TEXT NOT NULL,
    sha256       TEXT NOT NULL,
    applied_at_s REAL NOT NULL
) STRICT;

-- The key of identity: drawn once, never changed; every uid, name and MAC follows from it.
CREATE TABLE host (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    secret       BLOB NOT NULL CHECK (length(secret) = 32),
    created_at_s REAL NOT NULL
) STRICT;

-- Every incarnation that ever was. A retired row is the tombstone that keeps its number used.
CREATE TABLE resources (
    uid                 TEXT PRIMARY KEY,
    address             TEXT NOT NULL,
    incarnation         INTEGER NOT NULL CHECK (incarnation > 0),
    spec                TEXT NOT NULL,
    spec_hash           TEXT NOT NULL,
    generation          INTEGER NOT NULL DEFAULT 1,
    observed_generation INTEGER NOT NULL DEFAULT 0
        CHECK (observed_generation BETWEEN 0 AND generation),
    registered_at_s     REAL NOT NULL,
    retired_at_s        REAL,
    UNIQUE (address, incarnation)
) STRICT;
CREATE UNIQUE INDEX one_alive_per_address ON resources (address) WHERE retired_at_s IS NULL;

-- One row per value: the primary key is what makes two owners impossible.
-- holder: the resource an owner belongs to (an interface's VM; a resource itself).
CREATE TABLE allocations (
    kind           TEXT NOT NULL,
    value          TEXT NOT NULL,
    owner          TEXT NOT NULL,
    resource       TEXT NOT NULL,
    holder         TEXT NOT NULL REFERENCES resources (uid),
    allocated_at_s REAL NOT NULL,
    released_at_s  REAL,
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX allocations_by_holder ON allocations (holder);

CREATE TABLE vms (
    uid          TEXT PRIMARY KEY REFERENCES resources (uid),
    intent       TEXT NOT NULL CHECK (intent IN ('started', 'stopped', 'completed', 'failed')),
    boot_id      TEXT NOT NULL,
    last_start_s REAL NOT NULL,
    restarts     INTEGER NOT NULL,
    generation   INTEGER NOT NULL,
    reason       TEXT NOT NULL
) STRICT;

-- No reference to resources: a hold may outlive the resource it keeps from coming back.
CREATE TABLE holds (
    address   TEXT PRIMARY KEY,
    owner     TEXT NOT NULL,
    reason    TEXT NOT NULL,
    since_s   REAL NOT NULL,
    spec_hash TEXT NOT NULL
) STRICT;

CREATE TABLE firewall (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    template TEXT NOT NULL,
    listing  TEXT NOT NULL
) STRICT;

CREATE TABLE sysctls_before (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE runs (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_id      TEXT NOT NULL,
    fingerprint  TEXT NOT NULL,
    source       TEXT NOT NULL,
    commit_id    TEXT NOT NULL,
    started_at_s REAL NOT NULL,
    ended_at_s   REAL,
    outcome      TEXT CHECK (outcome IN ('done', 'failed', 'partial', 'interrupted')),
    detail       TEXT NOT NULL DEFAULT '',
    CHECK ((ended_at_s IS NULL) = (outcome IS NULL))
) STRICT;
CREATE INDEX runs_unfinished ON runs (id) WHERE outcome IS NULL;

-- One row per step, written as "intended" with its run, before anything is done.
CREATE TABLE steps (
    run          INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    position     INTEGER NOT NULL,
    key          TEXT NOT NULL,
    resource     TEXT NOT NULL,
    operation    TEXT NOT NULL,
    arguments    TEXT NOT NULL,
    status       TEXT NOT NULL DEFAULT 'intended'
        CHECK (status IN ('intended', 'started', 'done', 'failed')),
    started_at_s REAL,
    ended_at_s   REAL,
    evidence     TEXT NOT NULL DEFAULT '{}',
    error        TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    at_s      REAL NOT NULL,
    resource  TEXT NOT NULL,
    kind      TEXT NOT NULL CHECK (kind IN ('Normal', 'Warning')),
    reason    TEXT NOT NULL,
    message   TEXT NOT NULL,
    run       INTEGER,
    commit_id TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_resource ON events (resource, id);

-- The last good text of every file of a source, so that a broken save deletes nothing.
CREATE TABLE documents (
    source TEXT NOT NULL,
    file   TEXT NOT NULL,
    text   TEXT NOT NULL,
    PRIMARY KEY (source, file)
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    name          TEXT PRIMARY KEY,
    digest        TEXT NOT NULL,
    recorded_at_s REAL NOT NULL
) STRICT;

CREATE TABLE observation (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    at_s     REAL NOT NULL,
    document TEXT NOT NULL
) STRICT;
