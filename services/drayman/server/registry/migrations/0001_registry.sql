-- Projects, assets, versions and their entries: the truth about governance, manifests and state. The JSON documents beside the content are
-- written from it, after the commit: what has still to be written is marked.
-- Names sort by code point ("C"), so that pages agree with what clients compute.

CREATE SCHEMA registry;

-- A name: 1 to 255 bytes, neither "." nor beginning with "..", without slash, backslash and control characters.
CREATE DOMAIN registry.name AS text COLLATE "C"
    CHECK (octet_length(VALUE) BETWEEN 1 AND 255)
    CHECK (VALUE <> '.' AND VALUE !~ '^\.\.')
    CHECK (VALUE !~ '[/\\\u0001-\u001f\u007f-\u009f]');

CREATE TABLE registry.project (
    project_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         registry.name NOT NULL UNIQUE,
    owners       text[] NOT NULL,
    -- a list of objects as in ..permissions
    uploaders    jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(uploaders) = 'array'),
    -- NULL = the document does not have the field
    global_write boolean,
    baseline     bigint NOT NULL CHECK (baseline >= 0),
    growth_rate  bigint NOT NULL CHECK (growth_rate >= 0),
    quota_year   integer NOT NULL,
    usage        bigint NOT NULL DEFAULT 0 CHECK (usage >= 0),
    -- the documents of a project and of its assets are written while it is locked; written < revision: they have to be
    revision     bigint NOT NULL DEFAULT 1,
    written      bigint NOT NULL DEFAULT 0
);

-- for what has still to be written
CREATE INDEX project_unwritten ON registry.project (project_id) WHERE written < revision;

CREATE TABLE registry.asset (
    asset_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES registry.project ON DELETE CASCADE,
    name       registry.name NOT NULL,
    -- NULL = it has no ..permissions of its own
    owners     text[],
    uploaders  jsonb CHECK (jsonb_typeof(uploaders) = 'array'),
    latest_id  bigint,
    revision   bigint NOT NULL DEFAULT 1,
    written    bigint NOT NULL DEFAULT 0,
    UNIQUE (project_id, name),
    CHECK ((owners IS NULL) = (uploaders IS NULL))
);

CREATE INDEX asset_unwritten ON registry.asset (project_id, asset_id) WHERE written < revision;

-- uploading: the name is taken, nothing is to be seen. publishing: every byte and every row is there, and the version is being put in its
-- place: whoever finds it so after a crash goes on. published: to be seen.
CREATE TABLE registry.version (
    version_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id    bigint NOT NULL REFERENCES registry.project ON DELETE CASCADE,
    asset_id      bigint NOT NULL REFERENCES registry.asset ON DELETE CASCADE,
    name          registry.name NOT NULL,
    state         text NOT NULL CHECK (state IN ('uploading', 'publishing', 'published')),
    on_probation  boolean NOT NULL,
    upload_user   text NOT NULL,
    upload_start  timestamptz NOT NULL,
    upload_finish timestamptz,
    -- bytes of entries that are no links; while uploading, what was announced: it counts towards the quota
    usage         bigint NOT NULL DEFAULT 0 CHECK (usage >= 0),
    entries       bigint NOT NULL DEFAULT 0 CHECK (entries >= 0),
    -- how it is uploaded: NULL once it is published
    upload_id     uuid UNIQUE,
    -- a process is at it until then
    busy_until    timestamptz,
    -- a broken upload can be resumed until then
    resumable_until timestamptz,
    -- its ..summary, ..manifest and ..links have to be written again
    unwritten     boolean NOT NULL DEFAULT false,
    UNIQUE (asset_id, name),
    CHECK ((state = 'published') = (upload_finish IS NOT NULL AND upload_id IS NULL))
);

ALTER TABLE registry.asset ADD FOREIGN KEY (latest_id) REFERENCES registry.version ON DELETE SET NULL;

-- for the references themselves: what is removed looks for who refers to it
CREATE INDEX asset_latest ON registry.asset (latest_id) WHERE latest_id IS NOT NULL;
CREATE INDEX version_project ON registry.version (project_id);

-- for the sum of what is being uploaded into a project
CREATE INDEX version_uploading ON registry.version (project_id) WHERE state <> 'published';
-- for what waits for approval, oldest first
CREATE INDEX version_on_probation ON registry.version (upload_finish, version_id) WHERE on_probation AND state = 'published';
-- for the latest of an asset
CREATE INDEX version_latest ON registry.version (asset_id, upload_finish DESC) WHERE NOT on_probation AND state = 'published';
CREATE INDEX version_unwritten ON registry.version (version_id) WHERE unwritten;

CREATE TABLE registry.entry (
    version_id      bigint NOT NULL REFERENCES registry.version ON DELETE CASCADE,
    path            text COLLATE "C" NOT NULL CHECK (octet_length(path) BETWEEN 1 AND 4096),
    size            bigint NOT NULL CHECK (size >= 0),
    -- NULL for empty directories
    md5             bytea CHECK (octet_length(md5) = 16),
    -- NULL also for files of an adopted registry that were not hashed again
    sha256          bytea CHECK (octet_length(sha256) = 32),
    -- the file that was linked to ...
    target_project  text COLLATE "C",
    target_asset    text COLLATE "C",
    target_version  text COLLATE "C",
    target_path     text COLLATE "C",
    -- ... and the one that holds the content, if that is a link itself
    ancestor_project text COLLATE "C",
    ancestor_asset   text COLLATE "C",
    ancestor_version text COLLATE "C",
    ancestor_path    text COLLATE "C",
    PRIMARY KEY (version_id, path),
    CHECK (num_nulls(target_project, target_asset, target_version, target_path) IN (0, 4)),
    CHECK (num_nulls(ancestor_project, ancestor_asset, ancestor_version, ancestor_path) IN (0, 4)),
    CHECK (ancestor_project IS NULL OR target_project IS NOT NULL)
);

-- for who links to a project, an asset or a version
CREATE INDEX entry_target ON registry.entry (target_project, target_asset, target_version) WHERE target_project IS NOT NULL;
CREATE INDEX entry_ancestor ON registry.entry (ancestor_project, ancestor_asset, ancestor_version)
    WHERE ancestor_project IS NOT NULL;
-- for content that an asset's latest version has already
CREATE INDEX entry_content ON registry.entry (version_id, md5, size) WHERE md5 IS NOT NULL;

-- Folders whose rows are gone and whose content has still to go. A name is not given out again before.
CREATE TABLE registry.removal (
    path         text COLLATE "C" PRIMARY KEY,
    requested_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE registry.change (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    type      text NOT NULL
        CHECK (type IN ('add-version', 'delete-version', 'delete-asset', 'delete-project', 'reindex-version')),
    project   text COLLATE "C" NOT NULL,
    asset     text COLLATE "C",
    version   text COLLATE "C",
    latest    boolean,
    -- whether it stands in ..logs
    written   boolean NOT NULL DEFAULT false
);

CREATE INDEX change_project ON registry.change (project, change_id);
CREATE INDEX change_at ON registry.change (at, change_id);
CREATE INDEX change_unwritten ON registry.change (change_id) WHERE NOT written;
