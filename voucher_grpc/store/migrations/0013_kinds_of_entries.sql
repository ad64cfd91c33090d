-- outside of a transaction
-- The rows that were there when the lists of kinds grew, and the open passes of a user.
ALTER TABLE ledger_entries VALIDATE CONSTRAINT ledger_entries_kind_check;
ALTER TABLE events VALIDATE CONSTRAINT events_event_type_check;
DROP INDEX CONCURRENTLY IF EXISTS passes_open;
CREATE INDEX CONCURRENTLY passes_open ON passes (user_id) WHERE close_time IS NULL;
