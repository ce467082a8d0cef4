-- Every statement of dispatch. Each says which index it needs; none on the worker's path scans or sorts a project.
--
-- A plan made while the tables were empty must still be right when a million rows are there, so the hot statements leave the planner
-- one sensible way only: a table is joined on its whole key with columns of one materialized list, never restricted by
-- `project_id = $1` alone, which a misjudged project of "five rows" would make look like a fine thing to scan. Where a handle is found by
-- its key, the state is compared as text: that does not imply the predicate of a partial index, which looks free to walk from end to
-- end when it was last analysed empty.

------------------------------------------------------------------------------------------------------------------------
-- The worker's path
------------------------------------------------------------------------------------------------------------------------

-- name: draw
-- Reserve for many wishes at once: $2-$5 groups to draw from, how many of each, and where in $6-$9 (worker, request, site and RSE of each
-- wish) the group's wishes begin. One row per group at least, with what is left in it. $9 is empty where no
-- RSE has a limit. $10 are the RSEs that the caller knows to have one: if there is another, nothing is reserved, and no row comes back.
-- handle_ready from each group's lower bound; tally, handle, file, ready_group and rse_load by primary key.
-- The bound stays where it is if something came back to the group after this statement's snapshot was taken.
WITH capped AS MATERIALIZED ( -- where there is no limit this finds nothing, locks nothing and counts nothing
    SELECT project_id, max_running - running AS room
      FROM dispatch.tally
     WHERE project_id = $1 AND max_running IS NOT NULL
       FOR UPDATE
), space AS MATERIALIZED (
    SELECT max(room) AS room FROM capped
), open AS MATERIALIZED ( -- after the tally, as everybody
    SELECT p.project_id, p.worker_timeout, s.room
      FROM space s
      JOIN dispatch.project p ON p.project_id = $1 AND p.state = 'active'
     WHERE NOT EXISTS (SELECT FROM dispatch.rse_load WHERE rse_id <> ALL ($10::int[])) -- a table as long as there are limits
       FOR SHARE OF p
), seen AS MATERIALIZED (
    SELECT attempts, location_id, freed FROM dispatch.ready_group WHERE project_id = $1
), chosen AS MATERIALIZED (
    SELECT g.project_id, g.attempts, g.location_id, g.low, g.ready, g.freed, w.take, w.begins, open.worker_timeout, open.room
      FROM open
      JOIN unnest($2::int[], $3::int[], $4::int[], $5::int[]) AS w (attempts, location_id, take, begins) ON true
      JOIN dispatch.ready_group g
        ON g.project_id = $1 AND g.attempts = w.attempts AND g.location_id = w.location_id
     ORDER BY g.attempts, g.location_id
       FOR UPDATE OF g
), picked AS MATERIALIZED (
    SELECT c.project_id, c.attempts, c.location_id, c.worker_timeout, c.room, h.handle_id,
           c.begins + row_number() OVER (PARTITION BY c.attempts, c.location_id ORDER BY h.handle_id) AS place
      FROM chosen c
     CROSS JOIN LATERAL (
           SELECT handle_id
             FROM dispatch.handle
            WHERE project_id = c.project_id AND state = 'initial'
              AND attempts = c.attempts AND location_id = c.location_id AND handle_id >= c.low
            ORDER BY project_id, attempts, location_id, handle_id
            LIMIT c.take
           ) h
), loads AS MATERIALIZED ( -- after the groups, in the order of ids: nobody who locks both waits for somebody who waits
    SELECT l.rse_id, e.max_running - l.running AS room
      FROM dispatch.rse_load l JOIN dispatch.rse e USING (rse_id)
     WHERE l.rse_id = ANY ($9::int[]) AND EXISTS (SELECT FROM chosen)
     ORDER BY l.rse_id
       FOR UPDATE OF l
), placed AS MATERIALIZED (
    SELECT k.*, ($9::int[])[k.place] AS rse_id, l.room AS rse_room, row_number() OVER (PARTITION BY l.rse_id ORDER BY k.place) AS turn
      FROM picked k LEFT JOIN loads l ON l.rse_id = ($9::int[])[k.place]
), marked AS (
    UPDATE dispatch.handle h
       SET state = 'reserved', attempts = h.attempts + 1, deliveries = 1, reserved_at = now(),
           lease_until = now() + k.worker_timeout * interval '1 second',
           worker_id = ($6::text[])[k.place], request_id = ($7::uuid[])[k.place], site = ($8::text[])[k.place],
           rse_id = k.rse_id
      FROM placed k
     WHERE h.project_id = k.project_id AND h.handle_id = k.handle_id AND h.state::text = 'initial'
       AND h.attempts = k.attempts AND h.location_id = k.location_id
       AND (k.room IS NULL OR k.place <= k.room) AND (k.rse_room IS NULL OR k.turn <= k.rse_room)
    RETURNING h.project_id, h.handle_id, k.attempts, k.location_id, k.place, h.worker_id, h.site, h.rse_id, h.timeouts, h.reserved_at,
              h.lease_until
), drawn AS (
    SELECT attempts, location_id, count(*) AS taken, max(handle_id) AS top FROM marked GROUP BY 1, 2
), moved AS (
    UPDATE dispatch.ready_group g
       SET ready = g.ready - d.taken, active_at = now(),
           low = CASE WHEN s.freed = g.freed THEN greatest(g.low, d.top + 1) ELSE g.low END
      FROM drawn d
      JOIN seen s ON s.attempts = d.attempts AND s.location_id = d.location_id
     WHERE g.project_id = $1 AND g.attempts = d.attempts AND g.location_id = d.location_id
), counted AS (
    UPDATE dispatch.tally t SET running = t.running + (SELECT count(*) FROM marked)
      FROM capped c WHERE t.project_id = c.project_id
), loaded AS (
    UPDATE dispatch.rse_load l SET running = l.running + m.n
      FROM (SELECT rse_id, count(*) AS n FROM marked WHERE rse_id IS NOT NULL GROUP BY 1) m
     WHERE l.rse_id = m.rse_id
), logged AS (
    INSERT INTO dispatch.handle_log
           (project_id, event, old_state, state, low, high, handle_ids, attempts, worker_ids, sites)
    SELECT $1, 'reserve', 'initial', 'reserved', min(handle_id), max(handle_id),
           array_agg(handle_id), array_agg(attempts + 1), array_agg(worker_id), array_agg(site)
      FROM marked HAVING count(*) > 0
)
SELECT c.attempts, c.location_id, c.ready - coalesce(d.taken, 0) AS ready,
       m.place, m.handle_id, m.rse_id, m.timeouts, m.reserved_at, m.lease_until, f.namespace, f.name, f.attributes
  FROM chosen c
  LEFT JOIN drawn d ON d.attempts = c.attempts AND d.location_id = c.location_id
  LEFT JOIN marked m ON m.attempts = c.attempts AND m.location_id = c.location_id
  LEFT JOIN dispatch.file f ON f.project_id = m.project_id AND f.handle_id = m.handle_id;

