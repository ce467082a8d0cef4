-- Statements of users' secrets, and of what else is sealed.

-- name: lock_sealing
-- Held while something is sealed and stored; await_sealing waits for all who do.
SELECT pg_advisory_xact_lock_shared($1);

-- name: await_sealing
SELECT pg_advisory_xact_lock($1);

-- name: lock_user
-- One change of a user's secrets at a time; the limits hold until the commit.
SELECT true FROM auth.user WHERE name = $1 FOR NO KEY UPDATE;

-- name: usage
-- What a user has besides one key. The length of a value is known without reading it.
SELECT count(*) AS keys, coalesce(sum(octet_length(sealed) - $3::integer), 0)::bigint AS size
FROM auth.user_secret
WHERE username = $1 AND key <> $2;

-- name: set_secret
-- The time of the statement, not of the transaction, which may have waited for its lock.
INSERT INTO auth.user_secret (username, key, sealed, sealed_by, length, changed_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp())
ON CONFLICT (username, key) DO UPDATE
SET sealed = excluded.sealed, sealed_by = excluded.sealed_by, length = excluded.length, changed_at = excluded.changed_at;

-- name: delete_secret
DELETE FROM auth.user_secret WHERE username = $1 AND key = $2;

-- name: delete_secrets
DELETE FROM auth.user_secret WHERE username = $1;

-- name: list_keys
SELECT key, length, changed_at
FROM auth.user_secret
WHERE username = $1 AND key > $2 AND ($3::text[] IS NULL OR key = ANY ($3))
ORDER BY key
LIMIT $4;

-- name: list_secrets
SELECT key, length, changed_at, sealed, sealed_by
FROM auth.user_secret
WHERE username = $1 AND key > $2 AND ($3::text[] IS NULL OR key = ANY ($3))
ORDER BY key
LIMIT $4;

-- name: keys_in_use
-- by user_secret_by_sealing_key, from one id to the next
WITH RECURSIVE used AS (
    (SELECT sealed_by FROM auth.user_secret ORDER BY sealed_by LIMIT 1)
    UNION ALL
    SELECT (SELECT s.sealed_by FROM auth.user_secret s WHERE s.sealed_by > used.sealed_by ORDER BY s.sealed_by LIMIT 1)
    FROM used
    WHERE used.sealed_by IS NOT NULL
)
SELECT sealed_by FROM used WHERE sealed_by IS NOT NULL
UNION SELECT sealed_by FROM auth.signing_key WHERE sealed_by IS NOT NULL
UNION SELECT sealed_by FROM auth.nonce_key WHERE sealed_by IS NOT NULL;

-- name: secrets_to_reseal
-- By user_secret_by_sealing_key. Waits for nobody, since several rows are locked: what somebody else changes is looked at in the end.
SELECT username::text, key, sealed
FROM auth.user_secret
WHERE sealed_by = $1 AND (username, key) > ($2, $3)
ORDER BY username, key
LIMIT $4
FOR UPDATE SKIP LOCKED;

-- name: secret_to_reseal
-- by user_secret_by_sealing_key
SELECT username::text, key, sealed
FROM auth.user_secret
WHERE sealed_by = $1
ORDER BY username, key
LIMIT 1
FOR UPDATE;

-- name: reseal_secret
UPDATE auth.user_secret SET sealed = $3, sealed_by = $4 WHERE username = $1 AND key = $2;

-- name: signing_key_to_reseal
-- few rows
SELECT key_id, private_key, sealed_by
FROM auth.signing_key
WHERE sealed_by IS DISTINCT FROM $1
ORDER BY key_id
LIMIT 1
FOR UPDATE;

-- name: reseal_signing_key
UPDATE auth.signing_key SET private_key = $2, sealed_by = $3 WHERE key_id = $1;

-- name: nonce_key_to_reseal
SELECT secret, sealed_by FROM auth.nonce_key WHERE sealed_by IS DISTINCT FROM $1 FOR UPDATE;

-- name: reseal_nonce_key
UPDATE auth.nonce_key SET secret = $1, sealed_by = $2;
