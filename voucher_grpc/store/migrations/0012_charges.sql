-- Charges at stations, and what they have of passes. The older version goes on: it reads no
-- charges; the new kinds of ledger entries and events are texts to it.
SET LOCAL lock_timeout = '5s';

-- content is a digest of the call that made the charge, capture_content one of its capture. tariff
-- is as at the authorization, bill is what the capture has said.
CREATE TABLE charges (
    user_id text NOT NULL,
    charge_id uuid NOT NULL,
    status text NOT NULL CHECK (
        status IN ('AUTHORIZED', 'CAPTURED', 'RELEASED', 'EXPIRED', 'REVERSED')
    ),
    content bytea NOT NULL,
    country_code text NOT NULL,
    party_id text NOT NULL,
    location_id text NOT NULL,
    evse_uid text NOT NULL,
    connector_id text NOT NULL,
    tariff text NOT NULL,
    time_zone text NOT NULL,
    tax_basis_points integer,
    authorize_time timestamptz NOT NULL,
    expire_time timestamptz,
    requested_energy_wh bigint NOT NULL,
    requested_duration_s bigint NOT NULL,
    requested_cost_micros bigint NOT NULL,
    pay_as_you_go boolean NOT NULL,
    named_pass uuid,
    condition text NOT NULL,
    session_id text NOT NULL DEFAULT '',
    cdr_id text NOT NULL DEFAULT '',
    capture_content bytea NOT NULL DEFAULT '',
    bill jsonb,
    PRIMARY KEY (user_id, charge_id),
    CONSTRAINT captures_have_a_bill CHECK (
        (status IN ('CAPTURED', 'REVERSED')) = (bill IS NOT NULL)
    )
);
-- An operator's CDR is captured once, and of a session one CDR that was not credited. Ids are the
-- same in whatever case.
CREATE UNIQUE INDEX charges_by_cdr
    ON charges (user_id, (lower(country_code || '*' || party_id || '*' || cdr_id)))
    WHERE cdr_id <> '';
CREATE UNIQUE INDEX charges_by_session
    ON charges (user_id, (lower(country_code || '*' || party_id || '*' || session_id)))
    WHERE status = 'CAPTURED';
-- Those with a reservation by the instant at which it ends.
CREATE INDEX charges_due ON charges (expire_time) WHERE status = 'AUTHORIZED';
CREATE INDEX charges_reserved ON charges (user_id, expire_time)
    WHERE status = 'AUTHORIZED';
CREATE INDEX charges_by_time ON charges (user_id, authorize_time DESC, charge_id);

-- What a charge has of a pass: reserved while it is authorized, taken once it is captured. Of
-- passes without a balance of energy (of_balance is false) the energy is counted only.
CREATE TABLE charge_passes (
    user_id text NOT NULL,
    charge_id uuid NOT NULL,
    pass_id uuid NOT NULL,
    place_in_order smallint NOT NULL,
    reserved_energy_wh bigint NOT NULL CHECK (reserved_energy_wh >= 0),
    reserved_sessions integer NOT NULL CHECK (reserved_sessions >= 0),
    energy_wh bigint NOT NULL CHECK (energy_wh >= 0),
    sessions integer NOT NULL CHECK (sessions >= 0),
    saved_micros bigint NOT NULL,
    of_balance boolean NOT NULL,
    PRIMARY KEY (user_id, charge_id, pass_id)
);
CREATE INDEX charge_passes_reserved ON charge_passes (user_id, pass_id)
    WHERE reserved_energy_wh > 0 OR reserved_sessions > 0;

-- What is left of a bundle, with what is reserved, once a charge was taken from it: offers are made
-- by that without a look at the ledger. NULL: nothing was taken, or it is no bundle.
ALTER TABLE passes ADD COLUMN left_energy_wh bigint, ADD COLUMN left_sessions integer;

-- The view of the older version with two columns more: what of the balance is reserved.
CREATE OR REPLACE VIEW passes_with_balance AS
SELECT
    p.user_id, p.pass_id, p.request_id, p.offer_digest, p.product_id, p.product_revision,
    p.vehicle_id, p.price_micros, p.currency_code, p.payment_reference, p.purchase_time,
    p.time_zone, p.start_time, p.end_time, p.first_use_before, p.hold_expire_time,
    p.confirm_time, p.close_time, p.closed_as, p.refund_micros,
    b.energy_wh AS balance_energy_wh, b.sessions AS balance_sessions, b.entries AS ledger_entries,
    b.reserved_energy_wh, b.reserved_sessions
FROM passes p
CROSS JOIN LATERAL (
    SELECT sum(e.energy_wh)::bigint AS energy_wh, sum(e.sessions)::integer AS sessions,
        count(*)::integer AS entries,
        coalesce(-sum(CASE WHEN e.kind IN ('RESERVATION', 'RELEASE') THEN e.energy_wh END), 0)::bigint
            AS reserved_energy_wh,
        coalesce(-sum(CASE WHEN e.kind IN ('RESERVATION', 'RELEASE') THEN e.sessions END), 0)::integer
            AS reserved_sessions
    FROM ledger_entries e
    WHERE e.user_id = p.user_id AND e.pass_id = p.pass_id
) b;

ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_kind_check;
ALTER TABLE ledger_entries
    ADD CONSTRAINT ledger_entries_kind_check CHECK (
        kind IN ('OPENING', 'CANCELLATION', 'RESERVATION', 'RELEASE', 'CAPTURE', 'REVERSAL')
    ) NOT VALID;
ALTER TABLE events DROP CONSTRAINT events_event_type_check;
ALTER TABLE events
    ADD CONSTRAINT events_event_type_check CHECK (
        event_type IN (
            'PASS_PURCHASED', 'PASS_HELD', 'PASS_LAPSED', 'PASS_CANCELLED', 'PASS_EXPIRED',
            'PASS_AUTHORIZED', 'PASS_CAPTURED', 'PASS_RELEASED', 'PASS_REVERSED', 'PASS_EXHAUSTED'
        )
    ) NOT VALID;