-- name: settle
-- Apply what workers and the sweeper say of reserved handles: one array element a report. Rows come back for what was accepted;
-- what is missing was refused and is looked up by `standing`. An end of the project is noticed here, whatever ended its last handle.
-- tally, handle, ready_group, project by primary key.
WITH turn AS MATERIALIZED (
    SELECT project_id, max_attempts FROM dispatch.tally WHERE project_id = $1 FOR UPDATE
), said AS MATERIALIZED (
    SELECT turn.project_id, turn.max_attempts, r.*
      FROM turn
     CROSS JOIN unnest($2::bigint[], $3::int[], $4::int[], $5::text[], $6::text[], $7::uuid[], $8::text[], $9::text[])
           WITH ORDINALITY AS r (handle_id, attempt, delivery, worker_id, outcome, request_id, code, message, place)
), settled AS (
    UPDATE dispatch.handle h
       SET state = (CASE
                    WHEN s.outcome = 'done' THEN 'done'
                    WHEN s.outcome IN ('failed', 'timeout_final') THEN 'failed'
                    WHEN s.outcome IN ('retry', 'timeout_retry') AND h.attempts >= s.max_attempts THEN 'failed'
                    ELSE 'initial' END)::dispatch.handle_state,
           attempts = h.attempts - (s.outcome = 'released')::int,
           timeouts = h.timeouts + (s.outcome LIKE 'timeout%')::int,
           lease_until = NULL,
           request_id = s.request_id,
           code = CASE WHEN s.outcome IN ('retry', 'timeout_retry') AND h.attempts >= s.max_attempts THEN 'MAX_ATTEMPTS'
                       ELSE nullif(s.code, '') END,
           message = CASE WHEN s.outcome IN ('retry', 'timeout_retry') AND h.attempts >= s.max_attempts
                          THEN concat_ws(': ', 'attempt ' || h.attempts || ', at most ' || s.max_attempts, nullif(s.code, ''), nullif(s.message, ''))
                          ELSE nullif(s.message, '') END,
           reason_at = CASE WHEN s.outcome <> 'done' THEN now() END
      FROM said s
     WHERE h.project_id = s.project_id AND h.handle_id = s.handle_id
       AND h.state::text = 'reserved' AND h.worker_id = s.worker_id
       AND (s.attempt = 0 OR h.attempts = s.attempt)
       AND (s.delivery = 0 OR h.deliveries = s.delivery)
       AND (s.outcome NOT LIKE 'timeout%' OR h.lease_until <= now())
    RETURNING s.place, s.outcome, h.code, h.message, h.handle_id, h.state, h.attempts, h.location_id, h.worker_id, h.site, h.rse_id,
              h.timeouts, h.reserved_at
), summed AS (
    SELECT count(*) AS n, count(*) FILTER (WHERE state = 'done') AS done, count(*) FILTER (WHERE state = 'failed') AS failed
      FROM settled
), counted AS (
    UPDATE dispatch.tally t
       SET done = t.done + s.done, failed = t.failed + s.failed, active_at = now(),
           running = CASE WHEN t.max_running IS NULL THEN 0 ELSE t.running - s.n END
      FROM summed s
     WHERE t.project_id = $1 AND s.n > 0
    RETURNING t.files, t.done, t.failed, t.max_running IS NOT NULL AS capped,
              t.files > 0 AND NOT t.open AND t.done + t.failed = t.files AS over
), freed AS (
    INSERT INTO dispatch.ready_group AS g (project_id, attempts, location_id, ready, low, freed)
    SELECT $1, attempts, location_id, count(*), min(handle_id), 1
      FROM settled WHERE state = 'initial'
     GROUP BY attempts, location_id ORDER BY attempts, location_id
    ON CONFLICT (project_id, attempts, location_id)
    DO UPDATE SET ready = g.ready + excluded.ready, low = least(g.low, excluded.low), freed = g.freed + 1
    RETURNING 1
), left_rses AS MATERIALIZED (
    SELECT rse_id, count(*) AS n FROM settled WHERE rse_id IS NOT NULL GROUP BY 1
), loads AS MATERIALIZED ( -- after the groups, as `draw` does
    SELECT l.rse_id FROM dispatch.rse_load l
     WHERE l.rse_id IN (SELECT rse_id FROM left_rses) AND (SELECT count(*) FROM freed) >= 0
     ORDER BY l.rse_id
       FOR UPDATE
), unloaded AS (
    UPDATE dispatch.rse_load l SET running = greatest(l.running - r.n, 0)
      FROM loads JOIN left_rses r USING (rse_id) WHERE l.rse_id = loads.rse_id
), became AS (
    UPDATE dispatch.project p
       SET state = (CASE WHEN NOT c.over THEN 'active' WHEN c.failed > 0 THEN 'failed' ELSE 'done' END)::dispatch.project_state,
           ended_at = CASE WHEN c.over THEN now() END
      FROM counted c
     WHERE p.project_id = $1 AND ((c.over AND p.state IN ('active', 'abandoned')) OR p.state = 'abandoned')
    RETURNING p.state
), told AS (
    INSERT INTO dispatch.project_log (project_id, event, state)
    SELECT $1, CASE WHEN state = 'active' THEN 'activate' ELSE 'release' END, state FROM became
), logged AS (
    INSERT INTO dispatch.handle_log
           (project_id, event, old_state, state, low, high, handle_ids, attempts, worker_ids, sites, codes, messages)
    SELECT $1, event, 'reserved', state, min(handle_id), max(handle_id), array_agg(handle_id),
           array_agg(attempts + (event = 'released')::int), array_agg(worker_id), array_agg(site),
           CASE WHEN count(code) > 0 THEN array_agg(code) END, CASE WHEN count(message) > 0 THEN array_agg(message) END
      FROM (SELECT *, CASE WHEN outcome LIKE 'timeout%' THEN 'worker_timeout' WHEN outcome = 'retry' THEN 'failed' ELSE outcome END
                   AS event
              FROM settled) e
     GROUP BY event, state
)
SELECT s.place, s.handle_id, s.state::text AS state, s.attempts, s.location_id, s.timeouts, s.reserved_at,
       c.files, c.done, c.failed, c.capped, (SELECT count(*) FROM loads) > 0 AS room_at_rse, b.state::text AS became
  FROM settled s CROSS JOIN counted c LEFT JOIN became b ON true;

