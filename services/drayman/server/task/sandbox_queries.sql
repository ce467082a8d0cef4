-- Sandboxes. All by primary key, sandbox_by_content or sandbox_by_use.

-- name: add
-- Take a name for bytes that are there; nothing comes back if it is taken.
INSERT INTO task.sandbox (name, key, owner, size, trailer) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO NOTHING
RETURNING name

-- name: replace
-- Put one in the place of another one. Comes back with the key of the bytes that are of no use any more.
UPDATE task.sandbox s
   SET key = $2, owner = $3, size = $4, trailer = $5, created_at = now(), used_at = now()
  FROM (SELECT name, key FROM task.sandbox WHERE name = $1 FOR UPDATE) AS old
 WHERE s.name = old.name
RETURNING old.key

-- name: used
UPDATE task.sandbox SET used_at = now() WHERE name = ANY ($1::text[]) AND used_at < now() - interval '1 minute'

-- name: one
SELECT name, key, owner, size, created_at FROM task.sandbox WHERE name = $1

-- name: same
-- The newest of the owner's with this content that is young enough to be used again.
SELECT name, key, created_at
  FROM task.sandbox
 WHERE owner = $1 AND size = $2 AND trailer = $3 AND created_at > now() - make_interval(secs => $4)
 ORDER BY created_at DESC
 LIMIT 1

-- name: unused
-- Some that nobody used for long, locked: another replica takes others.
SELECT name, key
  FROM task.sandbox
 WHERE used_at < now() - make_interval(secs => $1)
 ORDER BY used_at
 LIMIT $2
   FOR UPDATE SKIP LOCKED

-- name: keep
-- Those that a task names which is not over; $2 is how its parameters would write each.
UPDATE task.sandbox s
   SET used_at = now()
  FROM unnest($1::text[], $2::text[]) AS asked (name, written)
 WHERE s.name = asked.name
   AND EXISTS (
       SELECT FROM task.task t
        WHERE t.state IN ('registered', 'defined', 'ready', 'pending', 'scouting', 'running', 'paused', 'prepared', 'toretry', 'toincexec',
                          'finishing')
          AND strpos(t.parameters, asked.written) > 0
   )
RETURNING s.name

-- name: forget
DELETE FROM task.sandbox WHERE name = ANY ($1::text[])

-- name: known
SELECT key FROM task.sandbox WHERE key = ANY ($1::text[])
