-- Statements of `change_feed.py`. Each says by which indexes it goes.

-- name: changes
-- along change_pkey
SELECT change_id, at, type, project, asset, version, latest
FROM registry.change
WHERE change_id > $1 AND change_id < $2 AND ($3::timestamptz IS NULL OR at >= $3)
ORDER BY change_id LIMIT $4;

-- name: changes_of_project
-- along change_project
SELECT change_id, at, type, project, asset, version, latest
FROM registry.change
WHERE project = $5 AND change_id > $1 AND change_id < $2 AND ($3::timestamptz IS NULL OR at >= $3)
ORDER BY change_id LIMIT $4;

-- name: first_since
-- Along change_at. No change since $1 has a smaller id, unless a clock was set back, or a transaction lasted, by more than an hour.
SELECT coalesce((SELECT change_id FROM registry.change WHERE at < $1::timestamptz - interval '1 hour' ORDER BY at DESC, change_id DESC LIMIT 1), 0);

-- name: newest
-- along change_pkey
SELECT coalesce(max(change_id), 0) FROM registry.change;
