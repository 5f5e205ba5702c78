-- Counts of dropped packets as they were last told (JSON), so that a daemon started again tells
-- nothing twice, and nothing less.
CREATE TABLE told_drops (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    document TEXT NOT NULL
) STRICT;
-- Events of a kind of their own are bounded apart, so that no attack pushes the others out.
CREATE INDEX events_dropped ON events (id) WHERE reason = 'Dropped';
