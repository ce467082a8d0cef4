-- Every statement about jobs. Each says which index it needs; none on the worker's path scans or sorts a task.
--
-- A plan made while the tables were empty must still be right when a million rows are there, so the hot statements leave the planner one
-- sensible way only: a table is joined on its whole key with columns of one materialized list. Where a job is found by its key, its
-- state is compared as text: that does not imply the predicate of a partial index, which looks free to walk from end to end when it was
-- last analysed empty. For the same reason jobs are looked for by `job_id = ANY` of all that are meant, and only then joined (by `+ 0`, which
-- leaves that to no index) with what is to become of each.
--
-- Locks: tallies by task_id, then lots by lot_id, then jobs, then inputs. Who holds the tally of a task has its jobs and inputs for himself,
-- but for hand-outs and heartbeats, which touch one row each.

------------------------------------------------------------------------------------------------------------------------
-- Handing out
------------------------------------------------------------------------------------------------------------------------

-- name: open_lots
-- What the hand-out keeps in memory: lots that have something ready, best first. lot_waiting.
SELECT lot_id, task_id, owner, label, priority, ready, sites, not_sites, cores, memory_mb, disk_mb, walltime, platform
  FROM task.lot
 WHERE ready > 0 AND is_open
 ORDER BY priority DESC, lot_id;

-- name: draw
-- Hand out for many wishes at once: $1-$3 lots to draw from, how many of each, and where in $9 (which wish each place is for, from 1) the
-- lot's places begin; $4-$8 worker, user, site, node and request of each wish; $10 seconds that a job may take to begin. One row a lot at
-- least, with what is left in it; a lot that was closed meanwhile is missing. `again` names wishes that are told a second time and
-- have their jobs already: they get nothing here.
-- job_ready from each lot's lower bound; lot, job, input and dataset by primary key; job_held by its whole key.
-- The bound stays where it is if something came to the lot after this statement's snapshot was taken.
WITH seen AS MATERIALIZED (
    SELECT l.lot_id, l.freed FROM unnest($1::bigint[]) AS w (lot_id) JOIN task.lot l ON l.lot_id = w.lot_id
), again AS MATERIALIZED (
    SELECT w.n
      FROM unnest($4::text[], $5::text[], $8::uuid[]) WITH ORDINALITY AS w (worker_id, worker_user, request_id, n)
     CROSS JOIN LATERAL ( -- a join would look as good over the whole index, planned while that is empty
           SELECT FROM task.job
            WHERE worker_id = w.worker_id AND request_id = w.request_id AND worker_user = w.worker_user
              AND state IN ('sent', 'starting', 'running')
            LIMIT 1
           ) h
), chosen AS MATERIALIZED (
    SELECT l.lot_id, l.low, l.ready, w.take, w.begins
      FROM unnest($1::bigint[], $2::int[], $3::int[]) AS w (lot_id, take, begins)
      JOIN task.lot l ON l.lot_id = w.lot_id
     WHERE l.is_open
     ORDER BY l.lot_id
       FOR UPDATE OF l
), picked AS MATERIALIZED (
    SELECT c.lot_id, h.job_id, c.begins + row_number() OVER (PARTITION BY c.lot_id ORDER BY h.job_id) AS place
      FROM chosen c
     CROSS JOIN LATERAL (
           SELECT job_id
             FROM task.job
            WHERE lot_id = c.lot_id AND state = 'activated' AND job_id >= c.low
            ORDER BY lot_id, job_id
            LIMIT c.take
           ) h
), placed AS MATERIALIZED (
    SELECT k.*, ($9::int[])[k.place] AS wish FROM picked k
), marked AS (
    UPDATE task.job j
       SET state = 'sent', state_at = now(), lease_until = now() + $10::float8 * interval '1 second',
           worker_id = ($4::text[])[k.wish], worker_user = ($5::text[])[k.wish], site = nullif(($6::text[])[k.wish], ''),
           node = nullif(($7::text[])[k.wish], ''), request_id = ($8::uuid[])[k.wish]
      FROM placed k
     WHERE j.job_id = ANY (ARRAY(SELECT job_id FROM picked)) AND k.job_id = j.job_id + 0 AND j.lot_id = k.lot_id
       AND j.state::text = 'activated'
       AND k.wish <> ALL (coalesce((SELECT array_agg(n) FROM again), '{}'))
    RETURNING k.wish, j.lot_id, j.job_id, j.task_id, j.state_at, j.kind, j.attempt, j.serial, j.revision, j.inputs, j.others, j.merges,
              j.debug, j.own
), drawn AS (
    SELECT lot_id, count(*) AS taken, max(job_id) AS top FROM marked GROUP BY 1
), moved AS (
    UPDATE task.lot l
       SET ready = greatest(l.ready - d.taken, 0),
           low = CASE WHEN s.freed = l.freed THEN greatest(l.low, d.top + 1) ELSE l.low END
      FROM drawn d JOIN seen s ON s.lot_id = d.lot_id
     WHERE l.lot_id = d.lot_id
)
SELECT c.lot_id, c.ready - coalesce(d.taken, 0) AS ready, (SELECT array_agg(n) FROM again) AS again,
       m.wish, m.job_id, m.task_id, m.state_at, m.kind::text AS kind, m.attempt, m.serial, m.revision, m.inputs, m.others, m.debug, m.own, b.build_job_id,
       (SELECT json_agg(json_build_array(i.input_no, i.stream_no, i.name, i.scope, i.size, i.checksum, i.place, i.urls, i.guid, i.events,
                                         i.first_event, d.name, i.state))
          FROM task.input i LEFT JOIN task.dataset d ON d.task_id = i.task_id AND d.dataset_no = i.dataset_no
         WHERE i.task_id = m.task_id AND i.input_no = ANY (m.inputs || m.others)) AS records,
       CASE WHEN m.kind = 'merge' OR b.build_job_id IS NOT NULL THEN
           (SELECT json_agg(json_build_array(o.name, o.stream, o.type, o.dataset, o.project, o.asset, o.version, o.size, o.checksum,
                                             o.events, o.state))
              FROM task.output o
             WHERE o.job_id = ANY (coalesce(m.merges, '{}') || b.build_job_id) AND o.state = 'ready'
               AND o.type = CASE WHEN o.job_id = b.build_job_id THEN 'lib' ELSE 'output' END) END AS sources
  FROM chosen c
  LEFT JOIN drawn d ON d.lot_id = c.lot_id
  LEFT JOIN marked m ON m.lot_id = c.lot_id
  LEFT JOIN task.task b ON b.task_id = m.task_id;

