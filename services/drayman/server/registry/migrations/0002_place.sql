-- Which folder, or object store, holds the content: the one that has this id in its ..registry-id.

CREATE TABLE registry.place (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    place_id   uuid NOT NULL,
    -- where it was when it was seen first, for people
    address    text NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now()
);
