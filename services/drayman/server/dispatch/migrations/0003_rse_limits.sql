-- How many files may be read from an RSE at a time. Where no RSE has a limit, reservations do not know theirs, and nothing is counted.
ALTER TABLE dispatch.rse ADD COLUMN max_running int CHECK (max_running > 0);
ALTER TABLE dispatch.handle ADD COLUMN rse_id int;  -- where the last worker was told to read

-- One row for each RSE with a limit: all projects that read there take turns at it.
CREATE TABLE dispatch.rse_load (
    rse_id  int PRIMARY KEY REFERENCES dispatch.rse ON DELETE CASCADE,
    running bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
