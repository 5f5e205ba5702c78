-- So that the journal can be bounded by its steps without counting them.
ALTER TABLE runs ADD COLUMN step_count INTEGER NOT NULL DEFAULT 0;
UPDATE runs SET step_count = (SELECT count(*) FROM steps WHERE steps.run = runs.id);

-- What the starts and stops of an ended run took, summed up once: its steps are too many to be
-- read whenever somebody looks at the ledger.
CREATE TABLE durations (
    run        INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    operation  TEXT NOT NULL,
    hypervisor TEXT NOT NULL,
    steps      INTEGER NOT NULL,
    seconds    REAL NOT NULL,
    PRIMARY KEY (run, operation, hypervisor)
) STRICT, WITHOUT ROWID;
INSERT INTO durations
    SELECT run, operation,
        coalesce(json_extract(arguments, '$.launch.hypervisor'),
                 json_extract(arguments, '$.hypervisor'), '') AS hypervisor,
        count(*), sum(ended_at_s - started_at_s)
    FROM steps
    WHERE operation IN ('StartVm', 'StopVm') AND status = 'done' AND ended_at_s >= started_at_s
    GROUP BY run, operation, hypervisor;