-- name: standing
-- How handles stand, to explain a refused report. handle by primary key.
SELECT handle_id, state::text AS state, attempts, worker_id, request_id, location_id, timeouts, reserved_at
  FROM dispatch.handle
 WHERE project_id = $1 AND handle_id = ANY ($2::bigint[]);

-- name: redeliver
-- The lease that a request got before, handed out once more. handle_reserved.
WITH again AS (
    UPDATE dispatch.handle
       SET deliveries = deliveries + 1
     WHERE project_id = $1 AND worker_id = $2 AND state = 'reserved' AND request_id = $3
    RETURNING handle_id, attempts, deliveries, timeouts, reserved_at, lease_until, location_id, rse_id
)
SELECT a.*, f.namespace, f.name, f.attributes
  FROM again a JOIN dispatch.file f ON f.project_id = $1 AND f.handle_id = a.handle_id
 ORDER BY a.handle_id;

-- name: oldest_lease
-- Who holds a file of a project longest. handle_reserved: as many rows as files are in flight.
SELECT reserved_at, worker_id FROM dispatch.handle WHERE project_id = $1 AND state = 'reserved' ORDER BY reserved_at LIMIT 1;

-- name: held
-- What a worker's session holds. handle_reserved.
SELECT handle_id, attempts, reserved_at, lease_until
  FROM dispatch.handle
 WHERE project_id = $1 AND worker_id = $2 AND state = 'reserved' AND request_id = $3;

-- name: renew
-- Extend the leases that are still held. handle by primary key.
WITH held AS MATERIALIZED (
    SELECT p.project_id, p.worker_timeout, l.handle_id, l.attempt
      FROM dispatch.project p, unnest($3::bigint[], $4::int[]) AS l (handle_id, attempt)
     WHERE p.project_id = $1
)
UPDATE dispatch.handle h
   SET lease_until = now() + l.worker_timeout * interval '1 second'
  FROM held l
 WHERE h.project_id = l.project_id AND h.handle_id = l.handle_id
   AND h.state::text = 'reserved' AND h.worker_id = $2 AND h.attempts = l.attempt
RETURNING h.handle_id, h.attempts, h.lease_until;

-- name: find_handles
-- Handle ids of DIDs. file_by_did.
WITH named AS MATERIALIZED (
    SELECT $1::bigint AS project_id, d.* FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS d (namespace, name, place)
)
SELECT d.place, f.handle_id
  FROM named d
  JOIN dispatch.file f
    ON f.namespace = d.namespace COLLATE "C" AND f.name = d.name COLLATE "C" AND f.project_id = d.project_id;

-- name: readable_replicas
-- Available replicas of handles at RSEs that are enabled and up. file by primary key, replica by primary key, never by RSE.
WITH wanted AS MATERIALIZED (SELECT $1::bigint AS project_id, h.handle_id FROM unnest($2::bigint[]) AS h (handle_id))
SELECT f.handle_id, e.rse_id, e.name AS rse, r.path, r.urls
  FROM wanted w
  JOIN dispatch.file f ON f.project_id = w.project_id AND f.handle_id = w.handle_id
  JOIN dispatch.replica r ON r.namespace = f.namespace AND r.name = f.name
  JOIN dispatch.rse e ON e.rse_id = r.rse_id + 0
 WHERE r.available AND e.is_enabled AND e.is_available;

-- name: standings
-- What the reserver keeps in memory of a project: rules, counts. Primary keys.
SELECT p.project_id, p.owner, p.state::text AS state, p.attributes, p.virtual, p.retry_on_timeout, p.worker_timeout,
       p.users, p.roles, p.reason_code, p.reason_message, p.reason_username, p.reason_at,
       t.files, t.done, t.failed, t.open, t.max_attempts, t.max_running
  FROM dispatch.project p JOIN dispatch.tally t USING (project_id)
 WHERE p.project_id = $1;

-- name: groups
-- The ready groups of a project: a few dozen rows. ready_group by primary key.
SELECT attempts, location_id, ready, low FROM dispatch.ready_group WHERE project_id = $1 AND ready > 0;

-- name: recount_group
-- Mend a group whose count and handles differ. handle_ready.
WITH turn AS MATERIALIZED (
    SELECT project_id FROM dispatch.ready_group
     WHERE project_id = $1 AND attempts = $2 AND location_id = $3 FOR UPDATE
)
UPDATE dispatch.ready_group g
   SET low = coalesce(c.low, 0), ready = c.ready, freed = g.freed + 1
  FROM turn, (SELECT min(handle_id) AS low, count(*) AS ready FROM dispatch.handle
               WHERE project_id = $1 AND state = 'initial' AND attempts = $2 AND location_id = $3) c
 WHERE g.project_id = $1 AND g.attempts = $2 AND g.location_id = $3;

------------------------------------------------------------------------------------------------------------------------
-- Time
------------------------------------------------------------------------------------------------------------------------

-- name: due_leases
-- Leases that have run out. handle_due.
SELECT h.project_id, h.handle_id, h.attempts, h.worker_id, p.retry_on_timeout
  FROM dispatch.handle h JOIN dispatch.project p USING (project_id)
 WHERE h.lease_until <= now()
 ORDER BY h.lease_until
 LIMIT 5000;

-- name: next_lease
-- Seconds until the next lease ends; null if none will. handle_due.
SELECT extract(epoch FROM min(lease_until) - now())::float8 AS seconds FROM dispatch.handle WHERE lease_until IS NOT NULL;

-- name: idle_projects
-- Active projects in which nothing happened for their idle time-out. project_by_state, then primary keys.
SELECT p.project_id,
       extract(epoch FROM greatest(t.active_at, (SELECT max(g.active_at) FROM dispatch.ready_group g WHERE g.project_id = p.project_id))
               + p.idle_timeout * interval '1 second' - now())::float8 AS left_seconds
  FROM dispatch.project p JOIN dispatch.tally t USING (project_id)
 WHERE p.state = 'active' AND p.idle_timeout IS NOT NULL
 ORDER BY 2
 LIMIT 1000;