-- name: held_again
-- Which of these wishes (workers, users, requests) have jobs already. job_held by its whole key.
SELECT w.n
  FROM unnest($1::text[], $2::text[], $3::uuid[]) WITH ORDINALITY AS w (worker_id, worker_user, request_id, n)
 CROSS JOIN LATERAL (
       SELECT FROM task.job
        WHERE worker_id = w.worker_id AND request_id = w.request_id AND worker_user = w.worker_user
          AND state IN ('sent', 'starting', 'running')
        LIMIT 1
       ) h;

-- name: deliver_again
-- The jobs that a request got, handed out once more: `state_at` tells who has them from whom had them before, so that what the caller who
-- had gone gives back is not taken from this one. job_held.
UPDATE task.job
   SET state_at = CASE WHEN state::text = 'sent' THEN now() ELSE state_at END
 WHERE worker_id = $1 AND request_id = $2 AND worker_user = $3 AND state IN ('sent', 'starting', 'running')
RETURNING job_id;

-- name: recount_lot
-- Mend a lot whose count and jobs differ. job_ready.
WITH turn AS MATERIALIZED (SELECT lot_id FROM task.lot WHERE lot_id = $1 FOR UPDATE)
UPDATE task.lot l
   SET low = coalesce(c.low, 0), ready = c.ready, freed = l.freed + 1
  FROM turn, (SELECT min(job_id) AS low, count(*) AS ready FROM task.job WHERE lot_id = $1 AND state = 'activated') c
 WHERE l.lot_id = $1;

