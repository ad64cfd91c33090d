-- EraseUser: one transaction under the user's locks, which are taken as purchases
-- (make_sequences) and sessions (make_tendencies) take them, in that order.

-- usable_passes --
-- How many passes are held, active or not started, one of them, and until when the last
-- is good. A statement of its own after the lock: it sees what committed while we waited.
SELECT count(*) AS passes, min(pass_id::text) AS pass_id,
    max(coalesce(end_time, first_use_before, hold_expire_time)) AS usable_until
FROM passes
WHERE user_id = $1 AND close_time IS NULL
    AND coalesce(end_time, first_use_before, hold_expire_time, 'infinity') > clock_timestamp()

-- open_holds --
-- What is held, and what was and has not been closed yet: it must not keep its place in
-- the stock under a name that nobody has.
SELECT p.*
FROM passes_with_balance p
WHERE p.user_id = $1
    AND p.hold_expire_time IS NOT NULL AND p.confirm_time IS NULL AND p.close_time IS NULL

-- keep_passes --
-- What the law of accounts keeps moves to the pseudonym: passes, ledger, charges, events. A
-- pass gets another random name, since the old one is made from the user_id; its
-- request_id and offer_digest are random too, the vehicle is forgotten. Moved, not
-- updated: user_id is what the tables are distributed by. The counts come back, so
-- that nothing is lost on the way. An event keeps its position in the stream: whoever
-- has read it is not told of it again under another name.
WITH taken AS (
    DELETE FROM passes WHERE user_id = $1
    RETURNING pass_id, product_id, product_revision, price_micros, currency_code,
        payment_reference, purchase_time, time_zone, start_time, end_time, first_use_before,
        hold_expire_time, confirm_time, close_time, closed_as, refund_micros, left_energy_wh,
        left_sessions
), renamed AS (
    SELECT taken.*, gen_random_uuid() AS new_pass_id FROM taken
), kept AS (
    INSERT INTO passes (
        user_id, pass_id, request_id, offer_digest, product_id, product_revision, vehicle_id,
        price_micros, currency_code, payment_reference, purchase_time, time_zone,
        start_time, end_time, first_use_before,
        hold_expire_time, confirm_time, close_time, closed_as, refund_micros, left_energy_wh,
        left_sessions
    )
    SELECT
        $2, new_pass_id, gen_random_uuid(), uuid_send(gen_random_uuid()), product_id,
        product_revision, '', price_micros, currency_code, payment_reference, purchase_time,
        time_zone, start_time, end_time, first_use_before,
        hold_expire_time, confirm_time, close_time, closed_as, refund_micros, left_energy_wh,
        left_sessions
    FROM renamed
    RETURNING 1
), taken_entries AS (
    DELETE FROM ledger_entries WHERE user_id = $1
    RETURNING pass_id, entry_number, kind, energy_wh, sessions, entry_time
), kept_entries AS (
    INSERT INTO ledger_entries (user_id, pass_id, entry_number, kind, energy_wh, sessions, entry_time)
    SELECT $2, r.new_pass_id, e.entry_number, e.kind, e.energy_wh, e.sessions, e.entry_time
    FROM taken_entries e JOIN renamed r USING (pass_id)
    RETURNING 1
), taken_events AS (
    DELETE FROM events WHERE user_id = $1
    RETURNING event_seq, event_type, pass_id, event_time, position
), kept_events AS (
    INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time, position)
    SELECT $2, e.event_seq, e.event_type, r.new_pass_id, e.event_time, e.position
    FROM taken_events e JOIN renamed r USING (pass_id)
    RETURNING 1
), taken_charges AS (
    DELETE FROM charges WHERE user_id = $1
    RETURNING *
), renamed_charges AS (
    SELECT taken_charges.*, gen_random_uuid() AS new_charge_id FROM taken_charges
), kept_charges AS (
    INSERT INTO charges (
        user_id, charge_id, status, content, country_code, party_id, location_id, evse_uid,
        connector_id, tariff, time_zone, tax_basis_points, authorize_time, expire_time,
        requested_energy_wh, requested_duration_s, requested_cost_micros, pay_as_you_go,
        named_pass, condition, session_id, cdr_id, capture_content, bill
    )
    SELECT
        $2, new_charge_id, status, '', country_code, party_id, location_id, evse_uid,
        connector_id, tariff, time_zone, tax_basis_points, authorize_time, expire_time,
        requested_energy_wh, requested_duration_s, requested_cost_micros, pay_as_you_go,
        NULL, condition, session_id, cdr_id, '', bill
    FROM renamed_charges
    RETURNING 1
), taken_uses AS (
    DELETE FROM charge_passes WHERE user_id = $1
    RETURNING *
), kept_uses AS (
    INSERT INTO charge_passes (
        user_id, charge_id, pass_id, place_in_order, reserved_energy_wh, reserved_sessions,
        energy_wh, sessions, saved_micros, of_balance
    )
    SELECT
        $2, c.new_charge_id, r.new_pass_id, u.place_in_order, u.reserved_energy_wh,
        u.reserved_sessions, u.energy_wh, u.sessions, u.saved_micros, u.of_balance
    FROM taken_uses u
    JOIN renamed_charges c USING (charge_id)
    JOIN renamed r USING (pass_id)
    RETURNING 1
), paid AS (
    UPDATE payment_references p SET user_id = $2, pass_id = r.new_pass_id
    FROM renamed r
    WHERE p.payment_reference = r.payment_reference
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM taken) AS passes,
    (SELECT count(*) FROM taken WHERE payment_reference <> '') AS payments,
    (SELECT count(*) FROM kept) AS kept_passes,
    (SELECT count(*) FROM paid) AS kept_references,
    (SELECT count(*) FROM taken_entries) AS entries,
    (SELECT count(*) FROM kept_entries) AS kept_entries,
    (SELECT count(*) FROM taken_events) AS events,
    (SELECT count(*) FROM kept_events) AS kept_events,
    (SELECT count(*) FROM taken_charges) AS charges,
    (SELECT count(*) FROM kept_charges) AS kept_charges,
    (SELECT count(*) FROM taken_uses) AS uses,
    (SELECT count(*) FROM kept_uses) AS kept_uses

-- keep_sequence --
-- What happens to a kept pass later is numbered after what has happened.
INSERT INTO user_sequences (user_id, last_event_seq)
SELECT $2, last_event_seq FROM user_sequences WHERE user_id = $1

-- forget --
-- All the rest, the rows that were locked among it.
WITH vehicles_gone AS (
    DELETE FROM vehicles WHERE user_id = $1 RETURNING 1
), tokens_gone AS (
    DELETE FROM tokens WHERE user_id = $1
), sessions_gone AS (
    DELETE FROM sessions WHERE user_id = $1 RETURNING 1
), cancelled_gone AS (
    DELETE FROM cancelled_sessions WHERE user_id = $1
), places_gone AS (
    DELETE FROM tendency_places WHERE user_id = $1
), tendency_gone AS (
    DELETE FROM tendencies WHERE user_id = $1
), user_gone AS (
    DELETE FROM users WHERE user_id = $1
), sequence_gone AS (
    DELETE FROM user_sequences WHERE user_id = $1
)
SELECT
    (SELECT count(*) FROM vehicles_gone) AS vehicles,
    (SELECT count(*) FROM sessions_gone) AS sessions
