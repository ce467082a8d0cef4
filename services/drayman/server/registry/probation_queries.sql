-- Statements of `probation_store.py`. Each says by which indexes it goes.

-- name: lock_version
-- by version_asset_id_name_key
SELECT version_id, name, upload_user, upload_start, upload_finish, on_probation, usage, entries
FROM registry.version WHERE asset_id = $1 AND name = $2 AND state = 'published' FOR NO KEY UPDATE;

-- name: approve
-- By version_pkey, asset_pkey, project_pkey; all of them are locked. Parameters: version, whether it becomes the latest.
WITH approved AS (
    UPDATE registry.version SET on_probation = false, unwritten = true WHERE version_id = $1 RETURNING version_id, project_id, asset_id, name
), asset AS (
    UPDATE registry.asset a SET latest_id = v.version_id, revision = a.revision + 1
    FROM approved v WHERE a.asset_id = v.asset_id AND $2
)
INSERT INTO registry.change (type, project, asset, version, latest)
SELECT 'add-version', p.name, a.name, v.name, $2
FROM approved v JOIN registry.asset a ON a.asset_id = v.asset_id JOIN registry.project p ON p.project_id = v.project_id;

-- name: expired_probation
-- along version_on_probation
SELECT p.name AS project, a.name AS asset, v.name AS version
FROM registry.version v
JOIN registry.asset a ON a.asset_id = v.asset_id
JOIN registry.project p ON p.project_id = v.project_id
WHERE v.on_probation AND v.state = 'published' AND v.upload_finish < now() - $1::interval
ORDER BY v.upload_finish, v.version_id LIMIT 100;
