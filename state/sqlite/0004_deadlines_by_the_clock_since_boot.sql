-- A deadline in seconds since boot as well: no step of the wall clock moves it while this boot
-- lasts. `seconds` is what was allowed, to tell a wall clock that was set back over a reboot.
ALTER TABLE confirmation ADD COLUMN seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE confirmation ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE confirmation ADD COLUMN deadline_boot_s REAL NOT NULL DEFAULT 0;