-- name: give_back
-- Jobs that have not begun are ready again, as if they had never been handed out: of a worker (job, attempt, worker, user), or ($5 not
-- null) as they were handed out then. Rows come back for what was accepted. lot and job by primary key.
WITH said AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::timestamptz[])
                  WITH ORDINALITY AS r (job_id, attempt, worker_id, worker_user, given_at, place)
), lots AS MATERIALIZED (
    SELECT l.lot_id
      FROM (SELECT DISTINCT lot_id FROM task.job WHERE job_id = ANY ($1)) n
      JOIN task.lot l ON l.lot_id = n.lot_id
     ORDER BY l.lot_id
       FOR UPDATE OF l
), gate AS MATERIALIZED (
    SELECT count(*) AS n FROM lots
), freed AS (
    UPDATE task.job j
       SET state = 'activated', state_at = now(), worker_id = NULL, worker_user = NULL, site = NULL, node = NULL, request_id = NULL,
           lease_until = NULL
      FROM gate CROSS JOIN said s
     WHERE j.job_id = ANY ($1) AND s.job_id = j.job_id + 0 AND j.attempt = s.attempt AND j.worker_id = s.worker_id AND j.worker_user = s.worker_user
       AND j.state::text IN ('sent', 'starting') AND (s.given_at IS NULL OR (j.state::text = 'sent' AND j.state_at = s.given_at))
    RETURNING s.place, j.job_id, j.lot_id, j.task_id
), counted AS (
    UPDATE task.lot l
       SET ready = l.ready + f.n, low = least(l.low, f.low), freed = l.freed + 1
      FROM (SELECT lot_id, count(*) AS n, min(job_id) AS low FROM freed GROUP BY 1) f
     WHERE l.lot_id = f.lot_id
)
SELECT place, job_id, lot_id, task_id FROM freed;

------------------------------------------------------------------------------------------------------------------------
-- Reports
------------------------------------------------------------------------------------------------------------------------

-- name: touch
-- What workers say of jobs that go on: $1-$7 job, attempt, worker, user, state or null, fields or null, node or null; $8-$10 seconds that a
-- job may be silent, may record its outputs, may have them travel. A job never goes backwards: its state stays, the rest is taken.
-- Rows come back for what was accepted. job by primary key.
WITH said AS MATERIALIZED (
    SELECT r.job_id, r.attempt, r.worker_id, r.worker_user, r.state::task.job_state AS state, r.fields::jsonb AS fields, r.node, r.place
      FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
           WITH ORDINALITY AS r (job_id, attempt, worker_id, worker_user, state, fields, node, place)
)
UPDATE task.job j
   SET state = greatest(j.state, s.state),
       state_at = CASE WHEN s.state > j.state THEN now() ELSE j.state_at END,
       started_at = CASE WHEN j.started_at IS NULL AND greatest(j.state, s.state) >= 'running' THEN now() ELSE j.started_at END,
       lease_until = CASE WHEN greatest(j.state, s.state) IN ('starting', 'running') THEN now() + $8::float8 * interval '1 second'
                          WHEN s.state > j.state AND s.state = 'holding' THEN now() + $9::float8 * interval '1 second'
                          WHEN s.state > j.state THEN now() + $10::float8 * interval '1 second'
                          ELSE j.lease_until END,
       node = coalesce(s.node, j.node),
       fields = CASE WHEN s.fields IS NULL THEN j.fields ELSE coalesce(j.fields, '{}') || s.fields END
  FROM said s
 WHERE j.job_id = ANY ($1) AND s.job_id = j.job_id + 0 AND j.attempt = s.attempt AND j.worker_id = s.worker_id AND j.worker_user = s.worker_user
   AND j.state::text IN ('sent', 'starting', 'running', 'holding', 'transferring')
RETURNING s.place, j.job_id, j.task_id, j.state::text AS state, j.killed_by IS NOT NULL AS kill, j.debug;

-- name: standing
-- How jobs stand, to explain a refused report. job by primary key.
SELECT job_id, task_id, state::text AS state, attempt, worker_id, worker_user, killed_by IS NOT NULL AS kill, debug,
       coalesce(fields ->> 'pilotErrorCode' = '1165', false) AS output_missing
  FROM task.job
 WHERE job_id = ANY ($1::bigint[]);

