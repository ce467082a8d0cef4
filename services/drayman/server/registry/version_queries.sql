-- Statements of `version_store.py`. Each says by which indexes it goes; those of UNIQUE and PRIMARY KEY are named after their columns.
-- What only prepares a publication does not wait for the disk: "set_config" makes that so for its transaction alone. It is on disk when
-- the publication is, which does wait.

-- name: standing
-- By project_name_key, asset_project_id_name_key, version_asset_id_name_key, removal_pkey, version_upload_id_key: all that decides whether a name can be taken.
SELECT p.project_id, p.name, p.owners, p.uploaders, p.global_write, p.baseline, p.growth_rate, p.quota_year, p.usage,
       a.asset_id, a.owners AS asset_owners, a.uploaders AS asset_uploaders,
       v.version_id, v.state, v.upload_id, v.upload_user, v.busy_until, v.busy_until > clock_timestamp() AS busy,
       extract(epoch FROM v.busy_until - clock_timestamp())::float8 AS left_seconds,
       ARRAY(SELECT path FROM registry.removal WHERE path = ANY ($4::text[])) AS removals,
       (SELECT u.version_id FROM registry.version u WHERE u.upload_id = $5) AS same_id
FROM registry.project p
LEFT JOIN registry.asset a ON a.project_id = p.project_id AND a.name = $2
LEFT JOIN registry.version v ON v.asset_id = a.asset_id AND v.name = $3
WHERE p.name = $1;

-- name: reserve
-- version_asset_id_name_key decides who is first. Parameters: project, asset, name, on probation, user, upload id, lease, hours.
INSERT INTO registry.version
       (project_id, asset_id, name, state, on_probation, upload_user, upload_start, upload_id, busy_until, resumable_until)
SELECT $1, $2, $3, 'uploading', $4, $5, clock_timestamp(), $6, clock_timestamp() + $7::interval, clock_timestamp() + $8::interval
FROM set_config('synchronous_commit', 'off', true)
ON CONFLICT DO NOTHING
RETURNING version_id, project_id, asset_id, upload_id, upload_user, upload_start, on_probation, state, busy_until, upload_finish;

-- name: reserve_in_new_asset
-- The same, with the asset ($2 is its name), which is not to be seen before a version is: its revision is 0.
WITH made AS (
    INSERT INTO registry.asset (project_id, name, owners, uploaders, revision)
    VALUES ($1, $2, $9::text[], CASE WHEN $9::text[] IS NULL THEN NULL ELSE '[]'::jsonb END, 0)
    ON CONFLICT DO NOTHING RETURNING asset_id
)
INSERT INTO registry.version
       (project_id, asset_id, name, state, on_probation, upload_user, upload_start, upload_id, busy_until, resumable_until)
SELECT $1, asset_id, $3, 'uploading', $4, $5, clock_timestamp(), $6, clock_timestamp() + $7::interval, clock_timestamp() + $8::interval
FROM made, set_config('synchronous_commit', 'off', true)
ON CONFLICT DO NOTHING
RETURNING version_id, project_id, asset_id, upload_id, upload_user, upload_start, on_probation, state, busy_until, upload_finish;

-- name: take_over
-- By version_pkey. Who held it finds that busy_until has changed.
UPDATE registry.version v
SET busy_until = greatest(clock_timestamp() + $3::interval, busy_until + interval '1 microsecond'),
    resumable_until = clock_timestamp() + $4::interval
FROM set_config('synchronous_commit', 'off', true)
WHERE version_id = $1 AND upload_id = $2 AND state = 'uploading'
RETURNING version_id, project_id, asset_id, upload_id, upload_user, upload_start, on_probation, state, busy_until, upload_finish;

-- name: displace
-- By version_pkey: a broken upload gives way. Parameters: version, its upload id and busy_until as they were seen; then the new upload.
UPDATE registry.version v
SET upload_id = $4, on_probation = $5, upload_user = $6, upload_start = clock_timestamp(), usage = 0, entries = 0,
    busy_until = greatest(clock_timestamp() + $7::interval, busy_until + interval '1 microsecond'),
    resumable_until = clock_timestamp() + $8::interval
