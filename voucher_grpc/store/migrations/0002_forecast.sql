-- Scenarios of a user's coming month, predetermined when sessions arrive
-- (voucher_grpc.domain.tendencies.forecast); empty where none has been made yet. The older
-- version reads and writes the other columns as before.
ALTER TABLE tendencies ADD COLUMN forecast bytea NOT NULL DEFAULT '';

-- Parameters fitted by an operator; without an active row those that are shipped count.
CREATE TABLE forecast_parameters (
    version text PRIMARY KEY,
    data bytea NOT NULL,
    active boolean NOT NULL,
    install_time timestamptz NOT NULL
);
CREATE UNIQUE INDEX forecast_parameters_one_active ON forecast_parameters (active) WHERE active;
