-- Where an event stands in the stream that other systems read (StreamEvents). The
-- position is given once the event has committed (voucher_grpc.store.events), so the
-- older version goes on writing events without one. Both indexes are partial: a
-- waiting event is in the first, one with a position in the second.
SET LOCAL lock_timeout = '5s';
ALTER TABLE events ADD COLUMN position bigint;
CREATE INDEX events_waiting ON events (event_time, user_id, event_seq) WHERE position IS NULL;
CREATE INDEX events_by_position ON events (position) WHERE position IS NOT NULL;

-- One row. Whoever has it locked gives positions; dropped_position is the last one
-- that is no longer kept in the stream. stream_id tells this database's stream from
-- any other.
CREATE TABLE event_stream (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    stream_id uuid NOT NULL DEFAULT gen_random_uuid(),
    last_position bigint NOT NULL DEFAULT 0,
    dropped_position bigint NOT NULL DEFAULT 0 CHECK (dropped_position <= last_position)
) WITH (fillfactor = 10);
INSERT INTO event_stream DEFAULT VALUES;

-- At mark_time all positions up to this one had been given: how old they are, for
-- retention, without a look at the events.
CREATE TABLE event_marks (
    position bigint PRIMARY KEY,
    mark_time timestamptz NOT NULL
);