-- name: abandon
-- Abandon a project unless something happened meanwhile. The tally's lock keeps reports out, the project's and the groups' draws.
WITH turn AS MATERIALIZED (
    SELECT project_id, active_at FROM dispatch.tally WHERE project_id = $1 FOR UPDATE
), held AS MATERIALIZED (
    SELECT p.project_id FROM turn JOIN dispatch.project p USING (project_id) FOR NO KEY UPDATE OF p
), quiet AS MATERIALIZED (
    SELECT g.active_at
      FROM held JOIN dispatch.ready_group g ON g.project_id = held.project_id
     ORDER BY g.attempts, g.location_id
       FOR UPDATE OF g
), gone AS (
    UPDATE dispatch.project p
       SET state = 'abandoned'
     WHERE p.project_id = $1 AND p.state = 'active' AND p.idle_timeout IS NOT NULL
       AND (SELECT active_at FROM turn) + p.idle_timeout * interval '1 second' <= now()
       AND NOT EXISTS (SELECT FROM quiet WHERE active_at + p.idle_timeout * interval '1 second' > now())
    RETURNING p.state
)
INSERT INTO dispatch.project_log (project_id, event, state) SELECT $1, 'abandon', state FROM gone RETURNING state::text AS state;

------------------------------------------------------------------------------------------------------------------------
-- Projects
------------------------------------------------------------------------------------------------------------------------

-- name: insert_project
INSERT INTO dispatch.project
       (owner, attributes, facts, query, virtual, retry_on_timeout, worker_timeout, idle_timeout, users, roles, request_id)
