-- Statements about the keys of auth itself. The index is a primary key.

-- name: nonce_key
SELECT secret, sealed_by FROM auth.nonce_key;

-- name: published_keys
SELECT key_id, public_key FROM auth.signing_key ORDER BY signs_from DESC, key_id;

-- name: signing_key
SELECT key_id, private_key, sealed_by, needed_until
FROM auth.signing_key
WHERE signs_from <= now()
ORDER BY signs_from DESC, key_id
LIMIT 1;

-- name: need_key
UPDATE auth.signing_key SET needed_until = greatest(needed_until, $2) WHERE key_id = $1 RETURNING true;

-- name: sweep_keys
-- The key that signs stays, and the one that is about to. The margin: clocks differ.
DELETE FROM auth.signing_key
WHERE needed_until < now() - interval '1 hour'
  AND key_id <> (SELECT key_id FROM auth.signing_key WHERE signs_from <= now() ORDER BY signs_from DESC, key_id LIMIT 1)
RETURNING key_id;

-- name: any_in_the_clear
SELECT EXISTS (SELECT FROM auth.signing_key WHERE sealed_by IS NULL)
    OR EXISTS (SELECT FROM auth.nonce_key WHERE sealed_by IS NULL);