-- name: report
-- Ends of jobs that workers report (worker not null), and leases that ran out (worker null: the state it ran out in is in `expected`).
-- $1-$8 job, attempt, worker, user, final state, fields or null, metadata or null, expected state or null; $9-$19 what the jobs made: place
-- of the report, name, stream, type, dataset, registry project, asset and version, size, checksum, events.
-- Rows come back for what was accepted. A job that was told to stop and failed was cancelled. tally, job, task, input by primary key.
WITH said AS MATERIALIZED (
    SELECT r.job_id, r.attempt, r.worker_id, r.worker_user, r.state, r.fields::jsonb AS fields, r.metadata, r.expected, r.place
      FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
           WITH ORDINALITY AS r (job_id, attempt, worker_id, worker_user, state, fields, metadata, expected, place)
), tallies AS MATERIALIZED (
    SELECT t.task_id
      FROM (SELECT DISTINCT task_id FROM task.job WHERE job_id = ANY ($1)) n
      JOIN task.tally t ON t.task_id = n.task_id
     ORDER BY t.task_id
       FOR UPDATE OF t
), gate AS MATERIALIZED (
    SELECT count(*) AS n FROM tallies
), ended AS (
    UPDATE task.job j
       SET state = (CASE WHEN s.state = 'failed' AND j.killed_by IS NOT NULL THEN 'cancelled' ELSE s.state END)::task.job_state,
           state_at = now(), ended_at = now(), lease_until = NULL, started_at = coalesce(j.started_at, now()),
           fields = CASE WHEN s.fields IS NULL THEN j.fields ELSE coalesce(j.fields, '{}') || s.fields END
      FROM gate CROSS JOIN said s
     WHERE j.job_id = ANY ($1) AND s.job_id = j.job_id + 0
       AND CASE WHEN s.worker_id IS NULL THEN j.lease_until <= now() AND j.state::text = s.expected
                ELSE j.attempt = s.attempt AND j.worker_id = s.worker_id AND j.worker_user = s.worker_user
                 AND j.state::text IN ('sent', 'starting', 'running', 'holding', 'transferring') END
    RETURNING s.place, s.metadata, j.job_id, j.task_id, j.kind, j.serial, j.inputs, j.state, j.debug
), made AS (
    INSERT INTO task.output (job_id, name, task_id, stream, type, dataset, project, asset, version, size, checksum, events, state)
    SELECT e.job_id, o.name, e.task_id, o.stream, o.type, o.dataset, o.project, o.asset, o.version, o.size, o.checksum, o.events,
           CASE WHEN e.state = 'finished' OR o.type = 'log' THEN 'ready' ELSE 'failed' END
      FROM unnest($9::int[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::bigint[],
                  $18::text[], $19::bigint[])
           AS o (place, name, stream, type, dataset, project, asset, version, size, checksum, events)
      JOIN ended e ON e.place = o.place
    ON CONFLICT (job_id, name) DO NOTHING
), noted AS (
    INSERT INTO task.job_metadata (job_id, task_id, metadata)
    SELECT job_id, task_id, metadata FROM ended WHERE metadata IS NOT NULL AND task_id IS NOT NULL AND state = 'finished'
    ON CONFLICT (job_id) DO NOTHING
)

-- name: account
-- Goes on where `ended` of another statement stands: what the ends of jobs do to inputs and counts, and whether the engine is needed.
, moved AS (
    UPDATE task.input i
       SET failures = i.failures + (u.state = 'failed')::int,
           attempts = i.attempts - (u.state = 'closed')::int,
           state = (CASE WHEN u.state = 'finished' THEN 'finished'
                         WHEN i.attempts - (u.state = 'closed')::int < i.max_attempts
                              AND (i.max_failures IS NULL OR i.failures + (u.state = 'failed')::int < i.max_failures) THEN 'ready'
                         ELSE 'failed' END)::task.input_state
      FROM ended u
     WHERE i.task_id = ANY (ARRAY(SELECT DISTINCT task_id FROM ended)) AND i.input_no = ANY (ARRAY(SELECT DISTINCT unnest(inputs) FROM ended))
       AND u.kind = 'run' AND i.job_id = u.job_id AND u.task_id = i.task_id + 0 AND i.input_no + 0 = ANY (u.inputs)
       AND i.state::text = 'picked'
    RETURNING i.task_id, i.state
), changes AS MATERIALIZED (
    SELECT task_id, sum(n)::int AS n, sum(good)::int AS good, sum(bad)::int AS bad, sum(off)::int AS off,
           sum(scouts_good)::int AS scouts_good, sum(scouts_bad)::int AS scouts_bad, sum(scouts)::int AS scouts, bool_or(special) AS special,
           sum(put)::int AS put, sum(ready)::int AS ready, sum(done)::int AS done, sum(lost)::int AS lost
      FROM (SELECT e.task_id, 1 AS n, (e.state = 'finished')::int AS good, (e.state = 'failed')::int AS bad,
                   (e.state IN ('cancelled', 'closed'))::int AS off,
                   (e.state = 'finished' AND e.kind = 'run' AND e.serial <= k.scouts_until)::int AS scouts_good,
                   (e.state = 'failed' AND e.kind = 'run' AND e.serial <= k.scouts_until)::int AS scouts_bad,
                   (e.kind = 'run' AND e.serial <= k.scouts_until)::int AS scouts, e.kind <> 'run' AS special, 0 AS put, 0 AS ready, 0 AS done, 0 AS lost
              FROM ended e JOIN task.task k ON k.task_id = e.task_id
            UNION ALL
            SELECT task_id, 0, 0, 0, 0, 0, 0, 0, false, 1, (state = 'ready')::int, (state = 'finished')::int, (state = 'failed')::int
              FROM moved) c
     GROUP BY task_id
), counted AS (
    UPDATE task.tally t
       SET live = t.live - c.n, jobs_finished = t.jobs_finished + c.good, jobs_failed = t.jobs_failed + c.bad,
           jobs_cancelled = t.jobs_cancelled + c.off,
           scouts_finished = t.scouts_finished + c.scouts_good, scouts_failed = t.scouts_failed + c.scouts_bad,
           picked = t.picked - c.put, ready = t.ready + c.ready, finished = t.finished + c.done, failed = t.failed + c.lost,
           started_at = coalesce(t.started_at, now()), moved_at = now(),
           attend_at = CASE WHEN c.ready > 0 OR t.live <= c.n OR c.special OR c.scouts > 0 THEN now()
                            ELSE t.attend_at END
      FROM changes c
     WHERE t.task_id = c.task_id
    RETURNING t.task_id, t.attend_at IS NOT NULL AND t.attend_at = now() AS attend
)

-- name: reported
SELECT e.place, e.job_id, e.task_id, e.state::text AS state, e.debug, coalesce(c.attend, false) AS attend
  FROM ended e LEFT JOIN counted c ON c.task_id = e.task_id;

-- name: write_tails
-- The tails of outputs, of jobs whose reports were taken.
INSERT INTO task.job_tail (job_id, tail) SELECT * FROM unnest($1::bigint[], $2::text[])
ON CONFLICT (job_id) DO UPDATE SET tail = excluded.tail, at = now();

-- name: note_starts
-- The first jobs of tasks began. tally by primary key.
UPDATE task.tally t SET started_at = now()
 WHERE t.task_id IN (SELECT task_id FROM task.tally WHERE task_id = ANY ($1::bigint[]) AND started_at IS NULL ORDER BY task_id FOR UPDATE)
   AND t.started_at IS NULL;

------------------------------------------------------------------------------------------------------------------------
-- Killing
------------------------------------------------------------------------------------------------------------------------

-- name: whose_jobs
-- Jobs with their owners. job and lot by primary key.
SELECT j.job_id, j.state::text AS state, j.killed_by, j.debug, l.owner, l.label
  FROM task.job j JOIN task.lot l ON l.lot_id = j.lot_id
 WHERE j.job_id = ANY ($1::bigint[]);

-- name: withdraw
-- Kill jobs ($1), each once: `cancelled` or `closed` at once ($2), with these fields ($3), unless they run: then they get an order from
-- $4, if they have none yet. With $5, those alone that still stand as they were then; with $6 those
-- that run, too, end at once. tally, lot, job, input by primary key.
WITH said AS MATERIALIZED (
    SELECT r.job_id, r.state, r.fields::jsonb AS fields, r.killer, r.expected, r.force, r.place
      FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bool[])
           WITH ORDINALITY AS r (job_id, state, fields, killer, expected, force, place)
), tallies AS MATERIALIZED (
    SELECT t.task_id
      FROM (SELECT DISTINCT task_id FROM task.job WHERE job_id = ANY ($1)) n
      JOIN task.tally t ON t.task_id = n.task_id
     ORDER BY t.task_id
       FOR UPDATE OF t
), first_gate AS MATERIALIZED (
    SELECT count(*) AS n FROM tallies
), lots AS MATERIALIZED (
    SELECT l.lot_id
      FROM first_gate
     CROSS JOIN (SELECT DISTINCT lot_id FROM task.job WHERE job_id = ANY ($1)) n
      JOIN task.lot l ON l.lot_id = n.lot_id
     ORDER BY l.lot_id
       FOR UPDATE OF l
), gate AS MATERIALIZED (
    SELECT count(*) AS n FROM lots
), found AS MATERIALIZED (
    SELECT s.place, s.state AS becomes, s.fields, s.killer, j.job_id, j.state AS was, j.state::text = 'running' AND NOT s.force AS goes_on
      FROM gate CROSS JOIN said s JOIN task.job j ON j.job_id = ANY ($1) AND s.job_id = j.job_id + 0
     WHERE j.state::text NOT IN ('finished', 'failed', 'cancelled', 'closed') AND (s.expected IS NULL OR j.state::text = s.expected)
     ORDER BY j.job_id
       FOR UPDATE OF j
), ordered AS (
    UPDATE task.job j
       SET killed_by = f.killer, fields = coalesce(j.fields, '{}') || f.fields
      FROM found f
     WHERE j.job_id = ANY ($1) AND f.job_id = j.job_id + 0 AND f.goes_on AND j.killed_by IS NULL
    RETURNING f.place, j.job_id, j.task_id
), ended AS (
    UPDATE task.job j
       SET state = f.becomes::task.job_state, state_at = now(), ended_at = now(), lease_until = NULL, killed_by = NULL,
           started_at = CASE WHEN f.was = 'starting' THEN now() ELSE j.started_at END,
           fields = coalesce(j.fields, '{}') || f.fields
      FROM found f
     WHERE j.job_id = ANY ($1) AND f.job_id = j.job_id + 0 AND NOT f.goes_on
    RETURNING f.place, f.was, j.lot_id, j.job_id, j.task_id, j.kind, j.serial, j.inputs, j.state, j.worker_id
), emptied AS (
    UPDATE task.lot l SET ready = greatest(l.ready - e.n, 0)
      FROM (SELECT lot_id, count(*) AS n FROM ended WHERE was = 'activated' GROUP BY 1) e
     WHERE l.lot_id = e.lot_id
), unmade AS (
    UPDATE task.output o SET state = 'failed' WHERE o.job_id = ANY (ARRAY(SELECT job_id FROM ended))
)

