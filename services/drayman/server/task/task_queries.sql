-- Statements of tasks: what commands and the engine read and change. Each says which index it needs.
--
-- Whoever changes a task locks its row first (`lock_task`), then, if it has to, the tally, lots, jobs, inputs, in this order. New rows of
-- jobs and inputs are in nobody's way and may be written before.

-- name: task
-- A task as lists show it, without its parameters, which may be long. Primary keys.
SELECT t.task_id, t.name, t.owner, t.vo, t.label, t.type, t.processing_type, t.working_group, t.request_no, t.state::text, t.old_state::text,
       t.error, t.parent_id, t.priority, t.current_priority, t.attempt, t.revision, t.command, t.scouts_until, t.waiting_since,
       t.build_job_id, t.more_attempts, t.created_at, t.changed_at, t.state_at, t.ended_at,
       y.inputs, y.ready, y.picked, y.finished, y.failed, y.missing, y.jobs, y.live, y.jobs_finished, y.jobs_failed, y.jobs_cancelled,
       y.scouts_finished, y.scouts_failed, y.serial, y.fresh, y.started_at, y.moved_at, y.attend_at
  FROM task.task t JOIN task.tally y USING (task_id)

-- name: one_task
-- Appended to `task`.
 WHERE t.task_id = $1

-- name: locked_task
-- Appended to `one_task`.
   FOR UPDATE OF t

-- name: listed_tasks
-- Appended to `task`. task_by_owner, task_by_name, task_by_state, task_by_parent, task_by_request_no or task_by_change, by what is given.
 WHERE ($1::text IS NULL OR t.owner = $1)
   AND ($2::text[] IS NULL OR t.state = ANY ($2::task.task_state[]))
   AND ($3::text IS NULL OR t.name LIKE $3)
   AND ($4::bigint[] IS NULL OR t.task_id = ANY ($4))
   AND ($5::bigint IS NULL OR t.request_no = $5)
   AND t.task_id > $6
   AND ($7::timestamptz IS NULL OR t.changed_at >= $7 OR y.moved_at >= $7)
   AND ($8::text IS NULL OR t.type = $8)
   AND ($9::bigint IS NULL OR t.parent_id = $9)
   AND t.task_id < $10
 ORDER BY t.task_id DESC
 LIMIT $11

-- name: parameters
SELECT revision, parameters, submitted FROM task.task WHERE task_id = $1

-- name: state
SELECT state::text FROM task.task WHERE task_id = $1

------------------------------------------------------------------------------------------------------------------------
-- Submission
------------------------------------------------------------------------------------------------------------------------

-- name: queue_up
-- One at a time who submits the same, until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended($1, 0x7461736b))

-- name: task_of_request
-- task_by_request.
SELECT task_id, attempt FROM task.task WHERE owner = $1 AND request_id = $2

-- name: counted_tasks
-- task_by_owner.
SELECT count(*) FROM task.task WHERE owner = $1 AND label = $2 AND state = ANY ($3::task.task_state[])

-- name: latest_of_name
-- task_by_name. $4 NULL: whosever.
SELECT task_id, owner, state::text FROM task.task
 WHERE name = $1 AND vo = $2 AND label = $3 AND ($4::text IS NULL OR owner = $4)
 ORDER BY task_id DESC LIMIT 1

-- name: parent_of_name
-- task_by_name.
SELECT task_id FROM task.task WHERE name = $1 AND vo = $2 ORDER BY task_id DESC LIMIT 1

-- name: insert_task
WITH made AS (
    SELECT nextval(pg_get_serial_sequence('task.task', 'task_id')) AS task_id
), task AS (
    INSERT INTO task.task (task_id, name, owner, vo, label, type, processing_type, working_group, request_no, parent_id, priority,
                           current_priority, submitted, parameters, request_id)
    SELECT task_id, $1, $2, $3, $4, $5, $6, $7, coalesce($8::bigint, task_id), $9, $10, $10, $11, $12, $13 FROM made
)
SELECT task_id FROM made

-- name: insert_tally
INSERT INTO task.tally (task_id, attend_at) VALUES ($1, now())

------------------------------------------------------------------------------------------------------------------------
-- Attention
------------------------------------------------------------------------------------------------------------------------

