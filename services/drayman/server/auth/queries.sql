-- Statements of the auth service. Each is looked up by its name; the index it needs is a primary key unless it says otherwise.

-- name: lock_changes
SELECT pg_advisory_xact_lock($1);

-- name: get_user
-- membership_by_user gives the roles
SELECT u.name, u.admin, u.disabled, u.full_name, u.email, u.created_at,
       ARRAY(SELECT m.role::text FROM auth.membership m WHERE m.username = u.name ORDER BY m.role) AS roles,
       ARRAY(SELECT i.kind || ' ' || i.name FROM auth.identity i WHERE i.username = u.name ORDER BY i.kind, i.name) AS identities
FROM auth.user u
WHERE u.name = $1;

-- name: get_users
SELECT u.name, u.admin, u.disabled, u.full_name, u.email, u.created_at,
       ARRAY(SELECT m.role::text FROM auth.membership m WHERE m.username = u.name ORDER BY m.role) AS roles,
       ARRAY(SELECT i.kind || ' ' || i.name FROM auth.identity i WHERE i.username = u.name ORDER BY i.kind, i.name) AS identities
FROM auth.user u
WHERE u.name = ANY ($1::text[]);

-- name: insert_identities
INSERT INTO auth.identity (username, kind, name)
SELECT $1, i.kind, i.name FROM unnest($2::text[], $3::text[]) AS i (kind, name)
ON CONFLICT DO NOTHING
RETURNING kind, name;

-- name: delete_identities
DELETE FROM auth.identity
WHERE username = $1 AND (kind, name) IN (SELECT i.kind, i.name FROM unnest($2::text[], $3::text[]) AS i (kind, name))
RETURNING kind, name;

-- name: list_users
SELECT u.name, u.admin, u.disabled, u.full_name, u.email, u.created_at,
       ARRAY(SELECT m.role::text FROM auth.membership m WHERE m.username = u.name ORDER BY m.role) AS roles,
       ARRAY(SELECT i.kind || ' ' || i.name FROM auth.identity i WHERE i.username = u.name ORDER BY i.kind, i.name) AS identities
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
INSERT INTO auth.user (name, admin, disabled, full_name, email)
VALUES ($1, $2, $3, $4, $5)
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

-- name: stored_secrets
SELECT algorithm, ha1 FROM auth.digest_secret WHERE username = $1 AND realm = $2;

-- name: put_secrets
INSERT INTO auth.digest_secret (username, algorithm, realm, ha1)
SELECT $1, s.algorithm, s.realm, s.ha1
FROM unnest($2::text[], $3::text[], $4::text[]) AS s (algorithm, realm, ha1)
ON CONFLICT (username, algorithm, realm) DO UPDATE SET ha1 = excluded.ha1;

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
ON CONFLICT DO NOTHING
RETURNING role, username;

-- name: delete_members
DELETE FROM auth.membership WHERE role = $1 AND username = ANY ($2::text[]) RETURNING username;

-- name: use_nonce
INSERT INTO auth.used_nonce (nonce, expires_at)
VALUES ($1, $2)
ON CONFLICT DO NOTHING
RETURNING true;

-- name: sweep_nonces
-- By used_nonce_expiry. The margin: a replica whose clock is behind must not accept a nonce that was forgotten here.
DELETE FROM auth.used_nonce WHERE expires_at < now() - interval '10 minutes';

-- name: insert_nonce_key
INSERT INTO auth.nonce_key (secret, sealed_by) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: insert_key
-- The time of the statement, not of the transaction, which may have waited for its lock.
INSERT INTO auth.signing_key (key_id, private_key, public_key, signs_from, needed_until, sealed_by)
SELECT $1, $2, $3, start.at, start.at, $5
FROM (SELECT clock_timestamp() + $4::interval AS at) AS start;

-- name: lock_users
SELECT FROM auth.user WHERE name = ANY ($1::text[]) ORDER BY name FOR UPDATE;

-- name: raise_standing
-- Under the lock of changes: versions are given in the order of their commits.
INSERT INTO auth.standing (username, version, valid_from)
SELECT u, v, CASE WHEN $2 THEN v ELSE 0 END
FROM (SELECT u, nextval('auth.trust_version') AS v FROM unnest($1::text[]) AS u) AS raised
ON CONFLICT (username) DO UPDATE
SET version = excluded.version, valid_from = greatest(auth.standing.valid_from, excluded.valid_from), changed_at = now();

-- name: end_sessions
-- by session_by_user; a session that nobody has a token of any more leaves nothing behind
WITH ended AS (
    DELETE FROM auth.session
    WHERE username = $1 AND session_id IS DISTINCT FROM $2 AND ($3::text IS NULL OR method = $3)
    RETURNING session_id, username, token_until
), told AS (
    INSERT INTO auth.revoked_session (session_id, username, version, until)
    SELECT session_id, username, nextval('auth.trust_version'), token_until FROM ended WHERE token_until > now()
)
SELECT count(*) FROM ended;

-- name: end_session
WITH ended AS (
    DELETE FROM auth.session WHERE username = $1 AND session_id = $2
    RETURNING session_id, username, token_until
), told AS (
    INSERT INTO auth.revoked_session (session_id, username, version, until)
    SELECT session_id, username, nextval('auth.trust_version'), token_until FROM ended WHERE token_until > now()
)
SELECT count(*) = 1 FROM ended;

-- name: any_key
SELECT EXISTS (SELECT FROM auth.signing_key);