VALUES ($1, $2, $3::jsonb, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT DO NOTHING
RETURNING project_id;

-- name: project_of_request
-- project_by_request
SELECT project_id FROM dispatch.project WHERE owner = $1 AND request_id = $2;

-- name: insert_handles
-- A handle for each file, where the file's replicas are now.
INSERT INTO dispatch.handle (project_id, handle_id, location_id, timeouts)
SELECT f.project_id, f.handle_id, coalesce(p.location_id, 1), 0
  FROM dispatch.file f LEFT JOIN dispatch.placement p USING (namespace, name)
 WHERE f.project_id = $1 AND f.handle_id > $2 AND f.handle_id <= $3;

-- name: insert_virtual_handles
INSERT INTO dispatch.handle (project_id, handle_id, location_id)
SELECT project_id, handle_id, 0 FROM dispatch.file WHERE project_id = $1 AND handle_id > $2 AND handle_id <= $3;

-- name: insert_tally
INSERT INTO dispatch.tally (project_id, files, last_handle, open, max_attempts, max_running) VALUES ($1, $2, $3, $4, $5, $6);

-- name: log_creation
-- One row for all handles that a project begins with, or that were added at once.
INSERT INTO dispatch.handle_log (project_id, event, state, low, high) VALUES ($1, 'create', 'initial', $2, $3);

-- name: stage_files
-- Files on their way into a project, until it is known which of them are new.
CREATE TEMPORARY TABLE staged (place bigint, namespace text COLLATE "C", name text COLLATE "C", attributes text) ON COMMIT DROP;

-- name: staged_twice
SELECT namespace, name FROM staged GROUP BY namespace, name HAVING count(*) > 1 LIMIT 1;

-- name: staged_again
-- A staged file that the project has already. file_by_did.
SELECT s.namespace, s.name FROM staged s JOIN dispatch.file f ON f.namespace = s.namespace AND f.name = s.name AND f.project_id = $1 LIMIT 1;

-- name: unstage_existing
DELETE FROM staged s USING dispatch.file f WHERE f.namespace = s.namespace AND f.name = s.name AND f.project_id = $1;

-- name: take_handle_ids
-- Give out $2 handle ids; returns the highest. On a connection of its own, so that nobody waits for the list.
UPDATE dispatch.tally SET last_handle = last_handle + $2 WHERE project_id = $1 RETURNING last_handle;

-- name: insert_staged
-- Numbered as listed, inserted by name: who adds the same files at the same time waits for the other, and neither for each other.
INSERT INTO dispatch.file (project_id, handle_id, namespace, name, attributes)
SELECT $1, $2 + row_number() OVER (ORDER BY place), namespace, name, attributes FROM staged ORDER BY namespace, name;

-- name: grow_groups
-- The handles from $2 to $3 are ready. Call with tally and groups locked.
INSERT INTO dispatch.ready_group AS g (project_id, attempts, location_id, ready, low, freed)
SELECT project_id, attempts, location_id, count(*), min(handle_id), 1
  FROM dispatch.handle
 WHERE project_id = $1 AND handle_id BETWEEN $2 AND $3
 GROUP BY 1, 2, 3
ON CONFLICT (project_id, attempts, location_id)
DO UPDATE SET ready = g.ready + excluded.ready, low = least(g.low, excluded.low), freed = g.freed + 1;

-- name: grow_tally
-- The clock, not now(): the transaction began with the stream, perhaps long ago.
UPDATE dispatch.tally SET files = files + $2, open = coalesce($3, open), active_at = clock_timestamp() WHERE project_id = $1;

-- name: close_list
-- A project whose list is closed ends if nothing is left to do.
UPDATE dispatch.project p
   SET state = (CASE WHEN t.failed > 0 THEN 'failed' ELSE 'done' END)::dispatch.project_state, ended_at = clock_timestamp()
  FROM dispatch.tally t
 WHERE p.project_id = $1 AND t.project_id = $1 AND p.state IN ('active', 'abandoned')
   AND NOT t.open AND t.files > 0 AND t.done + t.failed = t.files
RETURNING p.state::text AS state;

-- name: added_before
-- What an earlier call of the same request added. project_log_by_project.
SELECT (data ->> 'files')::bigint AS added, (data ->> 'skipped')::bigint AS skipped
  FROM dispatch.project_log
 WHERE project_id = $1 AND event = 'add' AND data @> jsonb_build_object('request_id', $2::text);

-- name: insert_groups
INSERT INTO dispatch.ready_group (project_id, attempts, location_id, ready, low)
SELECT project_id, attempts, location_id, count(*), min(handle_id)
  FROM dispatch.handle WHERE project_id = $1 AND state = 'initial'
 GROUP BY 1, 2, 3;

-- name: statistics_are_stale
-- Whether $1 new files change the tables so much that plans made for them as they were may be a cliff.
SELECT $1::bigint >= 1000 AND $1 > greatest(reltuples, 0) / 20 FROM pg_class WHERE oid = 'dispatch.handle'::regclass;

-- name: renew_statistics
-- In the transaction that makes the project: when its files are seen, plans made for smaller tables are void.
ANALYZE (SKIP_LOCKED) dispatch.handle, dispatch.file;

-- name: log_project
INSERT INTO dispatch.project_log (project_id, event, state, username, data) VALUES ($1, $2, $3::text::dispatch.project_state, $4, $5::jsonb);

-- name: placement_is_read
-- Between reading where files are and committing handles made from it, no placement may change.
SELECT pg_advisory_xact_lock_shared(hashtext('dispatch.placement'));

-- name: placement_is_written
SELECT pg_advisory_xact_lock(hashtext('dispatch.placement'));

-- name: copy_files
INSERT INTO dispatch.file (project_id, handle_id, namespace, name, attributes)
SELECT $2, handle_id, namespace, name, attributes FROM dispatch.file WHERE project_id = $1;

-- name: copy_timeouts
-- The count of time-outs belongs to the file's attributes, so a copy has it too.
UPDATE dispatch.handle h SET timeouts = o.timeouts
  FROM dispatch.handle o
 WHERE h.project_id = $2 AND o.project_id = $1 AND o.handle_id = h.handle_id AND o.timeouts > 0;

-- name: files_page
SELECT handle_id, namespace, name, attributes FROM dispatch.file
 WHERE project_id = $1 AND handle_id > $2 ORDER BY handle_id LIMIT $3;

-- name: projects
-- Projects with their counts; `projects_listed` or `projects_found` goes on from here.
-- project_by_owner, project_by_state, project_by_facts or the primary key, as the filters are.
SELECT p.project_id, p.owner, p.state::text AS state, p.attributes, p.query, p.virtual, p.worker_timeout, p.idle_timeout,
       p.users, p.roles, p.created_at, p.ended_at, p.reason_code, p.reason_message, p.reason_username, p.reason_at,
       t.files, t.done, t.failed, t.open, t.max_attempts, t.max_running,
       coalesce((SELECT sum(g.ready) FROM dispatch.ready_group g WHERE g.project_id = p.project_id), 0)::bigint AS initial
  FROM dispatch.project p JOIN dispatch.tally t USING (project_id);

-- name: projects_listed
-- Which of `projects`, and how many.
 WHERE p.project_id > $1
   AND ($2::bigint IS NULL OR p.project_id = $2)
   AND ($3::text IS NULL OR p.owner = $3)
   AND ($4::text IS NULL OR p.state = $4::dispatch.project_state)
   AND ($5::text IS NULL OR p.state <> $5::dispatch.project_state)
   AND ($6::jsonb IS NULL OR (p.facts @> $6 AND (SELECT bool_and(p.facts -> key = value) FROM jsonb_each($6))))
 ORDER BY p.project_id
 LIMIT $7;

-- name: projects_found
-- Which of `projects` are looked at by a search; its condition, with parameters from $4 on, follows.
 WHERE p.project_id > $1
   AND ($2::text IS NULL OR p.owner = $2)
   AND ($3::text IS NULL OR p.state = $3::dispatch.project_state);

-- name: read_expressions
-- Regular expressions, read whether or not a search gets to use them.
SELECT count(*) FILTER (WHERE '' ~ e) FROM unnest($1::text[]) AS r (e);

-- name: handles
-- Handles of a project in creation order. Primary keys.
SELECT h.handle_id, h.state::text AS state, h.worker_id, h.attempts, h.timeouts, h.reserved_at, h.lease_until,
       h.site, h.code, h.message, h.reason_at, f.namespace, f.name, f.attributes
  FROM dispatch.handle h JOIN dispatch.file f USING (project_id, handle_id)
 WHERE h.project_id = $1 AND h.handle_id > $2
   AND ($3::text IS NULL OR h.state = $3::dispatch.handle_state)
   AND ($4::text IS NULL OR h.state <> $4::dispatch.handle_state)
   AND ($6::text IS NULL OR h.code = $6)
 ORDER BY h.project_id, h.handle_id
 LIMIT $5;

-- name: reserved_handles
-- Handles reserved now. handle_reserved.
SELECT h.handle_id, h.state::text AS state, h.worker_id, h.attempts, h.timeouts, h.reserved_at, h.lease_until,
       h.site, h.code, h.message, h.reason_at, f.namespace, f.name, f.attributes
  FROM dispatch.handle h JOIN dispatch.file f USING (project_id, handle_id)
 WHERE h.project_id = $1 AND h.state = 'reserved' AND ($2::text IS NULL OR h.worker_id = $2);

-- name: handles_by_id
SELECT h.handle_id, h.state::text AS state, h.worker_id, h.attempts, h.timeouts, h.reserved_at, h.lease_until,
       h.site, h.code, h.message, h.reason_at, f.namespace, f.name, f.attributes
  FROM dispatch.handle h JOIN dispatch.file f USING (project_id, handle_id)
 WHERE h.project_id = $1 AND h.handle_id = ANY ($2::bigint[]);

-- name: replicas_of
-- All replicas of files, at RSEs up and down. replica by primary key.
SELECT r.namespace, r.name, e.name AS rse, r.path, r.urls, r.preference, r.available, e.is_available AS rse_available
  FROM unnest($1::text[], $2::text[]) AS d (namespace, name)
  JOIN dispatch.replica r ON r.namespace = d.namespace COLLATE "C" AND r.name = d.name COLLATE "C"
  JOIN dispatch.rse e ON e.rse_id = r.rse_id
 ORDER BY r.namespace, r.name, e.name;

-- name: lock_tally
SELECT project_id FROM dispatch.tally WHERE project_id = ANY ($1::bigint[]) ORDER BY project_id FOR UPDATE;

-- name: lock_groups
SELECT project_id FROM dispatch.ready_group WHERE project_id = ANY ($1::bigint[])
 ORDER BY project_id, attempts, location_id FOR UPDATE;

-- name: cancel
UPDATE dispatch.project
   SET state = 'cancelled', ended_at = now(), reason_code = nullif($2::text, ''), reason_message = nullif($3::text, ''),
       reason_username = $4::text, reason_at = now()
 WHERE project_id = $1 AND state <> 'cancelled'
RETURNING project_id;

-- name: activate
-- Active again; or over at once if every handle is. Returns the state if it changed.
UPDATE dispatch.project p
   SET state = (CASE WHEN t.files = 0 OR t.open OR t.done + t.failed < t.files THEN 'active'
                     WHEN t.failed > 0 THEN 'failed' ELSE 'done' END)::dispatch.project_state,
       ended_at = CASE WHEN t.files = 0 OR t.open OR t.done + t.failed < t.files THEN NULL ELSE now() END,
       reason_code = NULL, reason_message = NULL, reason_username = NULL, reason_at = NULL
  FROM dispatch.tally t
 WHERE p.project_id = $1 AND t.project_id = $1 AND p.state <> 'active'
RETURNING p.state::text AS state;

-- name: touch
UPDATE dispatch.tally SET active_at = now() WHERE project_id = $1;

-- name: restart
-- Back to initial: $2 states, or exactly the handles $3. Returns how many changed. Call with tally and groups locked.
WITH old AS MATERIALIZED (
    SELECT handle_id, state, attempts, location_id, worker_id, rse_id
      FROM dispatch.handle
     WHERE project_id = $1 AND state <> 'initial'
       AND CASE WHEN $3::bigint[] IS NULL THEN state::text = ANY ($2::text[]) ELSE handle_id = ANY ($3) END
       FOR UPDATE
), reset AS (
    UPDATE dispatch.handle h
       SET state = 'initial', lease_until = NULL, worker_id = NULL, request_id = NULL,
           site = NULL, code = NULL, message = NULL, reason_at = NULL
      FROM old WHERE h.project_id = $1 AND h.handle_id = old.handle_id
), freed AS (
    INSERT INTO dispatch.ready_group AS g (project_id, attempts, location_id, ready, low, freed)
    SELECT $1, attempts, location_id, count(*), min(handle_id), 1 FROM old GROUP BY attempts, location_id
    ON CONFLICT (project_id, attempts, location_id)
    DO UPDATE SET ready = g.ready + excluded.ready, low = least(g.low, excluded.low), freed = g.freed + 1
), counted AS (
    UPDATE dispatch.tally t
       SET done = t.done - s.done, failed = t.failed - s.failed, active_at = now(),
           running = CASE WHEN t.max_running IS NULL THEN 0 ELSE t.running - s.reserved END
      FROM (SELECT count(*) FILTER (WHERE state = 'done') AS done, count(*) FILTER (WHERE state = 'failed') AS failed,
                   count(*) FILTER (WHERE state = 'reserved') AS reserved FROM old) s
     WHERE t.project_id = $1
), logged AS (
    -- the clock and not the transaction's beginning: whatever it waited for happened before
    INSERT INTO dispatch.handle_log (project_id, at, event, old_state, state, low, high, handle_ids, attempts, worker_ids)
    SELECT $1, clock_timestamp(), 'reset', state, 'initial', min(handle_id), max(handle_id), array_agg(handle_id), array_agg(attempts),
           CASE WHEN state = 'reserved' THEN array_agg(worker_id) END
      FROM (SELECT *, (handle_id - 1) / 1000 AS batch FROM old) o
     GROUP BY state, batch
)
SELECT count(*) AS restarted FROM old;

-- name: reopen
-- After a restart, or after files were added: a project that is not active and has, or waits for, something unfinished becomes active.
UPDATE dispatch.project p
   SET state = 'active', ended_at = NULL, reason_code = NULL, reason_message = NULL, reason_username = NULL, reason_at = NULL
  FROM dispatch.tally t
 WHERE p.project_id = $1 AND t.project_id = $1 AND p.state <> 'active' AND (t.open OR t.done + t.failed < t.files)
RETURNING p.state::text AS state;

-- name: leave_rses
-- Reservations of a project (of the handles $2; null = all) are about to end by something else than a report. Call with the tally locked.
WITH held AS MATERIALIZED (
    SELECT rse_id, count(*) AS n FROM dispatch.handle
     WHERE project_id = $1 AND state = 'reserved' AND rse_id IS NOT NULL AND ($2::bigint[] IS NULL OR handle_id = ANY ($2))
     GROUP BY rse_id
), loads AS MATERIALIZED ( -- in the order of ids, as everybody
    SELECT l.rse_id FROM dispatch.rse_load l WHERE l.rse_id IN (SELECT rse_id FROM held) ORDER BY l.rse_id FOR UPDATE
)
UPDATE dispatch.rse_load l SET running = greatest(l.running - h.n, 0)
  FROM loads JOIN held h USING (rse_id) WHERE l.rse_id = loads.rse_id;

-- name: touch_rses
-- The first lock of a transaction that will call `leave_rses`. A draw and a report have it from their beginning: whoever took it later,
-- with rows locked that those wait for, would be waited for by them and by `begin_count` in a circle.
LOCK TABLE dispatch.rse_load IN ROW EXCLUSIVE MODE;

-- name: lock_project
-- After the tally. Draws of the project are over, and none begins.
SELECT project_id FROM dispatch.project WHERE project_id = $1 FOR UPDATE;

-- name: delete_project
DELETE FROM dispatch.project WHERE project_id = $1 RETURNING project_id;

-- name: delete_files
DELETE FROM dispatch.file WHERE project_id = $1 AND handle_id <= $2 AND handle_id > $2 - 100000;

-- name: delete_handles
DELETE FROM dispatch.handle WHERE project_id = $1 AND handle_id <= $2 AND handle_id > $2 - 100000;

-- name: delete_history
DELETE FROM dispatch.handle_log WHERE project_id = $1 AND high <= $2 AND high > $2 - 100000;

-- name: remnants
-- Projects that are gone while files of theirs are left: a deletion that was interrupted. A walk over the primary key, project by project.
WITH RECURSIVE held AS (
    (SELECT project_id FROM dispatch.file ORDER BY project_id LIMIT 1)
    UNION ALL
    SELECT (SELECT f.project_id FROM dispatch.file f WHERE f.project_id > held.project_id ORDER BY f.project_id LIMIT 1)
      FROM held WHERE held.project_id IS NOT NULL
)
SELECT h.project_id, (SELECT max(handle_id) FROM dispatch.file f WHERE f.project_id = h.project_id) AS last
  FROM held h
 WHERE h.project_id IS NOT NULL AND NOT EXISTS (SELECT FROM dispatch.project p WHERE p.project_id = h.project_id);

------------------------------------------------------------------------------------------------------------------------
-- History
------------------------------------------------------------------------------------------------------------------------

-- name: delete_project_events
-- Projects' own history as it ends with that of their handles. A scan of it: a few rows a project, and once a week.
DELETE FROM dispatch.project_log WHERE at < $1;

-- name: project_exists
SELECT true FROM dispatch.project WHERE project_id = $1;

-- name: project_events
-- A page of a project's own history, after the row at $2, $3. project_log_by_project.
SELECT at, ctid AS place, event, state::text AS state, username, (data - 'request_id')::text AS data
  FROM dispatch.project_log
 WHERE project_id = $1 AND at >= $2 AND (at, ctid) > ($2, $3::tid)
 ORDER BY project_id, at, ctid
 LIMIT $4;

-- name: handle_batches
-- A page of the history of a project's handles, batch by batch, after the row at $2, $3: $4 batches at most, and as many of them as hold
-- $5 handles, but one. What is not wanted (event $6, reason code $7) comes without its arrays: there it only says how far the page went.
-- handle_log_by_time.
WITH page AS MATERIALIZED (
    SELECT at, ctid AS place, event, old_state, state, low, high, handle_ids, attempts, worker_ids, sites, codes, messages,
           ($6::text IS NULL OR event = $6) AND ($7::text IS NULL OR $7 = ANY (codes)) AS wanted
      FROM dispatch.handle_log
     WHERE project_id = $1 AND at >= $2 AND (at, ctid) > ($2, $3::tid)
     ORDER BY project_id, at, ctid
     LIMIT $4
), summed AS (
    SELECT *, sum(CASE WHEN wanted THEN coalesce(cardinality(handle_ids), 1) ELSE 0 END)
              OVER (ORDER BY at, place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
      FROM page
)
SELECT at, place, wanted, event, old_state::text AS old_state, state::text AS state, low, high,
       CASE WHEN wanted THEN handle_ids END AS handle_ids, CASE WHEN wanted THEN attempts END AS attempts,
       CASE WHEN wanted THEN worker_ids END AS worker_ids, CASE WHEN wanted THEN sites END AS sites,
       CASE WHEN wanted THEN codes END AS codes, CASE WHEN wanted THEN messages END AS messages
  FROM summed
 WHERE coalesce(before, 0) < $5::bigint
 ORDER BY at, place;

-- name: events_of_handle
-- A page of the history of handle $2 alone, after $3, $4. handle_log_by_handle, whose order is not that of time: what is there is found
-- first and sorted then.
WITH found AS MATERIALIZED (
    SELECT at, ctid AS place, event, old_state, state, attempts, worker_ids, sites, codes, messages,
           CASE WHEN handle_ids IS NULL THEN 1 ELSE array_position(handle_ids, $2::bigint) END AS n
      FROM dispatch.handle_log
     WHERE project_id = $1 AND high >= $2::bigint AND low <= $2::bigint AND (handle_ids IS NULL OR $2::bigint = ANY (handle_ids))
     ORDER BY project_id, high, low -- as that index has them: planned while the table was empty, the other one would look as good
)
SELECT at, place, event, old_state::text AS old_state, state::text AS state,
       attempts[n] AS attempt, worker_ids[n] AS worker_id, sites[n] AS site, codes[n] AS code, messages[n] AS message
  FROM found
 WHERE (at, place) > ($3, $4::tid) AND ($5::text IS NULL OR event = $5) AND ($6::text IS NULL OR codes[n] = $6)
 ORDER BY at, place
 LIMIT $7;

-- name: names_of_handles
-- DIDs of handles. file by primary key.
WITH wanted AS MATERIALIZED (SELECT $1::bigint AS project_id, h.handle_id FROM unnest($2::bigint[]) AS h (handle_id))
SELECT f.handle_id, f.namespace, f.name
  FROM wanted w JOIN dispatch.file f ON f.project_id = w.project_id AND f.handle_id = w.handle_id;

-- name: names_between
-- DIDs of the handles after $2 up to $3, a page of them. file by primary key.
SELECT handle_id, namespace, name FROM dispatch.file
 WHERE project_id = $1 AND handle_id > $2 AND handle_id <= $3
 ORDER BY project_id, handle_id LIMIT $4;

------------------------------------------------------------------------------------------------------------------------
-- Storage
------------------------------------------------------------------------------------------------------------------------

-- name: rses
SELECT * FROM dispatch.rse WHERE $1::text IS NULL OR name = $1 ORDER BY name;

-- name: insert_rse
INSERT INTO dispatch.rse (name, description, is_enabled, is_available, is_tape, pin_url, poll_url, remove_prefix, add_prefix,
                          pin_prefix, preference, type, max_running)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, nullif($13::int, 0))
ON CONFLICT (name) DO NOTHING RETURNING *;

-- name: update_rse
UPDATE dispatch.rse
   SET description = coalesce($2, description), is_enabled = coalesce($3, is_enabled), is_available = coalesce($4, is_available),
       is_tape = coalesce($5, is_tape), pin_url = coalesce($6, pin_url), poll_url = coalesce($7, poll_url),
       remove_prefix = coalesce($8, remove_prefix), add_prefix = coalesce($9, add_prefix), pin_prefix = coalesce($10, pin_prefix),
       preference = coalesce($11, preference), type = CASE WHEN $12::text IS NULL THEN type WHEN $12 IN ('native', 'wlcg') THEN $12 END,
       max_running = CASE WHEN $13::int IS NULL THEN max_running ELSE nullif($13, 0) END
 WHERE name = $1
RETURNING *;

-- name: delete_rse
-- Locations keep the id of an RSE that is gone: it counts for nothing there, and ids are never used twice.
WITH doomed AS (SELECT rse_id FROM dispatch.rse WHERE name = $1),
     counted AS (SELECT count(*) AS n FROM dispatch.replica r JOIN doomed USING (rse_id)),
     gone AS (DELETE FROM dispatch.rse e USING doomed d WHERE e.rse_id = d.rse_id RETURNING e.rse_id)
SELECT (SELECT n FROM counted) AS replicas FROM gone;

-- name: upsert_replicas
INSERT INTO dispatch.replica (namespace, name, rse_id, path, urls, preference, available)
SELECT u.namespace, u.name, e.rse_id, u.path, ARRAY(SELECT json_array_elements_text(u.urls::json)), u.preference, u.available
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::bool[])
       AS u (namespace, name, rse, path, urls, preference, available)
  JOIN dispatch.rse e ON e.name = u.rse
 ORDER BY 1, 2, 3
