-- A published version keeps the id of its upload: who lost the answer asks again, and is told that it is there.

ALTER TABLE registry.version DROP CONSTRAINT version_check;
ALTER TABLE registry.version
    ADD CONSTRAINT version_finished CHECK (state <> 'published' OR upload_finish IS NOT NULL),
    -- NULL: it was adopted, or published before this was kept
    ADD CONSTRAINT version_upload CHECK (state = 'published' OR upload_id IS NOT NULL);