FROM set_config('synchronous_commit', 'off', true)
WHERE version_id = $1 AND upload_id = $2 AND busy_until = $3 AND state = 'uploading'
RETURNING version_id, project_id, asset_id, upload_id, upload_user, upload_start, on_probation, state, busy_until, upload_finish;

-- name: decided
-- By version_pkey: what is being published, or is. Somebody may be at it: it is not held by whoever reads this.
SELECT version_id, project_id, asset_id, upload_id, upload_user, upload_start, on_probation, state, '-infinity'::timestamptz AS busy_until,
       upload_finish
FROM registry.version WHERE version_id = $1 AND upload_id = $2 AND state <> 'uploading';

-- name: hold
-- By version_pkey: take what is publishing, from oneself ($3 is the proof) or from who is gone.
UPDATE registry.version v
SET busy_until = greatest(clock_timestamp() + $4::interval, busy_until + interval '1 microsecond')
FROM set_config('synchronous_commit', 'off', true)
WHERE version_id = $1 AND upload_id = $2 AND state = 'publishing' AND (busy_until = $3 OR busy_until < clock_timestamp())
RETURNING busy_until;

-- name: is_decided
-- by version_pkey
SELECT true FROM registry.version WHERE version_id = $1 AND (upload_id = $2 AND state = 'publishing' OR state = 'published');

-- name: renew
-- by version_pkey; no row: it is held by somebody else, or gone
UPDATE registry.version v
SET busy_until = greatest(clock_timestamp() + $4::interval, busy_until + interval '1 microsecond'),
    resumable_until = clock_timestamp() + $5::interval
FROM set_config('synchronous_commit', 'off', true)
WHERE version_id = $1 AND upload_id = $2 AND busy_until = $3
RETURNING busy_until;

-- name: release
-- by version_pkey
UPDATE registry.version v SET busy_until = clock_timestamp()
FROM set_config('synchronous_commit', 'off', true)
WHERE version_id = $1 AND upload_id = $2 AND busy_until = $3;

-- name: lock_project
-- By project_pkey: against whoever else takes from its quota, or deletes it.
SELECT baseline, growth_rate, quota_year, usage, extract(year FROM now())::int AS year
FROM registry.project WHERE project_id = $1 FOR NO KEY UPDATE;

-- name: announce
-- By version_pkey, along version_uploading; after `lock_project`. Returns what else is on its way into the project: what broke off does not count.
UPDATE registry.version v SET usage = $4
FROM set_config('synchronous_commit', 'off', true)
WHERE version_id = $1 AND upload_id = $2 AND busy_until = $3 AND state = 'uploading'
RETURNING (SELECT coalesce(sum(usage), 0)::bigint FROM registry.version o
           WHERE o.project_id = v.project_id AND o.version_id <> v.version_id AND o.state <> 'published'
             AND (o.state = 'publishing' OR o.busy_until > clock_timestamp())) AS coming;

-- name: forget_entries
-- along entry_pkey
DELETE FROM registry.entry WHERE version_id = $1;

-- name: lock_linked
-- By project_name_key, asset_project_id_name_key, version_asset_id_name_key: versions that are linked to; they cannot be deleted before the
-- commit. In the order of their names, as whoever deletes several locks them.
SELECT w.project, w.asset, w.version
FROM unnest($1::text[], $2::text[], $3::text[]) AS w (project, asset, version)
CROSS JOIN LATERAL (
    SELECT v.version_id FROM registry.version v
    WHERE v.asset_id = (SELECT a.asset_id FROM registry.asset a
                        WHERE a.project_id = (SELECT p.project_id FROM registry.project p WHERE p.name = w.project) AND a.name = w.asset)
      AND v.name = w.version AND v.state = 'published' AND NOT v.on_probation
    FOR KEY SHARE
) AS locked;

