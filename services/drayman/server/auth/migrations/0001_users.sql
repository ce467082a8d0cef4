-- Users, roles, what they log in with, and the keys that sign their sessions.
-- Names sort by code point ("C") everywhere, so that pages and sorted lists agree with what clients compute.

CREATE SCHEMA auth;

-- A name: 1 to 255 characters, none of them a colon, a slash or a control character.
CREATE DOMAIN auth.name AS text COLLATE "C"
    CHECK (char_length(VALUE) BETWEEN 1 AND 255)
    CHECK (VALUE !~ '[:/\u0001-\u001f\u007f-\u009f]');

CREATE TABLE auth.user (
    name       auth.name PRIMARY KEY,
    admin      boolean NOT NULL DEFAULT false,
    disabled   boolean NOT NULL DEFAULT false,
    full_name  text NOT NULL DEFAULT '' CHECK (char_length(full_name) <= 1000),
    email      text NOT NULL DEFAULT '' CHECK (char_length(email) <= 1000),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- for other_admins: whether somebody else can administer
CREATE INDEX user_active_admin ON auth.user (name) WHERE admin AND NOT disabled;

CREATE TABLE auth.role (
    name auth.name PRIMARY KEY
);

CREATE TABLE auth.membership (
    role     auth.name NOT NULL REFERENCES auth.role ON DELETE CASCADE,
    username auth.name NOT NULL REFERENCES auth.user ON DELETE CASCADE,
    PRIMARY KEY (role, username)
);

-- for the roles of one user
CREATE INDEX membership_by_user ON auth.membership (username, role);

-- HA1 of RFC 7616. The realm is part of the hash: a secret of another realm is never offered.
CREATE TABLE auth.digest_secret (
    username  auth.name NOT NULL REFERENCES auth.user ON DELETE CASCADE,
    algorithm text NOT NULL,
    realm     text NOT NULL CHECK (realm <> ''),
    ha1       text NOT NULL,
    PRIMARY KEY (username, algorithm, realm),
    CHECK (
        algorithm = 'SHA-256' AND ha1 ~ '^[0-9a-f]{64}$'
        OR algorithm = 'MD5' AND ha1 ~ '^[0-9a-f]{32}$'
    )
);

-- for md5_in_use
CREATE INDEX digest_secret_md5 ON auth.digest_secret (realm) WHERE algorithm = 'MD5';

-- Signs nonces; one for all replicas.
CREATE TABLE auth.nonce_key (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    secret    bytea NOT NULL CHECK (octet_length(secret) = 32)
);

-- Nonces that served a login and have not expired.
CREATE TABLE auth.used_nonce (
    nonce      bytea PRIMARY KEY CHECK (octet_length(nonce) = 16),
    expires_at timestamptz NOT NULL
);

-- for sweep_nonces
CREATE INDEX used_nonce_expiry ON auth.used_nonce (expires_at);

-- Ed25519 keys. What a key does follows from the clock of the database, the same for all replicas: every key here is published;
-- the youngest whose signs_from has come signs; older ones are retired, and removed when needed_until has passed.
-- private_key is opaque to the database; public_key stands apart so that publishing never reads it.
CREATE TABLE auth.signing_key (
    key_id       text PRIMARY KEY CHECK (key_id <> ''),
    private_key  bytea NOT NULL,
    public_key   bytea NOT NULL UNIQUE CHECK (octet_length(public_key) = 32),
    published_at timestamptz NOT NULL DEFAULT now(),
    signs_from   timestamptz NOT NULL CHECK (signs_from >= published_at),
    needed_until timestamptz NOT NULL CHECK (needed_until >= signs_from)
);
