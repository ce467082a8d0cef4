-- Statements of `maintenance_store.py`. Each says by which indexes it goes.

-- name: links_in
-- By project_name_key, asset_project_id_name_key, version_asset_id_name_key, entry_pkey: links that lie in a project, an asset or a version.
SELECT p.name AS project, a.name AS asset, v.name AS version, e.path, e.size, e.target_project, e.target_asset, e.target_version, e.target_path,
       e.ancestor_project, e.ancestor_asset, e.ancestor_version, e.ancestor_path
FROM registry.project p
JOIN registry.asset a ON a.project_id = p.project_id
JOIN registry.version v ON v.asset_id = a.asset_id
JOIN registry.entry e ON e.version_id = v.version_id
WHERE p.name = $1 AND ($2 = '' OR a.name = $2) AND ($3 = '' OR v.name = $3) AND v.state <> 'uploading' AND e.target_project IS NOT NULL;

-- name: links_into
-- By entry_target and entry_ancestor, version_pkey, asset_pkey, project_pkey: links that lead into it.
WITH led AS (
    SELECT * FROM registry.entry
    WHERE target_project = $1 AND ($2 = '' OR target_asset = $2) AND ($3 = '' OR target_version = $3)
    UNION
    SELECT * FROM registry.entry
    WHERE ancestor_project = $1 AND ($2 = '' OR ancestor_asset = $2) AND ($3 = '' OR ancestor_version = $3)
)
SELECT p.name AS project, a.name AS asset, v.name AS version, e.path, e.size, e.target_project, e.target_asset, e.target_version, e.target_path,
       e.ancestor_project, e.ancestor_asset, e.ancestor_version, e.ancestor_path
FROM led e
JOIN registry.version v ON v.version_id = e.version_id
JOIN registry.asset a ON a.asset_id = v.asset_id
JOIN registry.project p ON p.project_id = v.project_id
WHERE v.state <> 'uploading';

-- name: there
-- By project_name_key, asset_project_id_name_key, version_asset_id_name_key, entry_pkey: which of these files there are.
SELECT w.n
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS w (project, asset, version, path, n)
JOIN registry.project p ON p.name = w.project
JOIN registry.asset a ON a.project_id = p.project_id AND a.name = w.asset
JOIN registry.version v ON v.asset_id = a.asset_id AND v.name = w.version AND v.state = 'published'
JOIN registry.entry e ON e.version_id = v.version_id AND e.path = w.path;

-- name: change_usage
-- By version_pkey, project_pkey; both are locked. Parameters: version, project, bytes and entries more, whether documents have to be written.
WITH version AS (
    UPDATE registry.version SET usage = usage + $3, entries = entries + $4, unwritten = unwritten OR $5 WHERE version_id = $1
)
UPDATE registry.project SET usage = usage + $3, revision = revision + 1 WHERE project_id = $2;

-- name: reroute
-- By entry_pkey. Only those that still lead where they led when it was decided. Parameters: version; path, what held the content until now;
-- new target, new ancestor.
UPDATE registry.entry e
SET target_project = c.target_project, target_asset = c.target_asset, target_version = c.target_version, target_path = c.target_path,
    ancestor_project = c.ancestor_project, ancestor_asset = c.ancestor_asset, ancestor_version = c.ancestor_version, ancestor_path = c.ancestor_path
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
            $12::text[], $13::text[], $14::text[])
     AS c (path, held_project, held_asset, held_version, held_path, target_project, target_asset, target_version, target_path,
           ancestor_project, ancestor_asset, ancestor_version, ancestor_path)
WHERE e.version_id = $1 AND e.path = c.path AND e.target_project IS NOT NULL
  AND coalesce(e.ancestor_project, e.target_project) = c.held_project AND coalesce(e.ancestor_asset, e.target_asset) = c.held_asset
  AND coalesce(e.ancestor_version, e.target_version) = c.held_version AND coalesce(e.ancestor_path, e.target_path) = c.held_path
RETURNING e.path, CASE WHEN e.target_project IS NULL THEN e.size ELSE 0 END AS usage;

-- name: adopt_project
-- project_name_key decides who is first. Its documents are there.
INSERT INTO registry.project (name, owners, uploaders, global_write, baseline, growth_rate, quota_year, revision, written)
VALUES ($1, $2, $3::jsonb, $4, $5, $6, $7, 1, 1)
ON CONFLICT (name) DO NOTHING
RETURNING project_id;

-- name: adopt_usage
-- By project_pkey. The document of a project that nobody has changed yet says it already.
UPDATE registry.project SET usage = usage + $2, revision = revision + (revision > 1)::int WHERE project_id = $1;

-- name: adopt_latest
-- by asset_pkey; as adopt_usage
UPDATE registry.asset SET latest_id = $2, revision = revision + (revision > 1)::int WHERE asset_id = $1;

-- name: insert_asset
-- By asset_project_id_name_key. Its documents are there.
INSERT INTO registry.asset (project_id, name, owners, uploaders, revision, written) VALUES ($1, $2, $3, $4::jsonb, 1, 1)
ON CONFLICT (project_id, name) DO NOTHING RETURNING asset_id;

-- name: asset_id
-- By asset_project_id_name_key. One that is only being made by an upload is seen from now on.
UPDATE registry.asset SET revision = greatest(revision, 1) WHERE project_id = $1 AND name = $2 RETURNING asset_id;

-- name: lock_project
-- by project_pkey
SELECT project_id FROM registry.project WHERE project_id = $1 FOR NO KEY UPDATE;

-- name: lock_asset
-- by asset_pkey
SELECT asset_id FROM registry.asset WHERE asset_id = $1 FOR NO KEY UPDATE;

-- name: insert_version
-- version_asset_id_name_key
INSERT INTO registry.version (project_id, asset_id, name, state, on_probation, upload_user, upload_start, upload_finish, usage, entries)
VALUES ($1, $2, $3, 'published', $4, $5, $6, $7, $8, $9)
ON CONFLICT DO NOTHING RETURNING version_id;

-- name: approved
-- by version_asset_id_name_key
SELECT version_id FROM registry.version WHERE asset_id = $1 AND name = $2 AND state = 'published' AND NOT on_probation;