-- name: claim
-- Take tasks that somebody has to look after. Who dies over one leaves it to others soon. tally_due.
UPDATE task.tally SET attend_at = now() + interval '20 seconds'
 WHERE task_id IN (SELECT task_id FROM task.tally WHERE attend_at <= now() AND task_id <> ALL ($1::bigint[])
                    ORDER BY attend_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING task_id, attend_at

-- name: claim_on
-- Keep a task that is being looked after.
UPDATE task.tally SET attend_at = now() + interval '20 seconds' WHERE task_id = $1 RETURNING attend_at

-- name: release
-- It is enough for now; look again in $3 seconds, or NULL: when told. Not if somebody told meanwhile.
UPDATE task.tally SET attend_at = now() + make_interval(secs => $3) WHERE task_id = $1 AND attend_at = $2

-- name: next_due
-- tally_due.
SELECT extract(epoch FROM min(attend_at) - now())::float8 FROM task.tally WHERE attend_at IS NOT NULL

-- name: attend
UPDATE task.tally SET attend_at = now() WHERE task_id = ANY ($1::bigint[])

-- name: attend_children
-- What waits for a parent, or runs with it. task_by_parent.
WITH children AS (
    SELECT y.task_id FROM task.task t JOIN task.tally y USING (task_id)
     WHERE t.parent_id = $1 AND t.task_id <> $1 ORDER BY 1 FOR UPDATE OF y
)
UPDATE task.tally y SET attend_at = now() FROM children c WHERE y.task_id = c.task_id RETURNING y.task_id

------------------------------------------------------------------------------------------------------------------------
-- Moves
------------------------------------------------------------------------------------------------------------------------

-- name: move
-- $4 NULL keeps the error, $5 is the command that is being carried out from now on.
UPDATE task.task
   SET state = $2::task.task_state,
       old_state = $3::task.task_state,
       error = left(coalesce($4, error), 510),
       command = $5,
       state_at = CASE WHEN state = $2::task.task_state THEN state_at ELSE now() END,
       changed_at = now(),
       ended_at = CASE WHEN $6 THEN coalesce(ended_at, now()) END,
       waiting_since = CASE WHEN $2::text = 'pending' THEN coalesce(waiting_since, now()) END
 WHERE task_id = $1

-- name: set_lots
-- Closed lots are out of the hand-out's sight, however many jobs they have. lot_by_task.
WITH mine AS (
    SELECT lot_id FROM task.lot WHERE task_id = $1 AND is_open <> $2 ORDER BY lot_id FOR UPDATE
)
UPDATE task.lot l SET is_open = $2 FROM mine m WHERE l.lot_id = m.lot_id

-- name: touch
UPDATE task.task SET changed_at = now(), error = left(coalesce($2, error), 510) WHERE task_id = $1

-- name: begin_again
-- A retry. $2: the state that it goes on from, $3 parameters or NULL = as they were, $4 request or NULL.
UPDATE task.task
   SET attempt = attempt + 1, current_priority = priority,
       parameters = coalesce($2, parameters), revision = revision + ($2 IS NOT NULL)::int, request_id = coalesce($3, request_id)
 WHERE task_id = $1

-- name: change_parameters
UPDATE task.task SET parameters = $2, revision = revision + 1, changed_at = now() WHERE task_id = $1

-- name: reprioritize
-- lot_by_task.
UPDATE task.task SET priority = $2, current_priority = $2 WHERE task_id = $1

-- name: clear_start
UPDATE task.tally SET started_at = NULL, attend_at = now() WHERE task_id = $1

-- name: forget_scouts
UPDATE task.tally SET scouts_finished = 0, scouts_failed = 0 WHERE task_id = $1

-- name: set_scouts
UPDATE task.task SET scouts_until = $2 WHERE task_id = $1

-- name: set_build
UPDATE task.task SET build_job_id = $2 WHERE task_id = $1

-- name: set_command
UPDATE task.task SET command = $2 WHERE task_id = $1

-- name: left
SELECT live, ready FROM task.tally WHERE task_id = $1

-- name: insert_build
INSERT INTO task.job (task_id, lot_id, kind, attempt, revision, parent_id) VALUES ($1, $2, 'build', $3, $4, $5) RETURNING job_id

-- name: clear_command
UPDATE task.task SET command = NULL WHERE task_id = $1

-- name: lock_tally
SELECT 1 FROM task.tally WHERE task_id = $1 FOR UPDATE

-- name: lock_lots
-- lot_by_task.
SELECT 1 FROM task.lot WHERE task_id = $1 ORDER BY lot_id FOR UPDATE

-- name: children
-- task_by_parent.
SELECT task_id, state::text FROM task.task WHERE parent_id = $1 AND task_id <> $1 ORDER BY task_id

------------------------------------------------------------------------------------------------------------------------
-- Streams, collections, lists
------------------------------------------------------------------------------------------------------------------------

-- name: put_stream
INSERT INTO task.stream (task_id, stream_no, name, kind, is_primary) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (task_id, stream_no) DO UPDATE SET name = excluded.name, kind = excluded.kind, is_primary = excluded.is_primary

-- name: put_dataset
-- Unless the stream has it.
INSERT INTO task.dataset (task_id, dataset_no, stream_no, name, container, project, asset, version)
SELECT $1, coalesce((SELECT max(dataset_no) FROM task.dataset WHERE task_id = $1), 0) + 1, $2, $3, $4, $5, $6, $7
 WHERE NOT EXISTS (SELECT FROM task.dataset WHERE task_id = $1 AND stream_no = $2 AND name = $3)

-- name: streams
SELECT stream_no, name, kind, is_primary, used FROM task.stream WHERE task_id = $1 ORDER BY stream_no

-- name: datasets
SELECT d.dataset_no, d.stream_no, d.name, d.container, d.project, d.asset, d.version, d.files, d.events,
       s.name AS stream, s.kind, s.is_primary, s.used
  FROM task.dataset d JOIN task.stream s USING (task_id, stream_no)
 WHERE d.task_id = $1 ORDER BY d.dataset_no

-- name: make_reading
-- What lists say, while they are read; gone with the connection, whatever happens.
CREATE TEMPORARY TABLE reading (
    place_no int GENERATED ALWAYS AS IDENTITY, stream_no smallint NOT NULL, dataset_no int NOT NULL, name text COLLATE "C" NOT NULL, scope text,
    size bigint NOT NULL, checksum text, events bigint NOT NULL, first_event bigint NOT NULL, place text, urls text[], guid text
)

-- name: drop_reading
DROP TABLE IF EXISTS pg_temp.reading

-- name: index_reading
ANALYZE pg_temp.reading

-- name: compare_lists
-- Two whole lists are compared by hashing them, whatever the planner thinks of a table that nobody has analysed.
SELECT set_config('enable_nestloop', 'off', true), set_config('enable_hashjoin', 'on', true), set_config('enable_seqscan', 'on', true)

-- name: compare_no_more
SELECT set_config('enable_nestloop', 'on', true), set_config('enable_hashjoin', 'off', true), set_config('enable_seqscan', 'off', true)

-- name: add_read
-- New files become records, those of the primary stream ($2) first. Reads the task's inputs once.
INSERT INTO task.input (task_id, input_no, stream_no, dataset_no, name, scope, size, checksum, events, first_event, place, urls, guid,
                        max_attempts, max_failures)
SELECT $1, m.last + row_number() OVER (ORDER BY r.stream_no <> $2, r.stream_no, r.place_no), r.stream_no, r.dataset_no, r.name, r.scope,
       r.size, r.checksum, r.events, r.first_event, r.place, r.urls, r.guid, $3, $4
  FROM pg_temp.reading r
 CROSS JOIN (SELECT coalesce(max(input_no), 0) AS last FROM task.input WHERE task_id = $1) m
 WHERE NOT EXISTS (SELECT FROM task.input i
                    WHERE i.task_id = $1 AND i.stream_no = r.stream_no AND i.dataset_no = r.dataset_no AND i.name = r.name
                      AND i.first_event = r.first_event AND i.scope IS NOT DISTINCT FROM r.scope)

-- name: miss_vanished
-- What the lists do not have any more cannot be used; what was made of it stays. $2: a stream that no list has.
UPDATE task.input i SET state = 'missing'
 WHERE i.task_id = $1 AND i.stream_no <> $2 AND i.state IN ('ready', 'failed')
   AND NOT EXISTS (SELECT FROM pg_temp.reading r
                    WHERE r.stream_no = i.stream_no AND r.dataset_no = i.dataset_no AND r.name = i.name AND r.first_event = i.first_event
                      AND r.scope IS NOT DISTINCT FROM i.scope)

-- name: welcome_back
UPDATE task.input i SET state = 'ready', max_attempts = greatest(i.max_attempts, i.attempts + 1)
 WHERE i.task_id = $1 AND i.state = 'missing'
   AND EXISTS (SELECT FROM pg_temp.reading r
                WHERE r.stream_no = i.stream_no AND r.dataset_no = i.dataset_no AND r.name = i.name AND r.first_event = i.first_event
                  AND r.scope IS NOT DISTINCT FROM i.scope)

-- name: count_datasets
UPDATE task.dataset d SET files = coalesce(c.files, 0), events = coalesce(c.events, 0)
  FROM task.dataset e
  LEFT JOIN (SELECT dataset_no, count(*) AS files, sum(events)::bigint AS events FROM task.input WHERE task_id = $1 GROUP BY 1) c
    ON c.dataset_no = e.dataset_no
  JOIN task.stream s ON s.task_id = e.task_id AND s.stream_no = e.stream_no AND s.kind IN ('input', 'pseudo_input')
 WHERE e.task_id = $1 AND d.task_id = e.task_id AND d.dataset_no = e.dataset_no

-- name: expect
-- How many records a pseudo input ($2) will have; they are written with their jobs.
UPDATE task.dataset SET files = $3, events = $4 WHERE task_id = $1 AND stream_no = $2

-- name: recount
-- Count the records of the primary stream ($2) anew; $3 of them are not rows yet. To be called with the tally locked.
UPDATE task.tally y
   SET inputs = c.n + $3, ready = c.ready + $3, picked = c.picked, finished = c.finished, failed = c.failed, missing = c.missing,
       moved_at = now()
  FROM (SELECT count(*) AS n,
               count(*) FILTER (WHERE state = 'ready') AS ready,
               count(*) FILTER (WHERE state = 'picked') AS picked,
               count(*) FILTER (WHERE state = 'finished') AS finished,
               count(*) FILTER (WHERE state = 'failed') AS failed,
               count(*) FILTER (WHERE state IN ('missing', 'lost')) AS missing
          FROM task.input WHERE task_id = $1 AND stream_no = $2) c
 WHERE y.task_id = $1

-- name: unwritten
-- Records of a pseudo input that are not rows yet.
SELECT coalesce(sum(d.files), 0)::bigint - coalesce(max(s.used), 0)::bigint
  FROM task.stream s JOIN task.dataset d USING (task_id, stream_no)
 WHERE s.task_id = $1 AND s.is_primary AND s.kind = 'pseudo_input'

-- name: inputs
-- Records in their order. input_pkey.
SELECT i.input_no, i.name, i.state::text, i.attempts, i.max_attempts, i.failures, i.max_failures, i.job_id, i.events, i.first_event, i.size,
       s.name AS stream, d.name AS dataset
  FROM task.input i
  JOIN task.stream s USING (task_id, stream_no)
  JOIN task.dataset d USING (task_id, dataset_no)
 WHERE i.task_id = $1 AND i.input_no > $2 AND ($3::text[] IS NULL OR i.state::text = ANY ($3))
 ORDER BY i.input_no LIMIT $4

------------------------------------------------------------------------------------------------------------------------
-- Jobs
------------------------------------------------------------------------------------------------------------------------

-- name: ready_inputs
-- input_ready.
SELECT input_no, size, events, first_event, attempts, failures, job_id
  FROM task.input WHERE task_id = $1 AND stream_no = $2 AND state = 'ready' ORDER BY task_id, stream_no, input_no LIMIT $3

-- name: jobs_before
-- What the latest jobs of inputs were made of. job_pkey.
SELECT job_id, inputs, others, revision FROM task.job WHERE job_id = ANY ($1::bigint[])

-- name: secondary_records
-- Records of a secondary stream from the one at a place on. input_ready.
SELECT input_no FROM task.input WHERE task_id = $1 AND stream_no = $2 AND state = 'ready' ORDER BY input_no OFFSET $3 LIMIT $4

-- name: count_secondary
-- input_ready.
SELECT stream_no, count(*) AS n FROM task.input WHERE task_id = $1 AND state = 'ready' AND stream_no <> $2 GROUP BY 1

-- name: reserve_jobs
SELECT array_agg(nextval(pg_get_serial_sequence('task.job', 'job_id'))) FROM generate_series(1, $1)

-- name: find_lot
-- lot_by_task.
SELECT lot_id FROM task.lot
 WHERE task_id = $1 AND priority = $2 AND sites = $3 AND not_sites = $4 AND cores = $5 AND memory_mb = $6 AND disk_mb = $7
   AND walltime = $8 AND platform = $9 AND label = $10

-- name: insert_lot
INSERT INTO task.lot (task_id, priority, sites, not_sites, cores, memory_mb, disk_mb, walltime, platform, label, owner, is_open)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING lot_id

-- name: pick_inputs
-- input_pkey, once for each number: of a table that grew just now the planner may believe that it is empty, and OFFSET 0 keeps it from
-- looking through all numbers for each record instead. Nobody else changes records that are ready while the task is locked.
WITH p AS MATERIALIZED (
    SELECT * FROM unnest($2::int[], $3::bigint[], $4::int[]) AS p (input_no, job_id, memory_mb)
)
UPDATE task.input i SET state = 'picked', attempts = i.attempts + 1, job_id = p.job_id, memory_mb = coalesce(p.memory_mb, i.memory_mb)
  FROM p CROSS JOIN LATERAL (
           SELECT f.ctid AS place FROM task.input f
            WHERE f.task_id = $1 AND f.input_no = p.input_no AND f.state::text = 'ready'
           OFFSET 0
       ) AS found
 WHERE i.ctid = found.place

-- name: count_made
-- $2 inputs in $3 jobs, $4 of which are first attempts; the serial went up by $5.
UPDATE task.tally
   SET ready = ready - $2, picked = picked + $2, jobs = jobs + $3, live = live + $3, serial = serial + $5, fresh = fresh + $4,
       moved_at = now()
 WHERE task_id = $1 RETURNING ready

-- name: fill_lot
UPDATE task.lot SET ready = ready + $2 WHERE lot_id = $1

-- name: use_stream
UPDATE task.stream SET used = used + $3 WHERE task_id = $1 AND stream_no = $2

-- name: job_state
SELECT state::text, attempt FROM task.job WHERE job_id = $1

-- name: live_jobs
-- By state. job_live.
SELECT state::text, count(*) AS n, coalesce(sum(cardinality(inputs)) FILTER (WHERE kind = 'run'), 0)::bigint AS inputs
  FROM task.job WHERE task_id = $1 AND state < 'finished' GROUP BY 1 ORDER BY 1

-- name: latest_jobs
-- Of the records of the primary input. input_pkey.
SELECT DISTINCT job_id FROM task.input WHERE task_id = $1 AND stream_no = $2 AND job_id IS NOT NULL ORDER BY job_id

-- name: merge_jobs
-- job_merging.
SELECT job_id FROM task.job WHERE task_id = $1 AND kind = 'merge' ORDER BY job_id

-- name: job_metadata
-- Of jobs that finished. job_metadata_by_task.
SELECT m.job_id, m.metadata FROM task.job_metadata m JOIN task.job j USING (job_id)
 WHERE m.task_id = $1 AND m.job_id > $2 AND j.state = 'finished' ORDER BY m.job_id LIMIT $3

------------------------------------------------------------------------------------------------------------------------
-- Winding down, resetting
------------------------------------------------------------------------------------------------------------------------

-- name: live_chunk
-- Jobs that a command takes away. $2: those that workers have as well. job_live.
SELECT job_id, state::text, killed_by IS NOT NULL AS ordered FROM task.job
 WHERE task_id = $1 AND state < 'finished' AND job_id > $3 AND ($2 OR state < 'sent')
 ORDER BY task_id, job_id LIMIT $4 FOR UPDATE

-- name: end_jobs
-- End jobs that are locked. $2 the state, $3 what is noted, $4: give the attempt back. lot, input by primary key.
WITH before AS MATERIALIZED (
    SELECT job_id, lot_id, state, inputs, kind FROM task.job WHERE job_id = ANY ($1::bigint[])
), ended AS (
    UPDATE task.job j
       SET state = $2::task.job_state, state_at = now(), ended_at = now(), lease_until = NULL, killed_by = NULL,
           started_at = CASE WHEN b.state = 'starting' THEN now() ELSE j.started_at END,
           fields = coalesce(j.fields, '{}') || $3::jsonb
      FROM before b WHERE j.job_id = b.job_id
), lots AS (
    UPDATE task.lot l SET ready = l.ready - n.n
      FROM (SELECT lot_id, count(*) AS n FROM before WHERE state = 'activated' GROUP BY 1) n WHERE l.lot_id = n.lot_id
), outputs AS (
    UPDATE task.output o SET state = 'failed' FROM before b WHERE o.job_id = b.job_id AND b.state >= 'starting'
), records AS (
    UPDATE task.input i
       SET attempts = i.attempts - $4::int,
           state = (CASE WHEN i.attempts - $4::int < i.max_attempts AND (i.max_failures IS NULL OR i.failures < i.max_failures)
                         THEN 'ready' ELSE 'failed' END)::task.input_state
      FROM (SELECT job_id, unnest(inputs) AS input_no FROM before WHERE kind = 'run') b
     WHERE i.task_id = $5 AND i.input_no = b.input_no AND i.state::text = 'picked' AND i.job_id = b.job_id
    RETURNING i.state
)
UPDATE task.tally y
   SET live = y.live - c.n, jobs_cancelled = y.jobs_cancelled + c.n, moved_at = now(),
       picked = y.picked - r.ready - r.failed, ready = y.ready + r.ready, failed = y.failed + r.failed
  FROM (SELECT count(*) AS n FROM before) c,
       (SELECT count(*) FILTER (WHERE state = 'ready') AS ready, count(*) FILTER (WHERE state = 'failed') AS failed FROM records) r
 WHERE y.task_id = $5

-- name: order_jobs
-- job_pkey.
UPDATE task.job SET killed_by = $2 WHERE job_id = ANY ($1::bigint[]) AND killed_by IS NULL RETURNING job_id

-- name: primary_stream
SELECT stream_no FROM task.stream WHERE task_id = $1 AND is_primary

-- name: last_input
-- input_pkey.
SELECT coalesce(max(input_no), 0) FROM task.input WHERE task_id = $1

-- name: give_attempts
-- More attempts for records of the primary stream ($2) that were given up, from one number to another. input_pkey.
WITH given AS (
    UPDATE task.input SET state = 'ready', max_attempts = greatest(max_attempts, attempts) + $5,
           max_failures = CASE WHEN max_failures IS NOT NULL THEN greatest(max_failures, failures) + $5 END
     WHERE task_id = $1 AND stream_no = $2 AND input_no > $3 AND input_no <= $4 AND state = 'failed'
    RETURNING 1
)
UPDATE task.tally SET ready = ready + g.n, failed = failed - g.n, moved_at = now()
  FROM (SELECT count(*) AS n FROM given) g WHERE task_id = $1 RETURNING g.n

-- name: raise_attempts
-- To be called with the tally locked: it knows how many had been given up. input_pkey.
WITH raised AS (
    UPDATE task.input
       SET max_attempts = greatest(max_attempts, attempts) + $3,
           max_failures = CASE WHEN max_failures IS NOT NULL THEN greatest(max_failures, failures) + $3 END,
           state = CASE WHEN state = 'failed' AND $3 > 0 THEN 'ready'::task.input_state ELSE state END
     WHERE task_id = $1 AND stream_no = $2 AND state IN ('ready', 'picked', 'failed')
    RETURNING 1
), before AS (
    SELECT failed FROM task.tally WHERE task_id = $1
)
UPDATE task.tally y
   SET ready = y.ready + CASE WHEN $3 > 0 THEN b.failed ELSE 0 END, failed = CASE WHEN $3 > 0 THEN 0 ELSE y.failed END,
       attend_at = now(), moved_at = now()
  FROM before b, (SELECT count(*) AS n FROM raised) r
 WHERE y.task_id = $1 RETURNING r.n, CASE WHEN $3 > 0 THEN b.failed ELSE 0 END AS reactivated

-- name: raise_unwritten
UPDATE task.task SET more_attempts = more_attempts + $2, changed_at = now() WHERE task_id = $1

-- name: renew_inputs
-- From the beginning, from one number to another. input_pkey.
UPDATE task.input SET state = 'ready', attempts = 0, failures = 0, max_attempts = $5, max_failures = $6, memory_mb = NULL, job_id = NULL
 WHERE task_id = $1 AND stream_no = $2 AND input_no > $3 AND input_no <= $4 AND state <> 'missing'

-- name: lower_memory
-- input_pkey.
UPDATE task.input SET memory_mb = NULL WHERE task_id = $1 AND memory_mb > $2 AND state IN ('ready', 'failed')

-- name: forget_outputs
-- output_by_task.
UPDATE task.output SET state = 'failed' WHERE task_id = $1 AND state IN ('ready', 'merged')

-- name: begin_counts
UPDATE task.tally SET fresh = 0, scouts_finished = 0, scouts_failed = 0 WHERE task_id = $1

-- name: unuse_streams
UPDATE task.stream SET used = 0 WHERE task_id = $1 AND NOT is_primary

------------------------------------------------------------------------------------------------------------------------
-- The end: merging, assembling, recovery
------------------------------------------------------------------------------------------------------------------------

-- name: unmerged
-- Jobs with outputs that are not merged yet. output_by_task.
SELECT o.job_id, sum(o.size)::bigint AS size
  FROM task.output o JOIN task.job j USING (job_id)
 WHERE o.task_id = $1 AND o.type = 'output' AND o.state = 'ready' AND j.kind = 'run'
 GROUP BY o.job_id ORDER BY o.job_id LIMIT $2

-- name: merge_failures
-- Merge jobs of a job's outputs that came to nothing. job_merging.
SELECT count(*) FROM task.job WHERE task_id = $1 AND kind = 'merge' AND state > 'finished' AND merges @> ARRAY[$2::bigint]

-- name: mark_merged
-- What finished merge jobs have put together. job_merging, output_pkey.
UPDATE task.output o SET state = 'merged'
  FROM task.job m
 WHERE m.task_id = $1 AND m.kind = 'merge' AND m.state = 'finished' AND o.task_id = $1 AND o.job_id = ANY (m.merges)
   AND o.type = 'output' AND o.state = 'ready'

-- name: parts
-- The versions that hold what a task made of a stream. output_by_task.
SELECT DISTINCT version FROM task.output
 WHERE task_id = $1 AND stream = $2 AND project = $3 AND asset = $4 AND state = 'ready' ORDER BY version

-- name: made_files
-- What a task believes to have made, version by version. output_by_task.
SELECT o.job_id, o.name, o.dataset, o.project, o.asset, o.version
  FROM task.output o
 WHERE o.task_id = $1 AND o.state = 'ready' AND o.type = 'output' AND (o.job_id, o.name) > ($2, $3)
 ORDER BY o.job_id, o.name LIMIT $4

-- name: lose
-- Outputs that are gone, and the inputs they were made of. output_pkey, job_pkey, input_pkey.
WITH gone AS (
    UPDATE task.output o SET state = 'lost'
      FROM unnest($2::bigint[], $3::text[]) AS g (job_id, name)
     WHERE o.job_id = g.job_id AND o.name = g.name AND o.state = 'ready'
    RETURNING o.job_id
), jobs AS (
    SELECT DISTINCT j.job_id, j.inputs FROM gone g JOIN task.job j USING (job_id) WHERE j.kind = 'run'
), siblings AS ( -- the job's other outputs are made again as well
    UPDATE task.output o SET state = 'failed' FROM jobs j
     WHERE o.job_id = j.job_id AND o.state = 'ready' AND NOT (o.job_id, o.name) IN (SELECT * FROM unnest($2::bigint[], $3::text[]))
), again AS (
    UPDATE task.input i SET state = 'ready', max_attempts = greatest(i.max_attempts, i.attempts + 1)
      FROM jobs j WHERE i.task_id = $1 AND i.input_no = ANY (j.inputs) AND i.state = 'finished'
    RETURNING 1
)
UPDATE task.tally y SET finished = y.finished - a.n, ready = y.ready + a.n, moved_at = now()
  FROM (SELECT count(*) AS n FROM again) a WHERE y.task_id = $1 RETURNING a.n

-- name: outputs_made
-- output_by_task.
SELECT stream, count(*) AS n FROM task.output WHERE task_id = $1 AND state IN ('ready', 'merged') GROUP BY 1

-- name: count_collections
-- Records of each input collection by state. input_pkey.
SELECT dataset_no, state::text, count(*) AS n, count(job_id) AS used FROM task.input WHERE task_id = $1 GROUP BY 1, 2
