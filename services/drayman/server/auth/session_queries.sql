-- Statements about sessions and about what services are told. The index is a primary key unless it says otherwise.

-- name: lock_user
-- Whoever revokes tokens locks the user FOR UPDATE: a login ends before it, or begins after it.
SELECT FROM auth.user WHERE name = $1 FOR KEY SHARE;

-- name: subject
-- membership_by_user gives the roles
SELECT u.name, u.admin, u.disabled, coalesce(s.version, 0) AS version,
       ARRAY(SELECT m.role::text FROM auth.membership m WHERE m.username = u.name ORDER BY m.role) AS roles
FROM auth.user u LEFT JOIN auth.standing s ON s.username = u.name
WHERE u.name = $1;

-- name: has_secret
SELECT EXISTS (SELECT FROM auth.digest_secret WHERE username = $1 AND algorithm = $2 AND realm = $3 AND ha1 = $4);

-- name: insert_session
INSERT INTO auth.session (session_id, username, method, peer, client, expires_at, ends_at, token_until, refresh_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: lock_user_of_session
-- Before the session itself: whoever ends sessions locks in this order.
SELECT FROM auth.user WHERE name = (SELECT username FROM auth.session WHERE session_id = $1) FOR KEY SHARE;

-- name: lock_session
SELECT username, method, expires_at, ends_at, refresh_hash, previous_hash, previous_request, rotated_at
FROM auth.session
WHERE session_id = $1 AND expires_at > now()
FOR UPDATE;

-- name: refresh_session
UPDATE auth.session
SET refreshed_at = now(), expires_at = $2, token_until = greatest(token_until, $3)
WHERE session_id = $1;

-- name: rotate_refresh_token
UPDATE auth.session
SET generation = generation + 1, previous_hash = refresh_hash, previous_request = $2, refresh_hash = $3, rotated_at = now()
WHERE session_id = $1;

-- name: get_session
SELECT session_id, username, method, peer, client, created_at, refreshed_at, expires_at, ends_at
FROM auth.session
WHERE session_id = $1;

-- name: list_sessions
-- by session_by_user
SELECT session_id, username, method, peer, client, created_at, refreshed_at, expires_at, ends_at
FROM auth.session
WHERE username = $1 AND expires_at > now()
ORDER BY created_at DESC, session_id;

-- name: sweep_sessions
-- by session_expiry
DELETE FROM auth.session WHERE expires_at < now() - interval '1 hour';

-- name: sweep_revoked_sessions
-- by revoked_session_until. The margin: clocks differ.
DELETE FROM auth.revoked_session WHERE until < now() - interval '1 hour';

-- name: sweep_standings
-- No token lives longer than a year and a day: what is older is in all of them.
DELETE FROM auth.standing WHERE changed_at < now() - interval '370 days';

-- name: standings_since
-- By standing_version_key. A user who is gone may do nothing, and no token of theirs is valid.
SELECT s.username, s.version, s.valid_from, coalesce(u.admin, false) AS admin,
       ARRAY(SELECT m.role::text FROM auth.membership m WHERE m.username = s.username ORDER BY m.role) AS roles
FROM auth.standing s LEFT JOIN auth.user u ON u.name = s.username
WHERE s.version > $1
ORDER BY s.version;

-- name: revoked_since
-- by revoked_session_version_key
SELECT session_id, username, version, until
FROM auth.revoked_session
WHERE version > $1 AND until > now() - interval '1 minute'
ORDER BY version;

-- name: registered
SELECT name::text FROM auth.identity WHERE username = $1 AND kind = $2 ORDER BY name;

-- name: registered_users
-- by identity_by_name; two are enough to see that it is not one
SELECT username::text FROM auth.identity WHERE kind = $1 AND name = $2 ORDER BY username LIMIT 2;
