-- Statements of `place.py`. The table has one row at most.

-- name: lock
-- Of two processes that start at the same time one is the first.
LOCK TABLE registry.place IN EXCLUSIVE MODE;

-- name: place
SELECT place_id, address FROM registry.place;

-- name: insert_place
INSERT INTO registry.place (place_id, address) VALUES ($1, $2);