ON CONFLICT (namespace, name, rse_id)
DO UPDATE SET path = excluded.path, urls = excluded.urls, preference = excluded.preference, available = excluded.available;

-- name: delete_replicas
DELETE FROM dispatch.replica r
 USING unnest($1::text[], $2::text[], $3::text[]) AS d (namespace, name, rse), dispatch.rse e
 WHERE e.name = d.rse AND r.namespace = d.namespace COLLATE "C" AND r.name = d.name COLLATE "C" AND r.rse_id = e.rse_id;

-- name: intern_locations
-- Make sure that every set of RSEs that these files have now is known as a location.
INSERT INTO dispatch.location (rse_ids)
SELECT DISTINCT s.rse_ids
  FROM (SELECT array_agg(r.rse_id ORDER BY r.rse_id) AS rse_ids
          FROM unnest($1::text[], $2::text[]) AS d (namespace, name)
          JOIN dispatch.replica r ON r.namespace = d.namespace COLLATE "C" AND r.name = d.name COLLATE "C" AND r.available
         GROUP BY d.namespace, d.name) s
 WHERE NOT EXISTS (SELECT FROM dispatch.location l WHERE l.rse_ids = s.rse_ids)
ON CONFLICT (rse_ids) DO NOTHING;

-- name: place_files
-- Record where files are now: where they can be read, '{-2}' where they have replicas but none that can, '{}' where they have none.
-- Returns those that moved.
INSERT INTO dispatch.placement AS p (namespace, name, location_id)
SELECT s.namespace, s.name, l.location_id
  FROM (SELECT d.namespace, d.name,
               coalesce(array_agg(r.rse_id ORDER BY r.rse_id) FILTER (WHERE r.available),
                        CASE WHEN count(r.rse_id) > 0 THEN '{-2}' ELSE '{}' END::int[]) AS rse_ids
          FROM unnest($1::text[], $2::text[]) AS d (namespace, name)
          LEFT JOIN dispatch.replica r ON r.namespace = d.namespace COLLATE "C" AND r.name = d.name COLLATE "C"
         GROUP BY d.namespace, d.name) s
  JOIN dispatch.location l ON l.rse_ids = s.rse_ids
 ORDER BY 1, 2
