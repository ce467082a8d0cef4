-- Statements of `removal_store.py`. Each says by which indexes it goes.

-- name: lock_project
-- by project_name_key; against everybody who only refers to it, too
SELECT project_id, name, owners, uploaders, global_write, baseline, growth_rate, quota_year, usage
FROM registry.project WHERE name = $1 FOR UPDATE;

-- name: lock_asset
-- by asset_project_id_name_key
SELECT asset_id, revision FROM registry.asset WHERE project_id = $1 AND name = $2 FOR UPDATE;

-- name: lock_assets
-- along asset_project_id_name_key
SELECT asset_id, revision FROM registry.asset WHERE project_id = $1 ORDER BY name FOR UPDATE;

-- name: lock_versions
-- along version_asset_id_name_key; $2 NULL: all of the asset
SELECT version_id, name, state, on_probation, usage, upload_id, busy_until > clock_timestamp() AS busy
FROM registry.version WHERE asset_id = $1 AND ($2::text IS NULL OR name = $2) ORDER BY name FOR UPDATE;

-- name: links_into_project
-- By entry_target and entry_ancestor, then by asset_project_id_name_key, version_asset_id_name_key and entry_pkey: a link from elsewhere to a
-- file that is there; one that is dead already loses nothing. What is only being uploaded looks again before it is published.
(SELECT e.version_id, e.path FROM registry.entry e JOIN registry.version v ON v.version_id = e.version_id
 WHERE e.target_project = $1 AND v.project_id <> $2 AND v.state <> 'uploading'
   AND EXISTS (SELECT FROM registry.asset a JOIN registry.version w ON w.asset_id = a.asset_id JOIN registry.entry f ON f.version_id = w.version_id
               WHERE a.project_id = $2 AND a.name = e.target_asset AND w.name = e.target_version AND f.path = e.target_path)
 LIMIT 1)
UNION ALL
(SELECT e.version_id, e.path FROM registry.entry e JOIN registry.version v ON v.version_id = e.version_id
 WHERE e.ancestor_project = $1 AND v.project_id <> $2 AND v.state <> 'uploading'
   AND EXISTS (SELECT FROM registry.asset a JOIN registry.version w ON w.asset_id = a.asset_id JOIN registry.entry f ON f.version_id = w.version_id
               WHERE a.project_id = $2 AND a.name = e.ancestor_asset AND w.name = e.ancestor_version AND f.path = e.ancestor_path)
 LIMIT 1);

-- name: links_into_asset
-- as links_into_project
(SELECT e.version_id, e.path FROM registry.entry e JOIN registry.version v ON v.version_id = e.version_id
 WHERE e.target_project = $1 AND e.target_asset = $2 AND v.asset_id <> $3 AND v.state <> 'uploading'
   AND EXISTS (SELECT FROM registry.version w JOIN registry.entry f ON f.version_id = w.version_id
               WHERE w.asset_id = $3 AND w.name = e.target_version AND f.path = e.target_path)
 LIMIT 1)
UNION ALL
(SELECT e.version_id, e.path FROM registry.entry e JOIN registry.version v ON v.version_id = e.version_id
 WHERE e.ancestor_project = $1 AND e.ancestor_asset = $2 AND v.asset_id <> $3 AND v.state <> 'uploading'
   AND EXISTS (SELECT FROM registry.version w JOIN registry.entry f ON f.version_id = w.version_id
               WHERE w.asset_id = $3 AND w.name = e.ancestor_version AND f.path = e.ancestor_path)
 LIMIT 1);

-- name: links_into_version
-- as links_into_project
(SELECT e.version_id, e.path FROM registry.entry e JOIN registry.version v ON v.version_id = e.version_id
 WHERE e.target_project = $1 AND e.target_asset = $2 AND e.target_version = $3 AND e.version_id <> $4 AND v.state <> 'uploading'
   AND EXISTS (SELECT FROM registry.entry f WHERE f.version_id = $4 AND f.path = e.target_path)
 LIMIT 1)
UNION ALL
(SELECT e.version_id, e.path FROM registry.entry e JOIN registry.version v ON v.version_id = e.version_id
 WHERE e.ancestor_project = $1 AND e.ancestor_asset = $2 AND e.ancestor_version = $3 AND e.version_id <> $4 AND v.state <> 'uploading'
   AND EXISTS (SELECT FROM registry.entry f WHERE f.version_id = $4 AND f.path = e.ancestor_path)
 LIMIT 1);

-- name: folder_of
-- by version_pkey, asset_pkey, project_pkey
SELECT concat_ws('/', p.name, a.name, v.name)
FROM registry.version v
JOIN registry.asset a ON a.asset_id = v.asset_id
JOIN registry.project p ON p.project_id = v.project_id
WHERE v.version_id = $1;

-- name: delete_entries
-- along entry_pkey
DELETE FROM registry.entry WHERE version_id = ANY ($1::bigint[]);

-- name: delete_versions
-- by version_pkey
DELETE FROM registry.version WHERE version_id = ANY ($1::bigint[]);

-- name: delete_asset
-- by asset_pkey
DELETE FROM registry.asset WHERE asset_id = $1;

-- name: delete_project
-- by project_pkey
DELETE FROM registry.project WHERE project_id = $1;

-- name: lower_usage
-- by project_pkey
UPDATE registry.project SET usage = usage - $2, revision = revision + 1 WHERE project_id = $1;

-- name: insert_removal
-- by removal_pkey
INSERT INTO registry.removal (path) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: insert_orphan
-- By removal_pkey; project_name_key, asset_project_id_name_key, version_asset_id_name_key: a folder without a row has to go.
INSERT INTO registry.removal (path)
SELECT concat_ws('/', $1::text, $2::text, $3::text)
WHERE NOT EXISTS (
    SELECT FROM registry.project p
    JOIN registry.asset a ON a.project_id = p.project_id AND a.name = $2
    JOIN registry.version v ON v.asset_id = a.asset_id AND v.name = $3
    WHERE p.name = $1)
ON CONFLICT DO NOTHING;

-- name: insert_change
INSERT INTO registry.change (type, project, asset, version, latest) VALUES ($1, $2, $3, $4, $5);

-- name: removals
-- along removal_pkey
SELECT path FROM registry.removal ORDER BY path LIMIT 100;

-- name: lock_removal
-- by removal_pkey
SELECT true FROM registry.removal WHERE path = $1 FOR UPDATE;

-- name: delete_removal
-- by removal_pkey
DELETE FROM registry.removal WHERE path = $1;