-- name: withdrawn
SELECT e.place, e.job_id, e.task_id, e.worker_id IS NOT NULL AS told, coalesce(c.attend, false) AS attend
  FROM ended e LEFT JOIN counted c ON c.task_id = e.task_id
 UNION ALL
SELECT place, job_id, task_id, true, false FROM ordered;

-- name: orders
-- What the workers of jobs have to be told. job by primary key.
SELECT job_id, state::text AS state, worker_id, worker_user, killed_by IS NOT NULL AS kill, debug
  FROM task.job
 WHERE job_id = ANY ($1::bigint[]) AND worker_id IS NOT NULL;

-- name: orders_of_workers
-- Orders that workers have not obeyed yet. job_held.
SELECT j.job_id, j.state::text AS state, w.worker_id, w.worker_user, true AS kill, j.debug
  FROM unnest($1::text[], $2::text[]) AS w (worker_id, worker_user)
 CROSS JOIN LATERAL (
       SELECT job_id, state, debug FROM task.job
        WHERE worker_id = w.worker_id AND worker_user = w.worker_user AND state IN ('sent', 'starting', 'running')
          AND killed_by IS NOT NULL
       OFFSET 0
       ) j;

------------------------------------------------------------------------------------------------------------------------
-- Time
------------------------------------------------------------------------------------------------------------------------