ON CONFLICT (namespace, name) DO UPDATE SET location_id = excluded.location_id WHERE p.location_id <> excluded.location_id
RETURNING namespace, name, location_id;

-- name: projects_holding
-- Projects with any of these files. file_by_did.
SELECT DISTINCT f.project_id
  FROM unnest($1::text[], $2::text[]) AS d (namespace, name)
  JOIN dispatch.file f ON f.namespace = d.namespace COLLATE "C" AND f.name = d.name COLLATE "C"
  JOIN dispatch.project p ON p.project_id = f.project_id AND NOT p.virtual;

-- name: move_handles
-- Handles follow their files. Call with tally and groups of the projects locked.
WITH old AS MATERIALIZED (
    SELECT h.project_id, h.handle_id, h.state, h.attempts, h.location_id, d.location_id AS target
      FROM unnest($1::text[], $2::text[], $3::int[]) AS d (namespace, name, location_id)
      JOIN dispatch.file f ON f.namespace = d.namespace COLLATE "C" AND f.name = d.name COLLATE "C" AND f.project_id = ANY ($4::bigint[])
      JOIN dispatch.handle h ON h.project_id = f.project_id AND h.handle_id = f.handle_id
     WHERE h.location_id <> d.location_id
       FOR UPDATE OF h
), moved AS (
    UPDATE dispatch.handle h SET location_id = o.target
      FROM old o WHERE h.project_id = o.project_id AND h.handle_id = o.handle_id
), change AS (
    SELECT project_id, attempts, location_id, sum(n) AS n, min(low) AS low
      FROM (SELECT project_id, attempts, location_id, -1 AS n, NULL::bigint AS low FROM old WHERE state = 'initial'
            UNION ALL
            SELECT project_id, attempts, target, 1, handle_id FROM old WHERE state = 'initial') c
     GROUP BY 1, 2, 3
), grouped AS (
    INSERT INTO dispatch.ready_group AS g (project_id, attempts, location_id, ready, low, freed)
    SELECT project_id, attempts, location_id, greatest(n, 0), coalesce(low, 0), 1 FROM change
    ON CONFLICT (project_id, attempts, location_id)
    DO UPDATE SET ready = g.ready + (SELECT c.n FROM change c WHERE c.project_id = g.project_id AND c.attempts = g.attempts
                                                               AND c.location_id = g.location_id),
                  low = least(g.low, (SELECT c.low FROM change c WHERE c.project_id = g.project_id AND c.attempts = g.attempts
                                                                 AND c.location_id = g.location_id)),
                  freed = g.freed + 1
)
SELECT DISTINCT project_id FROM old;

