-- A user's latest sessions (voucher_grpc.domain.tendencies.recent), by which offers price what is
-- to come; empty where none has been stored yet, until the user's next session. The older version
-- reads and writes the other columns as before.
ALTER TABLE tendencies ADD COLUMN recent bytea NOT NULL DEFAULT '';