-- name: due_leases
-- Leases that have run out. job_due.
SELECT job_id, state::text AS state, lease_until, state_at FROM task.job WHERE lease_until <= now() ORDER BY lease_until LIMIT 1000;

-- name: next_lease
-- Seconds until the next lease ends; null if none will. job_due.
SELECT extract(epoch FROM min(lease_until) - now())::float8 AS seconds FROM task.job WHERE lease_until IS NOT NULL;

-- name: running_too_long
-- Jobs that have run since before $1 and have no order. job_due, whole: as many rows as are in flight.
SELECT job_id FROM task.job
 WHERE lease_until IS NOT NULL AND state = 'running' AND started_at < $1 AND killed_by IS NULL LIMIT 1000;

-- name: waiting_too_long
-- Jobs that have been ready since before $1: of each lot those at its head. A scan of the lots, job_ready.
SELECT h.job_id
  FROM task.lot l
 CROSS JOIN LATERAL (
       SELECT job_id, state_at FROM task.job
        WHERE lot_id = l.lot_id AND state = 'activated' AND job_id >= l.low
        ORDER BY lot_id, job_id
        LIMIT 1000) h
 WHERE l.ready > 0 AND h.state_at < $1
 LIMIT 1000;

------------------------------------------------------------------------------------------------------------------------
-- Jobs as their owners see them
------------------------------------------------------------------------------------------------------------------------