-- name: to_publishing
-- By version_pkey, asset_pkey, along version_uploading, by removal_pkey; after `lock_project`. The first statement of a publication that waits
-- for the disk. Returns also the asset's latest version as it is now, what else is on its way into the project, and which of the folders $7
-- have still to go. From $8 on: columns of the entries that are not there yet; those of links may be empty, which is NULL for each of them.
WITH done AS (
    UPDATE registry.version v
    SET state = 'publishing', usage = $4, entries = $5, upload_finish = clock_timestamp(),
        busy_until = greatest(clock_timestamp() + $6::interval, v.busy_until + interval '1 microsecond')
    FROM registry.asset a LEFT JOIN registry.version l ON l.version_id = a.latest_id
    WHERE v.version_id = $1 AND v.upload_id = $2 AND v.busy_until = $3 AND v.state = 'uploading' AND a.asset_id = v.asset_id
    RETURNING v.version_id, v.busy_until, v.upload_finish, a.latest_id, l.name AS latest, l.upload_finish AS latest_finish,
              ARRAY(SELECT path FROM registry.removal WHERE path = ANY ($7::text[])) AS removals,
              (SELECT coalesce(sum(usage), 0)::bigint FROM registry.version o
               WHERE o.project_id = v.project_id AND o.version_id <> v.version_id AND o.state <> 'published'
                 AND (o.state = 'publishing' OR o.busy_until > clock_timestamp())) AS coming
), entries AS (
    INSERT INTO registry.entry (version_id, path, size, md5, sha256, target_project, target_asset, target_version, target_path,
                                ancestor_project, ancestor_asset, ancestor_version, ancestor_path)
    SELECT done.version_id, e.*
    FROM done, unnest($8::text[], $9::bigint[], $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::text[],
                      $16::text[], $17::text[], $18::text[], $19::text[]) AS e
)
SELECT busy_until, upload_finish, latest_id, latest, latest_finish, removals, coming FROM done;

-- name: back_to_uploading
-- by version_pkey
UPDATE registry.version SET state = 'uploading', upload_finish = NULL
WHERE version_id = $1 AND upload_id = $2 AND busy_until = $3 AND state = 'publishing'
RETURNING true;

-- name: lock_asset
-- by asset_pkey, version_pkey: the asset and its latest version
SELECT a.revision, v.name, v.upload_finish, v.version_id
FROM registry.asset a LEFT JOIN registry.version v ON v.version_id = a.latest_id
WHERE a.asset_id = $1 FOR NO KEY UPDATE OF a;

-- name: to_published
-- By version_pkey, asset_pkey, project_pkey; after the locks. Parameters: version, upload id, whether it becomes the latest. Everything that
-- follows from it happens only if it was publishing; then there is a row.
WITH done AS (
    UPDATE registry.version v SET state = 'published', busy_until = NULL, resumable_until = NULL
    FROM set_config('synchronous_commit', 'off', true)
    WHERE version_id = $1 AND upload_id = $2 AND state = 'publishing'
    RETURNING v.*
), asset AS (
    UPDATE registry.asset a
    SET latest_id = CASE WHEN $3 THEN d.version_id ELSE a.latest_id END,
        revision = a.revision + CASE WHEN $3 OR a.revision = 0 THEN 1 ELSE 0 END
    FROM done d WHERE a.asset_id = d.asset_id RETURNING a.name
), project AS (
    UPDATE registry.project p SET usage = p.usage + d.usage, revision = p.revision + 1
    FROM done d WHERE p.project_id = d.project_id RETURNING p.name
), logged AS (
    INSERT INTO registry.change (type, project, asset, version, latest)
    SELECT 'add-version', project.name, asset.name, d.name, $3 FROM done d, asset, project WHERE NOT d.on_probation
)
SELECT d.project_id, project.name AS project, d.asset_id, asset.name AS asset, d.version_id, d.name AS version, d.upload_user, d.upload_start,
       d.upload_finish, d.on_probation, $3 AS latest, d.usage, d.entries
FROM done d, asset, project;

