-- Sessions and their end, identities, secrets of users, the audit log, and what limits attempts.

-- Counts what services must hear of. Taken only under the lock of changes, so that versions appear in their order.
CREATE SEQUENCE auth.trust_version;

-- What a user may do changed after tokens were made. No reference: it outlives the user, whose name somebody may get again.
CREATE TABLE auth.standing (
    username   auth.name PRIMARY KEY,
    version    bigint NOT NULL UNIQUE,
    valid_from bigint NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CHECK (valid_from <= version)
);

-- A login and what follows from it. One that was ended is removed, and its tokens stand in revoked_session.
CREATE TABLE auth.session (
    session_id       uuid PRIMARY KEY,
    username         auth.name NOT NULL REFERENCES auth.user ON DELETE CASCADE,
    method           text NOT NULL CHECK (method IN ('digest', 'ldap', 'x509', 'token', 'issued')),
    peer             text NOT NULL,
    client           text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    refreshed_at     timestamptz NOT NULL DEFAULT now(),
    -- when it ends unless it is refreshed; no refresh moves it beyond ends_at
    expires_at       timestamptz NOT NULL,
    ends_at          timestamptz,
    -- when the last of its tokens expires
    token_until      timestamptz NOT NULL,
    -- the refresh token that serves next, and the one before with the request that used it; SHA-256 each
    generation       integer NOT NULL DEFAULT 0,
    refresh_hash     bytea CHECK (octet_length(refresh_hash) = 32),
    previous_hash    bytea CHECK (octet_length(previous_hash) = 32),
    previous_request uuid,
    rotated_at       timestamptz,
    CHECK (expires_at <= ends_at),
    CHECK ((method = 'issued') = (refresh_hash IS NULL))
);

-- for the sessions of a user, newest first
CREATE INDEX session_by_user ON auth.session (username, created_at DESC);
-- for sweep_sessions
CREATE INDEX session_expiry ON auth.session (expires_at);

CREATE TABLE auth.revoked_session (
    session_id uuid PRIMARY KEY,
    username   auth.name NOT NULL,
    version    bigint NOT NULL UNIQUE,
    until      timestamptz NOT NULL
);

-- for sweep_revoked_sessions
CREATE INDEX revoked_session_until ON auth.revoked_session (until);

-- What users log in with besides a password. One identity may stand for several users: a login names its user.
CREATE TABLE auth.identity (
    username auth.name NOT NULL REFERENCES auth.user ON DELETE CASCADE,
    kind     text NOT NULL CHECK (kind IN ('x509', 'ldap', 'token')),
    -- the DN in one spelling, or the issuer and the subject, which are parted by a blank
    name     text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 2000),
    PRIMARY KEY (username, kind, name)
);

-- for the users of an identity
CREATE INDEX identity_by_name ON auth.identity (kind, name);

-- Secrets of users, sealed: AES-256-GCM with the key `sealed_by` of the service's key file, bound to user and key.
CREATE TABLE auth.user_secret (
    username   auth.name NOT NULL REFERENCES auth.user ON DELETE CASCADE,
    key        text COLLATE "C" NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    sealed     bytea NOT NULL,
    sealed_by  text NOT NULL,
    length     integer NOT NULL CHECK (length BETWEEN 0 AND 1024000),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (username, key)
);

-- what is sealed cannot be compressed
ALTER TABLE auth.user_secret ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- for what older keys seal
CREATE INDEX user_secret_by_sealing_key ON auth.user_secret (sealed_by, username, key);

-- Keys of auth itself are sealed in the same way; NULL = still in the clear, from before.
ALTER TABLE auth.signing_key ADD COLUMN sealed_by text;
ALTER TABLE auth.nonce_key ADD COLUMN sealed_by text;
ALTER TABLE auth.nonce_key DROP CONSTRAINT nonce_key_secret_check;
ALTER TABLE auth.nonce_key ADD CHECK (sealed_by IS NOT NULL OR octet_length(secret) = 32);

-- What happened, for ever or until it is swept. Never holds a secret.
CREATE TABLE auth.audit_event (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    action   text NOT NULL,
    actor    text COLLATE "C" NOT NULL,
    subject  text COLLATE "C" NOT NULL,
    refused  boolean NOT NULL,
    reason   text NOT NULL,
    method   text NOT NULL,
    peer     text NOT NULL,
    client   text NOT NULL,
    detail   jsonb NOT NULL
);

CREATE INDEX audit_event_at ON auth.audit_event (at, event_id);
CREATE INDEX audit_event_actor ON auth.audit_event (actor, event_id);
CREATE INDEX audit_event_subject ON auth.audit_event (subject, event_id);
CREATE INDEX audit_event_action ON auth.audit_event (action, event_id);
CREATE INDEX audit_event_refused ON auth.audit_event (event_id) WHERE refused;

-- Token buckets of login attempts. Not logged: a crash of the database forgives.
CREATE UNLOGGED TABLE auth.attempt (
    -- SHA-256 of what is limited: a user, an address, a user at an address
    key     bytea PRIMARY KEY CHECK (octet_length(key) = 32),
    level   double precision NOT NULL,
    at      timestamptz NOT NULL,
    -- when the audit log was last told that it is empty
    told_at timestamptz
);

-- for sweep_attempts
CREATE INDEX attempt_at ON auth.attempt (at);

-- Addresses from which a user logged in: attempts of others elsewhere do not slow them there.
CREATE TABLE auth.familiar_peer (
    username auth.name NOT NULL REFERENCES auth.user ON DELETE CASCADE,
    peer     text NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (username, peer)
);

-- for sweep_familiar_peers
CREATE INDEX familiar_peer_seen ON auth.familiar_peer (seen_at);