-- name: jobs
-- Jobs with all that is needed to show them ($2: with what they made; $3: with the tails). Primary keys, output by its own.
SELECT j.job_id, j.task_id, j.state::text AS state, j.kind::text AS kind, j.attempt, j.serial, j.revision, j.inputs, j.others, j.merges, j.parent_id,
       j.definition_id, j.worker_id, j.site, j.node, j.killed_by, j.debug, j.created_at, j.state_at, j.started_at, j.ended_at,
       j.lease_until, j.fields, j.own, l.lot_id, l.owner, l.label, l.priority, l.cores, l.memory_mb, l.walltime,
       t.state = 'paused' AS held, t.name AS task_name, t.build_job_id,
       CASE WHEN j.task_id IS NOT NULL THEN
           (SELECT json_agg(json_build_array(i.input_no, i.stream_no, i.name, i.scope, i.size, i.checksum, i.place, i.urls, i.guid, i.events,
                                             i.first_event, d.name, i.state))
              FROM task.input i LEFT JOIN task.dataset d ON d.task_id = i.task_id AND d.dataset_no = i.dataset_no
             WHERE i.task_id = j.task_id AND i.input_no = ANY (j.inputs || j.others)) END AS records,
       CASE WHEN j.kind = 'merge' OR t.build_job_id IS NOT NULL THEN
           (SELECT json_agg(json_build_array(o.name, o.stream, o.type, o.dataset, o.project, o.asset, o.version, o.size, o.checksum,
                                             o.events, o.state))
              FROM task.output o
             WHERE o.job_id = ANY (coalesce(j.merges, '{}') || t.build_job_id) AND o.state IN ('ready', 'merged')
               AND o.type = CASE WHEN o.job_id = t.build_job_id THEN 'lib' ELSE 'output' END) END AS sources,
       CASE WHEN $2::bool THEN
           (SELECT json_agg(json_build_array(o.name, o.stream, o.type, o.dataset, o.project, o.asset, o.version, o.size, o.checksum,
                                             o.events, o.state))
              FROM task.output o WHERE o.job_id = j.job_id) END AS made,
       CASE WHEN $3::bool AND j.debug THEN (SELECT tail FROM task.job_tail y WHERE y.job_id = j.job_id) END AS tail
  FROM task.job j
  JOIN task.lot l ON l.lot_id = j.lot_id
  LEFT JOIN task.task t ON t.task_id = j.task_id
 WHERE j.job_id = ANY ($1::bigint[]);

-- name: ids_of_task
-- A page of a task's jobs after $2, in these states (null = any). job_by_task.
SELECT job_id FROM task.job
 WHERE task_id = $1 AND job_id > $2 AND ($3::text[] IS NULL OR state::text = ANY ($3))
 ORDER BY task_id, job_id LIMIT $4;

-- name: ids_of_owner
-- A page of an owner's jobs after $2, in these states (null = any). task_by_owner and job_by_task; lot_by_owner and job_by_lot.
SELECT job_id FROM (
    SELECT f.job_id
      FROM task.task t
     CROSS JOIN LATERAL (
           SELECT job_id FROM task.job
            WHERE task_id = t.task_id AND job_id > $2 AND ($3::text[] IS NULL OR state::text = ANY ($3))
            ORDER BY task_id, job_id LIMIT $4) f
     WHERE t.owner = $1
    UNION ALL
    SELECT f.job_id
      FROM task.lot l
     CROSS JOIN LATERAL (
           SELECT job_id FROM task.job
            WHERE lot_id = l.lot_id AND task_id IS NULL AND job_id > $2 AND ($3::text[] IS NULL OR state::text = ANY ($3))
            ORDER BY lot_id, job_id LIMIT $4) f
     WHERE l.owner = $1 AND l.task_id IS NULL) found
 ORDER BY job_id LIMIT $4;

