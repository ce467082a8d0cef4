-- Statements of `store.py`. Each says by which indexes it goes; project_name_key, asset_project_id_name_key, version_asset_id_name_key and
-- entry_pkey are those of UNIQUE and PRIMARY KEY.

-- name: project
-- by project_name_key
SELECT project_id, name, owners, uploaders, global_write, baseline, growth_rate, quota_year, usage
FROM registry.project WHERE name = $1;

-- name: projects
-- along project_name_key
SELECT name FROM registry.project WHERE name > $1 ORDER BY name LIMIT $2;

-- name: asset
-- by project_name_key, asset_project_id_name_key, version_pkey. Of an asset that is made by an upload which is not published yet, revision is
-- 0: it is not there. No row: no such project.
SELECT p.project_id, p.name AS project, a.asset_id, a.name, a.owners, a.uploaders, v.name AS latest
FROM registry.project p
LEFT JOIN registry.asset a ON a.project_id = p.project_id AND a.name = $2 AND a.revision > 0
LEFT JOIN registry.version v ON v.version_id = a.latest_id
WHERE p.name = $1;

-- name: assets
-- along asset_project_id_name_key
SELECT name FROM registry.asset WHERE project_id = $1 AND name > $2 AND revision > 0 ORDER BY name LIMIT $3;

-- name: version
-- by project_name_key, asset_project_id_name_key, version_asset_id_name_key
SELECT p.project_id, p.name AS project, a.asset_id, a.name AS asset, v.version_id, v.name AS version, v.upload_user, v.upload_start,
       v.upload_finish, v.on_probation, a.latest_id IS NOT DISTINCT FROM v.version_id AS latest, v.usage, v.entries
FROM registry.project p
LEFT JOIN registry.asset a ON a.project_id = p.project_id AND a.name = $2 AND a.revision > 0
LEFT JOIN registry.version v ON v.asset_id = a.asset_id AND v.name = $3 AND v.state = 'published'
WHERE p.name = $1;

-- name: versions
-- along version_asset_id_name_key
SELECT p.project_id, p.name AS project, a.asset_id, a.name AS asset, v.version_id, v.name AS version, v.upload_user, v.upload_start,
       v.upload_finish, v.on_probation, a.latest_id IS NOT DISTINCT FROM v.version_id AS latest, v.usage, v.entries
FROM registry.version v
JOIN registry.asset a ON a.asset_id = v.asset_id
JOIN registry.project p ON p.project_id = v.project_id
WHERE v.asset_id = $1 AND v.name > $2 AND v.state = 'published'
ORDER BY v.name LIMIT $3;

-- name: version_by_id
-- by version_pkey, asset_pkey, project_pkey
SELECT p.project_id, p.name AS project, a.asset_id, a.name AS asset, v.version_id, v.name AS version, v.upload_user, v.upload_start,
       v.upload_finish, v.on_probation, a.latest_id IS NOT DISTINCT FROM v.version_id AS latest, v.usage, v.entries
FROM registry.version v
JOIN registry.asset a ON a.asset_id = v.asset_id
JOIN registry.project p ON p.project_id = v.project_id
WHERE v.version_id = $1 AND v.state = 'published';

-- name: entries
-- Along entry_pkey: those after a path whose paths begin with a prefix. No path that begins with it is greater than $4.
SELECT path, size, md5, sha256, target_project, target_asset, target_version, target_path,
       ancestor_project, ancestor_asset, ancestor_version, ancestor_path
FROM registry.entry
WHERE version_id = $1 AND path > $2 AND path >= $3 AND path <= $4 AND starts_with(path, $3)
ORDER BY path LIMIT $5;

-- name: latest_entries
-- By project_name_key, asset_project_id_name_key, version_pkey, along entry_pkey: an asset's latest version and its entries, those with content.
SELECT v.name AS version, e.path, e.size, e.md5, e.sha256, e.target_project, e.target_asset, e.target_version, e.target_path,
       e.ancestor_project, e.ancestor_asset, e.ancestor_version, e.ancestor_path
FROM registry.project p
JOIN registry.asset a ON a.project_id = p.project_id AND a.name = $2
JOIN registry.version v ON v.version_id = a.latest_id
JOIN registry.entry e ON e.version_id = v.version_id
WHERE p.name = $1 AND e.md5 IS NOT NULL;

-- name: latest_with
-- By project_name_key, asset_project_id_name_key, version_pkey, entry_content: of these entries those that have one of the contents.
SELECT v.name AS version, e.path, e.size, e.md5, e.sha256, e.target_project, e.target_asset, e.target_version, e.target_path,
       e.ancestor_project, e.ancestor_asset, e.ancestor_version, e.ancestor_path
FROM registry.project p
JOIN registry.asset a ON a.project_id = p.project_id AND a.name = $2
JOIN registry.version v ON v.version_id = a.latest_id
CROSS JOIN unnest($3::bytea[], $4::bigint[]) AS c (md5, size)
JOIN registry.entry e ON e.version_id = v.version_id AND e.md5 = c.md5 AND e.size = c.size
WHERE p.name = $1;

-- name: there
-- By project_name_key, asset_project_id_name_key, version_asset_id_name_key: of these versions those that are published.
SELECT w.project, w.asset, w.version
FROM unnest($1::text[], $2::text[], $3::text[]) AS w (project, asset, version)
WHERE EXISTS (
    SELECT FROM registry.version v
    WHERE v.asset_id = (SELECT a.asset_id FROM registry.asset a
                        WHERE a.project_id = (SELECT p.project_id FROM registry.project p WHERE p.name = w.project) AND a.name = w.asset)
      AND v.name = w.version AND v.state = 'published');