-- name: proximities
SELECT cpu_site, rse, proximity FROM dispatch.proximity WHERE $1::text IS NULL OR cpu_site = $1 ORDER BY cpu_site, rse;

-- name: upsert_proximities
INSERT INTO dispatch.proximity (cpu_site, rse, proximity) SELECT * FROM unnest($1::text[], $2::text[], $3::int[])
ON CONFLICT (cpu_site, rse) DO UPDATE SET proximity = excluded.proximity;

-- name: delete_proximities
DELETE FROM dispatch.proximity p USING unnest($1::text[], $2::text[]) AS d (cpu_site, rse)
 WHERE p.cpu_site = d.cpu_site AND p.rse = d.rse;

-- name: map_of_storage
-- What the reserver keeps in memory of the storage: RSEs that count.
SELECT rse_id, name, is_enabled, is_enabled AND is_available AS usable, max_running FROM dispatch.rse;

-- name: full_rses
-- RSEs at which as many files are reserved as may be.
SELECT l.rse_id FROM dispatch.rse_load l JOIN dispatch.rse e USING (rse_id) WHERE l.running >= e.max_running;

-- name: begin_count
-- Every draw and every report holds a lock on this table, whether it finds something there or not, before it looks at anything. Having
-- this one means that all that began earlier are over; those that come now wait, and will see what this transaction did.
LOCK TABLE dispatch.rse_load IN SHARE ROW EXCLUSIVE MODE;

-- name: count_load
-- Count what is reserved at an RSE with a limit. Call after `begin_count`. What a deleted project left behind does not count.
-- handle_reserved, whole: as many rows as are in flight.
INSERT INTO dispatch.rse_load (rse_id, running)
SELECT $1, count(*)
  FROM dispatch.handle h
 WHERE h.state = 'reserved' AND h.rse_id = $1 AND EXISTS (SELECT FROM dispatch.project p WHERE p.project_id = h.project_id)
ON CONFLICT (rse_id) DO UPDATE SET running = excluded.running;

-- name: end_count
-- An RSE has no limit any more.
DELETE FROM dispatch.rse_load WHERE rse_id = $1;

-- name: locations
SELECT location_id, rse_ids FROM dispatch.location;
