-- Statements of `documenting.py`. Each says by which indexes it goes.

-- name: turn
-- One writes the documents of a project at a time; whoever changes its rows does not wait for that.
SELECT pg_advisory_xact_lock($1);

-- name: try_turn
SELECT pg_try_advisory_xact_lock($1);

-- name: unwritten_project
-- By project_pkey. It cannot be deleted meanwhile: nothing is written into a folder that is gone.
SELECT name, owners, uploaders, global_write, baseline, growth_rate, quota_year, usage, revision, written
FROM registry.project WHERE project_id = $1 FOR KEY SHARE;

-- name: unwritten_assets
-- along asset_unwritten; nor can they be deleted
SELECT a.asset_id, a.name, a.owners, a.uploaders, a.revision, v.name AS latest
FROM registry.asset a LEFT JOIN registry.version v ON v.version_id = a.latest_id
WHERE a.project_id = $1 AND a.written < a.revision
ORDER BY a.project_id, a.asset_id LIMIT $2 FOR KEY SHARE OF a;

-- name: written
-- By project_pkey, asset_pkey, change_pkey. Parameters: project and its revision; assets and theirs; changes.
WITH changes AS (
    UPDATE registry.change SET written = true WHERE change_id = ANY ($5::bigint[])
), assets AS (
    UPDATE registry.asset a SET written = greatest(written, w.revision)
    FROM unnest($3::bigint[], $4::bigint[]) AS w (asset_id, revision) WHERE a.asset_id = w.asset_id
)
UPDATE registry.project p SET written = greatest(written, $2) FROM set_config('synchronous_commit', 'off', true) WHERE project_id = $1;

-- name: unwritten_projects
-- Along project_unwritten and asset_unwritten.
(SELECT project_id FROM registry.project WHERE written < revision ORDER BY project_id LIMIT $1)
UNION
(SELECT project_id FROM registry.asset WHERE written < revision ORDER BY project_id, asset_id LIMIT $1);

-- name: unwritten_versions
-- along version_unwritten
SELECT version_id FROM registry.version WHERE unwritten ORDER BY version_id LIMIT $1;

-- name: unwritten_version
-- By version_pkey. Against who changes it, and other writers; whoever reads it does not wait.
SELECT version_id, project_id, asset_id, name, upload_user, upload_start, upload_finish, on_probation
FROM registry.version WHERE version_id = $1 AND unwritten AND state = 'published' FOR NO KEY UPDATE;

-- name: folder
-- by asset_pkey, project_pkey
SELECT concat_ws('/', p.name, a.name) FROM registry.asset a JOIN registry.project p ON p.project_id = a.project_id WHERE a.asset_id = $1;

-- name: version_written
-- by version_pkey
UPDATE registry.version v SET unwritten = false FROM set_config('synchronous_commit', 'off', true) WHERE version_id = $1;

-- name: unwritten_changes
-- along change_unwritten
SELECT change_id, at, type, project, asset, version, latest
FROM registry.change WHERE NOT written ORDER BY change_id LIMIT $1 FOR UPDATE SKIP LOCKED;

-- name: unwritten_changes_of
-- Along change_unwritten: those of a project. Written so that change_project does not fit: that has all that ever happened.
SELECT change_id, at, type, project, asset, version, latest
FROM registry.change WHERE NOT written AND project || '' = $1 ORDER BY change_id LIMIT $2 FOR UPDATE SKIP LOCKED;

-- name: changes_written
-- by change_pkey
UPDATE registry.change c SET written = true FROM set_config('synchronous_commit', 'off', true) WHERE change_id = ANY ($1::bigint[]);
