-- Statements about attempts of logins. Each walks the primary key unless it says otherwise. Rows of attempts are locked in the order of
-- their keys; whoever wants many at once takes only those that are free.

-- name: look
-- Locks the buckets; one that is missing is full. The time is taken after the wait for the lock.
INSERT INTO auth.attempt AS a (key, level, at)
SELECT b.key, b.burst, clock_timestamp()
FROM unnest($1::bytea[], $2::double precision[]) AS b (key, burst)
ORDER BY b.key
ON CONFLICT (key) DO UPDATE SET level = a.level
RETURNING a.key, a.level, a.at, a.told_at, clock_timestamp() AS now,
          (SELECT f.seen_at FROM auth.familiar_peer f WHERE f.username = $3 AND f.peer = $4) AS seen_at;

-- name: take
-- Of buckets that are locked.
UPDATE auth.attempt a
SET level = t.level, at = t.at
FROM unnest($1::bytea[], $2::double precision[], $3::timestamptz[]) AS t (key, level, at)
WHERE a.key = t.key;

-- name: tell
-- Of buckets that are locked.
UPDATE auth.attempt SET told_at = clock_timestamp() WHERE key = ANY ($1::bytea[]);

-- name: give_back
-- What does not fit into a bucket is lost when it is looked into. One that was swept is full anyway.
UPDATE auth.attempt a
SET level = a.level + given.tokens
FROM (SELECT key FROM auth.attempt WHERE key = ANY ($1::bytea[]) ORDER BY key FOR UPDATE) AS taken,
     unnest($1::bytea[], $2::float8[]) AS given (key, tokens)
WHERE a.key = taken.key AND given.key = taken.key;

-- name: remember
-- Once a day is enough. The lock: a user who is being removed is waited for, and is gone then.
INSERT INTO auth.familiar_peer AS f (username, peer)
SELECT u.name, $2
FROM auth.user u
WHERE u.name = $1
  AND NOT EXISTS (SELECT FROM auth.familiar_peer k WHERE k.username = $1 AND k.peer = $2 AND k.seen_at > now() - interval '1 day')
FOR KEY SHARE OF u
ON CONFLICT (username, peer) DO UPDATE SET seen_at = now();

-- name: sweep_attempts
-- by attempt_at
DELETE FROM auth.attempt
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM auth.attempt WHERE at < now() - $1::interval ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
));

-- name: mend_clocks
-- By attempt_at. Buckets that were used before the clock was set back, or by a server whose clock was ahead, would not fill until then.
UPDATE auth.attempt
SET at = now()
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM auth.attempt WHERE at > now() + interval '1 second' ORDER BY at DESC LIMIT $1 FOR UPDATE SKIP LOCKED
));

-- name: sweep_familiar_peers
-- by familiar_peer_seen
DELETE FROM auth.familiar_peer
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM auth.familiar_peer WHERE seen_at < now() - $1::interval ORDER BY seen_at LIMIT $2 FOR UPDATE SKIP LOCKED
));