-- name: entry
-- by entry_pkey
SELECT path, size, md5, sha256, target_project, target_asset, target_version, target_path,
       ancestor_project, ancestor_asset, ancestor_version, ancestor_path
FROM registry.entry WHERE version_id = $1 AND path = $2;

-- name: probation
-- along version_on_probation
SELECT p.project_id, p.name AS project, a.asset_id, a.name AS asset, v.version_id, v.name AS version, v.upload_user, v.upload_start,
       v.upload_finish, v.on_probation, false AS latest, v.usage, v.entries
FROM registry.version v
JOIN registry.asset a ON a.asset_id = v.asset_id
JOIN registry.project p ON p.project_id = v.project_id
WHERE v.on_probation AND v.state = 'published' AND (v.upload_finish, v.version_id) > ($1::timestamptz, $2::bigint)
ORDER BY v.upload_finish, v.version_id LIMIT $3;

-- name: probation_of_project
-- along version_on_probation, too: what waits is little
SELECT p.project_id, p.name AS project, a.asset_id, a.name AS asset, v.version_id, v.name AS version, v.upload_user, v.upload_start,
       v.upload_finish, v.on_probation, false AS latest, v.usage, v.entries
FROM registry.version v
JOIN registry.asset a ON a.asset_id = v.asset_id
JOIN registry.project p ON p.project_id = v.project_id
WHERE v.on_probation AND v.state = 'published' AND (v.upload_finish, v.version_id) > ($1::timestamptz, $2::bigint) AND v.project_id = $4
ORDER BY v.upload_finish, v.version_id LIMIT $3;

-- name: insert_project
-- project_name_key decides who is first
INSERT INTO registry.project (name, owners, uploaders, global_write, baseline, growth_rate, quota_year)
VALUES ($1, $2, $3::jsonb, $4, $5, $6, $7)
ON CONFLICT (name) DO NOTHING
RETURNING project_id;

-- name: pending_removals
-- by removal_pkey: of these folders, those whose content has still to go
SELECT path FROM registry.removal WHERE path = ANY ($1::text[]);

-- name: lock_project
-- By project_name_key. Not against what only refers to it.
SELECT project_id, name, owners, uploaders, global_write, baseline, growth_rate, quota_year, usage
FROM registry.project WHERE name = $1 FOR NO KEY UPDATE;

-- name: lock_asset
-- by asset_project_id_name_key
SELECT a.project_id, a.asset_id, a.name, a.owners, a.uploaders, a.revision, a.latest_id
FROM registry.asset a WHERE a.project_id = $1 AND a.name = $2 FOR NO KEY UPDATE;

-- name: set_project_permissions
-- by project_pkey
UPDATE registry.project SET owners = $2, uploaders = $3::jsonb, global_write = $4, revision = revision + 1 WHERE project_id = $1;

-- name: put_asset_permissions
-- by asset_project_id_name_key
INSERT INTO registry.asset (project_id, name, owners, uploaders) VALUES ($1, $2, $3, $4::jsonb)
ON CONFLICT (project_id, name)
DO UPDATE SET owners = EXCLUDED.owners, uploaders = EXCLUDED.uploaders, revision = registry.asset.revision + 1;

-- name: set_quota
-- by project_pkey
UPDATE registry.project SET baseline = $2, growth_rate = $3, quota_year = $4, revision = revision + 1 WHERE project_id = $1;

-- name: candidates
-- Along version_latest: the versions that were complete in the last second in which one was.
SELECT name, version_id, upload_finish FROM registry.version
WHERE asset_id = $1 AND NOT on_probation AND state = 'published'
  AND upload_finish >= (SELECT date_trunc('second', upload_finish) FROM registry.version
                        WHERE asset_id = $1 AND NOT on_probation AND state = 'published' ORDER BY upload_finish DESC LIMIT 1);

-- name: set_latest
-- by asset_pkey
UPDATE registry.asset SET latest_id = $2, revision = revision + 1 WHERE asset_id = $1;

-- name: wrong_usages
-- By asset_project_id_name_key, version_asset_id_name_key, entry_pkey: published versions whose usage is not the sum of their entries.
SELECT version_id, usage, right_usage FROM (
    SELECT v.version_id, v.usage, coalesce((SELECT sum(e.size) FROM registry.entry e
                                            WHERE e.version_id = v.version_id AND e.target_project IS NULL), 0)::bigint AS right_usage
    FROM registry.asset a JOIN registry.version v ON v.asset_id = a.asset_id AND v.state = 'published'
    WHERE a.project_id = $1) AS sums
WHERE usage <> right_usage;

-- name: correct_usages
-- by version_pkey; what was changed meanwhile is right
UPDATE registry.version v SET usage = c.right_usage
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS c (version_id, usage, right_usage)
WHERE v.version_id = c.version_id AND v.usage = c.usage;

-- name: sum_usage
-- by project_pkey, asset_project_id_name_key, version_asset_id_name_key
UPDATE registry.project SET revision = revision + 1, usage = coalesce((
    SELECT sum(v.usage) FROM registry.asset a JOIN registry.version v ON v.asset_id = a.asset_id AND v.state = 'published'
    WHERE a.project_id = $1), 0)
WHERE project_id = $1 RETURNING usage;

-- name: raise_usage
-- by project_pkey
UPDATE registry.project SET usage = usage + $2, revision = revision + 1 WHERE project_id = $1;
