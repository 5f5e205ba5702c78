-- Where the last good documents of a source came from: the folder that paths in them are relative
-- to, and in a repository the commit; applied_commit is the last that was wholly so on this host.
CREATE TABLE sources (
    source         TEXT PRIMARY KEY,
    root           TEXT NOT NULL,
    commit_id      TEXT NOT NULL,
    author         TEXT NOT NULL,
    applied_commit TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

-- The last word told of everything (JSON), so that a daemon started again repeats nothing.
CREATE TABLE last_words (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    document TEXT NOT NULL
) STRICT;
