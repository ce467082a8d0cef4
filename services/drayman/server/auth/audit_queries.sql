-- Statements of the audit log.

-- name: record
INSERT INTO auth.audit_event (action, actor, subject, refused, reason, method, peer, client, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb);

-- name: events
-- What `audit_store.statement` completes. Read along the primary key, by audit_event_actor and audit_event_subject, or by
-- audit_event_refused; all of them are in the order of ids. Parameters: between which ids, since, until, actions; limit; user.
SELECT event_id, at, action, actor, subject, refused, reason, method, peer, client, detail
FROM auth.audit_event
WHERE event_id > $1 AND event_id < $2
  AND ($3::timestamptz IS NULL OR at >= $3)
  AND ($4::timestamptz IS NULL OR at < $4)
  AND ($5::text[] IS NULL OR action = ANY ($5));

-- name: bounds
-- By audit_event_at. Events since $1 and until $2 have ids between these, unless a clock was set back by more than an hour.
SELECT coalesce((SELECT event_id FROM auth.audit_event
                 WHERE at < $1::timestamptz - interval '1 hour' ORDER BY at DESC, event_id DESC LIMIT 1), 0) AS low,
       coalesce((SELECT event_id FROM auth.audit_event
                 WHERE at >= $2::timestamptz + interval '1 hour' ORDER BY at, event_id LIMIT 1), 9223372036854775807) AS high;

-- name: clock
SELECT clock_timestamp();

-- name: newest
SELECT coalesce(max(event_id), 0) FROM auth.audit_event;

-- name: sweep_events
-- by audit_event_at
DELETE FROM auth.audit_event
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM auth.audit_event WHERE at < now() - $1::interval ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
));
