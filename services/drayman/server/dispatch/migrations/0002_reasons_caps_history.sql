-- Reasons, caps, open projects; and a history that is written by the batch.

ALTER TABLE dispatch.project
    ADD COLUMN reason_code text,      -- why it was cancelled, by whom and when
    ADD COLUMN reason_message text,
    ADD COLUMN reason_username text,
    ADD COLUMN reason_at timestamptz;

-- Rules that every report and every draw has to know stand with the counts, which it locks anyway. `running` is kept where there is a
-- limit; without one, nobody pays for it. `last_handle` is the highest handle id given out: files that are being added have theirs
-- before they count.
ALTER TABLE dispatch.tally
    ADD COLUMN last_handle bigint NOT NULL DEFAULT 0,
    ADD COLUMN open boolean NOT NULL DEFAULT false,
    ADD COLUMN max_attempts int CHECK (max_attempts > 0),
    ADD COLUMN max_running int CHECK (max_running > 0),
    ADD COLUMN running bigint NOT NULL DEFAULT 0 CHECK (running >= 0);
UPDATE dispatch.tally SET last_handle = files;

-- Where the last worker was, and why it did not end well.
ALTER TABLE dispatch.handle
    ADD COLUMN site text,
    ADD COLUMN code text,
    ADD COLUMN message text,
    ADD COLUMN reason_at timestamptz;

-- What happens to a thousand handles at once is one row: writing it costs next to nothing a handle. The arrays are parallel; a missing one
-- (null) means null for every handle. Without `handle_ids` it happened to every handle from `low` to `high`.
ALTER TABLE dispatch.handle_log RENAME TO handle_log_by_row;
ALTER INDEX dispatch.handle_log_by_handle RENAME TO handle_log_by_row_by_handle;
CREATE TABLE dispatch.handle_log (
    project_id bigint NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    event      text NOT NULL,
    old_state  dispatch.handle_state,
    state      dispatch.handle_state NOT NULL,
    low        bigint NOT NULL,
    high       bigint NOT NULL,
    handle_ids bigint[],
    attempts   int[],
    worker_ids text[],
    sites      text[],
    codes      text[],
    messages   text[],
    CONSTRAINT low_to_high CHECK (low <= high)
) PARTITION BY RANGE (at);
-- What happened to one handle: batches that end at or after it; those that begin after it are passed over in the index.
CREATE INDEX handle_log_by_handle ON dispatch.handle_log (project_id, high, low);
CREATE INDEX handle_log_by_time ON dispatch.handle_log (project_id, at);

DO $$
DECLARE
    part record;
BEGIN
    FOR part IN SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bound
                  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = 'dispatch.handle_log_by_row'::regclass
    LOOP
        EXECUTE format('ALTER TABLE dispatch.%I RENAME TO %I', part.name, part.name || '_old');
        EXECUTE format('CREATE TABLE dispatch.%I PARTITION OF dispatch.handle_log %s', part.name, part.bound);
    END LOOP;
END
$$;
INSERT INTO dispatch.handle_log
       (project_id, at, event, old_state, state, low, high, handle_ids, attempts, worker_ids, codes, messages)
SELECT project_id, at, event, old_state, state, min(handle_id), max(handle_id),
       array_agg(handle_id), array_agg(attempt), array_agg(worker_id), array_agg(code), array_agg(message)
  FROM dispatch.handle_log_by_row
 GROUP BY project_id, at, event, old_state, state;
DROP TABLE dispatch.handle_log_by_row;

-- Replicas, but none that can be read now. 1 stays: no replica at all. Files that are there already move when their replicas change next.
INSERT INTO dispatch.location (location_id, rse_ids) VALUES (-1, '{-2}');