-- name: set_debug
-- job by primary key.
UPDATE task.job SET debug = $2
 WHERE job_id = $1 AND debug <> $2 AND state::text IN ('defined', 'assigned', 'activated', 'sent', 'starting', 'running')
RETURNING job_id;

-- name: output_tail
-- job and job_tail by primary key.
SELECT j.state::text AS state, j.debug, y.tail, y.at
  FROM task.job j LEFT JOIN task.job_tail y ON y.job_id = j.job_id
 WHERE j.job_id = $1;

------------------------------------------------------------------------------------------------------------------------
-- Jobs without a task
------------------------------------------------------------------------------------------------------------------------

-- name: lock_submitter
-- One submission of a user at a time: they share lots.
SELECT pg_advisory_xact_lock(hashtextextended('task.submission ' || $1, 0));

-- name: submission
SELECT definition_id, job_ids FROM task.submission WHERE owner = $1 AND request_id = $2;

-- name: new_definition
SELECT nextval('task.definition_id');

-- name: find_lot
-- The lot of a user's jobs that ask for this. lot_by_owner.
SELECT lot_id FROM task.lot
 WHERE owner = $1 AND label = $2 AND task_id IS NULL AND priority = $3 AND sites = $4 AND not_sites = $5 AND cores = $6
   AND memory_mb = $7 AND disk_mb = $8 AND walltime = $9 AND platform = $10 AND is_open
 ORDER BY lot_id LIMIT 1;

-- name: insert_lot
INSERT INTO task.lot (owner, label, priority, sites, not_sites, cores, memory_mb, disk_mb, walltime, platform)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
RETURNING lot_id;

-- name: reserve_ids
SELECT array_agg(nextval(pg_get_serial_sequence('task.job', 'job_id'))) AS ids FROM generate_series(1, $1::int);

-- name: insert_jobs
INSERT INTO task.job (job_id, lot_id, definition_id, own)
SELECT s.job_id, s.lot_id, $1, s.own::jsonb FROM unnest($2::bigint[], $3::bigint[], $4::text[]) AS s (job_id, lot_id, own);

-- name: fill_lots
-- Jobs came to lots. With every lot's lock, in the order of their ids.
WITH n AS MATERIALIZED (
    SELECT j.lot_id, count(*) AS n, min(j.job_id) AS low
      FROM task.job j WHERE j.job_id = ANY ($1::bigint[]) GROUP BY 1
), turn AS MATERIALIZED (
    SELECT l.lot_id FROM n JOIN task.lot l ON l.lot_id = n.lot_id ORDER BY l.lot_id FOR UPDATE OF l
)
UPDATE task.lot l SET ready = l.ready + n.n, low = least(l.low, n.low), freed = l.freed + 1
  FROM n JOIN turn USING (lot_id) WHERE l.lot_id = n.lot_id;

-- name: insert_submission
INSERT INTO task.submission (owner, request_id, definition_id, job_ids) VALUES ($1, $2, $3, $4);

------------------------------------------------------------------------------------------------------------------------
-- The farm
------------------------------------------------------------------------------------------------------------------------

-- name: record_offers
INSERT INTO task.offer (site, platform, software)
SELECT s.site, s.platform, ARRAY(SELECT json_array_elements_text(s.software::json))
  FROM unnest($1::text[], $2::text[], $3::text[]) AS s (site, platform, software)
 ORDER BY 1, 2, 3
ON CONFLICT (site, platform, software) DO UPDATE SET seen_at = now();

-- name: forget_offers
DELETE FROM task.offer WHERE seen_at < now() - interval '1 day';

-- name: offers
SELECT site, platform, software, seen_at FROM task.offer
 WHERE seen_at >= now() - interval '1 hour' AND ($1 = '' OR $1 = ANY (software))
 ORDER BY site, platform, software;

-- name: register_credential
INSERT INTO task.credential (owner, name, origin, repository, expires_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (owner, name) DO UPDATE SET origin = excluded.origin, repository = excluded.repository, expires_at = excluded.expires_at;

-- name: credential
SELECT name, origin, repository, expires_at FROM task.credential
 WHERE owner = $1 AND expires_at > now() ORDER BY expires_at DESC, name LIMIT 1;
