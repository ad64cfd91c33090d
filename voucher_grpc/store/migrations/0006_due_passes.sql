-- outside of a transaction
-- The open passes by the instant at which they end by themselves: the end of a hold, of
-- the time for a first use, or of the validity. Built while purchases go on; one that
-- was left unfinished is made anew.
DROP INDEX CONCURRENTLY IF EXISTS passes_due;
CREATE INDEX CONCURRENTLY passes_due
    ON passes ((coalesce(end_time, first_use_before, hold_expire_time)))
    WHERE close_time IS NULL;
ALTER TABLE passes VALIDATE CONSTRAINT closed_passes_say_how;
ALTER TABLE passes VALIDATE CONSTRAINT refunds_are_of_paid_cancelled_passes;
ALTER TABLE ledger_entries VALIDATE CONSTRAINT ledger_entries_kind_check;
ALTER TABLE events VALIDATE CONSTRAINT events_event_type_check;
