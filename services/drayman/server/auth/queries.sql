-- Statements of the auth service. Each is looked up by its name; the index it needs is a primary key unless it says otherwise.

-- name: lock_changes
SELECT pg_advisory_xact_lock($1);

-- name: get_user
-- membership_by_user gives the roles
SELECT u.name, u.admin, u.disabled, u.full_name, u.email, u.created_at,
       ARRAY(SELECT m.role::text FROM auth.membership m WHERE m.username = u.name ORDER BY m.role) AS roles
FROM auth.user u
WHERE u.name = $1;

-- name: list_users
SELECT u.name, u.admin, u.disabled, u.full_name, u.email, u.created_at,
       ARRAY(SELECT m.role::text FROM auth.membership m WHERE m.username = u.name ORDER BY m.role) AS roles
FROM auth.user u
WHERE u.name > $1
ORDER BY u.name
LIMIT $2;

-- name: any_user
SELECT EXISTS (SELECT FROM auth.user);

-- name: other_admins
-- by user_active_admin
SELECT EXISTS (SELECT FROM auth.user WHERE admin AND NOT disabled AND name <> $1);

-- name: standing
SELECT admin, disabled FROM auth.user WHERE name = $1;

-- name: insert_user
INSERT INTO auth.user (name, admin, full_name, email)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
RETURNING name;

-- name: update_user
UPDATE auth.user
SET admin = coalesce($2, admin), disabled = coalesce($3, disabled),
    full_name = coalesce($4, full_name), email = coalesce($5, email)
WHERE name = $1;

-- name: delete_user
DELETE FROM auth.user WHERE name = $1;

-- name: insert_secrets
INSERT INTO auth.digest_secret (username, algorithm, realm, ha1)
SELECT $1, s.algorithm, s.realm, s.ha1
FROM unnest($2::text[], $3::text[], $4::text[]) AS s (algorithm, realm, ha1);

-- name: delete_secrets
DELETE FROM auth.digest_secret WHERE username = $1;

-- name: login_secret
SELECT s.ha1, u.disabled
FROM auth.digest_secret s JOIN auth.user u ON u.name = s.username
WHERE s.username = $1 AND s.algorithm = $2 AND s.realm = $3;

-- name: md5_in_use
-- by digest_secret_md5
SELECT EXISTS (SELECT FROM auth.digest_secret WHERE algorithm = 'MD5' AND realm = $1);

-- name: known_users
SELECT name::text FROM auth.user WHERE name = ANY ($1::text[]);

-- name: known_roles
SELECT name::text FROM auth.role WHERE name = ANY ($1::text[]);

-- name: insert_roles
INSERT INTO auth.role (name)
SELECT unnest($1::text[])
ON CONFLICT DO NOTHING
RETURNING name;

-- name: get_role
SELECT r.name, ARRAY(SELECT m.username::text FROM auth.membership m WHERE m.role = r.name ORDER BY m.username) AS members
FROM auth.role r
WHERE r.name = $1;

-- name: list_roles
SELECT r.name, ARRAY(SELECT m.username::text FROM auth.membership m WHERE m.role = r.name ORDER BY m.username) AS members
FROM auth.role r
ORDER BY r.name;

-- name: delete_role
DELETE FROM auth.role WHERE name = $1;

-- name: insert_memberships
-- every role with every user
INSERT INTO auth.membership (role, username)
SELECT r, u
FROM unnest($1::text[]) AS r, unnest($2::text[]) AS u
ON CONFLICT DO NOTHING;

-- name: delete_members
DELETE FROM auth.membership WHERE role = $1 AND username = ANY ($2::text[]);

-- name: use_nonce
INSERT INTO auth.used_nonce (nonce, expires_at)
VALUES ($1, $2)
ON CONFLICT DO NOTHING
RETURNING true;

-- name: sweep_nonces
-- By used_nonce_expiry. The margin: a replica whose clock is behind must not accept a nonce that was forgotten here.
DELETE FROM auth.used_nonce WHERE expires_at < now() - interval '10 minutes';

-- name: nonce_key
SELECT secret FROM auth.nonce_key;

-- name: insert_nonce_key
INSERT INTO auth.nonce_key (secret) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: published_keys
SELECT key_id, public_key FROM auth.signing_key ORDER BY signs_from DESC, key_id;

-- name: signing_key
SELECT key_id, private_key, needed_until
FROM auth.signing_key
WHERE signs_from <= now()
ORDER BY signs_from DESC, key_id
LIMIT 1;

-- name: insert_key
-- The time of the statement, not of the transaction, which may have waited for its lock.
INSERT INTO auth.signing_key (key_id, private_key, public_key, signs_from, needed_until)
SELECT $1, $2, $3, start.at, start.at
FROM (SELECT clock_timestamp() + $4::interval AS at) AS start;

-- name: need_key
UPDATE auth.signing_key SET needed_until = greatest(needed_until, $2) WHERE key_id = $1 RETURNING true;

-- name: sweep_keys
-- The key that signs stays, and the one that is about to. The margin: clocks differ.
DELETE FROM auth.signing_key
WHERE needed_until < now() - interval '1 hour'
  AND key_id <> (SELECT key_id FROM auth.signing_key WHERE signs_from <= now() ORDER BY signs_from DESC, key_id LIMIT 1)
RETURNING key_id;
