-- A rename keeps the uid, so the address a uid was derived from (its origin) and the address it
-- has now are two columns. Incarnations count per origin: they are never reused.
DROP INDEX one_alive_per_address;
ALTER TABLE resources RENAME COLUMN address TO origin;
ALTER TABLE resources ADD COLUMN address TEXT NOT NULL DEFAULT '';
UPDATE resources SET address = origin;
CREATE UNIQUE INDEX one_alive_per_address ON resources (address) WHERE retired_at_s IS NULL;

-- NULL: until somebody lifts it. A hold with an empty spec_hash outlives changes of the spec.
ALTER TABLE holds ADD COLUMN until_s REAL;

ALTER TABLE runs ADD COLUMN author TEXT NOT NULL DEFAULT '';

-- What a run meant to change, as its plan said it: for `history` and `why`.
CREATE TABLE run_changes (
    run      INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    resource TEXT NOT NULL,
    action   TEXT NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_changes_by_resource ON run_changes (resource, run);

-- A saved plan is carried out once.
CREATE TABLE plan_files (
    token     TEXT PRIMARY KEY,
    run       INTEGER NOT NULL,
    used_at_s REAL NOT NULL
) STRICT;

-- Resources whose last try failed: tried again when due, or at once when their spec changes.
CREATE TABLE retries (
    resource     TEXT PRIMARY KEY,
    failures     INTEGER NOT NULL CHECK (failures > 0),
    not_before_s REAL NOT NULL,
    error        TEXT NOT NULL,
    spec_hash    TEXT NOT NULL
) STRICT;

-- The change that awaits confirmation: what was before it, and what it asked for (both JSON).
CREATE TABLE confirmation (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    run        INTEGER NOT NULL,
    deadline_s REAL NOT NULL,
    before     TEXT NOT NULL,
    request    TEXT NOT NULL
) STRICT;

-- What was rolled back: a source at a state that the daemon must not apply again.
CREATE TABLE rejections (
    source       TEXT PRIMARY KEY,
    fleet_digest TEXT NOT NULL,
    commit_id    TEXT NOT NULL,
    at_s         REAL NOT NULL,
    reason       TEXT NOT NULL,
    instead      TEXT NOT NULL
) STRICT;