-- name: to_published_at_once
-- The same with the lock of the project, which is $4, in one statement, if the latest version of the asset ($5) is still $6. Nothing happens,
-- and nothing is waited for, if somebody else is at the project: holds it, or has changed it since this statement began to read.
WITH locked AS MATERIALIZED (
    SELECT revision FROM registry.project WHERE project_id = $4 FOR NO KEY UPDATE SKIP LOCKED
), alone AS MATERIALIZED (
    SELECT FROM locked WHERE revision = (SELECT revision FROM registry.project WHERE project_id = $4)
                         AND (SELECT latest_id FROM registry.asset WHERE asset_id = $5) IS NOT DISTINCT FROM $6
), done AS (
    UPDATE registry.version v SET state = 'published', busy_until = NULL, resumable_until = NULL
    FROM alone, set_config('synchronous_commit', 'off', true)
    WHERE version_id = $1 AND upload_id = $2 AND state = 'publishing'
    RETURNING v.*
), asset AS (
    UPDATE registry.asset a
    SET latest_id = CASE WHEN $3 THEN d.version_id ELSE a.latest_id END,
        revision = a.revision + CASE WHEN $3 OR a.revision = 0 THEN 1 ELSE 0 END
    FROM done d WHERE a.asset_id = d.asset_id RETURNING a.name
), project AS (
    UPDATE registry.project p SET usage = p.usage + d.usage, revision = p.revision + 1
    FROM done d WHERE p.project_id = d.project_id RETURNING p.name
), logged AS (
    INSERT INTO registry.change (type, project, asset, version, latest)
    SELECT 'add-version', project.name, asset.name, d.name, $3 FROM done d, asset, project WHERE NOT d.on_probation
)
SELECT d.project_id, project.name AS project, d.asset_id, asset.name AS asset, d.version_id, d.name AS version, d.upload_user, d.upload_start,
       d.upload_finish, d.on_probation, $3 AS latest, d.usage, d.entries
FROM done d, asset, project;

-- name: published
-- by version_pkey, asset_pkey, project_pkey
SELECT p.project_id, p.name AS project, a.asset_id, a.name AS asset, v.version_id, v.name AS version, v.upload_user, v.upload_start,
       v.upload_finish, v.on_probation, a.latest_id IS NOT DISTINCT FROM v.version_id AS latest, v.usage, v.entries
FROM registry.version v
JOIN registry.asset a ON a.asset_id = v.asset_id
JOIN registry.project p ON p.project_id = v.project_id
WHERE v.version_id = $1 AND v.state = 'published';

-- name: give_up
-- by version_pkey
DELETE FROM registry.version WHERE version_id = $1 AND upload_id = $2 AND busy_until = $3 RETURNING asset_id;

-- name: lock_empty_asset
-- by asset_pkey
SELECT true FROM registry.asset WHERE asset_id = $1 AND revision = 0 FOR UPDATE;

-- name: forget_empty_asset
-- by asset_pkey, version_asset_id_name_key; after `lock_empty_asset`: no version can come in between
DELETE FROM registry.asset a
WHERE asset_id = $1 AND revision = 0 AND NOT EXISTS (SELECT FROM registry.version v WHERE v.asset_id = a.asset_id);

-- name: claim
-- Along version_uploading: an upload of state $1 whose process is gone; one that can be resumed only when nobody has come back in time.
UPDATE registry.version v
SET busy_until = greatest(clock_timestamp() + $2::interval, busy_until + interval '1 microsecond')
FROM registry.asset a, registry.project p
WHERE v.version_id = (
    SELECT version_id FROM registry.version
    WHERE state <> 'published' AND state = $1 AND busy_until < clock_timestamp()
      AND (state = 'publishing' OR resumable_until < clock_timestamp())
    ORDER BY project_id LIMIT 1 FOR UPDATE SKIP LOCKED)
  AND a.asset_id = v.asset_id AND p.project_id = v.project_id
RETURNING v.version_id, v.project_id, v.asset_id, v.upload_id, v.upload_user, v.upload_start, v.on_probation, v.state, v.busy_until,
          v.upload_finish, p.name AS project, a.name AS asset, v.name AS version;

-- name: known_uploads
-- by version_upload_id_key
SELECT upload_id FROM registry.version WHERE upload_id = ANY ($1::uuid[]) AND state <> 'published';

-- name: abandon_all
-- Along version_uploading: nobody is at work.
UPDATE registry.version SET busy_until = clock_timestamp() WHERE state <> 'published' AND busy_until > clock_timestamp();
