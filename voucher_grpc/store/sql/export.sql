-- What ExportUser reads beside what other calls read too. Pages by key, since a
-- user's rows may change between two pages.

-- places --
-- All places of a tendency with their shares of the energy, not only the greatest.
SELECT country_code, party_id, location_id, evse_uid, share
FROM (
    SELECT country_code, party_id, location_id, evse_uid,
        coalesce(energy_weight / nullif(sum(energy_weight) OVER (), 0), 0) AS share
    FROM tendency_places
    WHERE user_id = $1
) p
WHERE (country_code, party_id, location_id, evse_uid) > ($2, $3, $4, $5)
ORDER BY country_code, party_id, location_id, evse_uid
LIMIT $6

-- sessions --
-- By session_id, as the primary key has them.
SELECT user_id, session_id, country_code, party_id, location_id, evse_uid, connector_id,
    time_zone, start_time, end_time, energy_wh
FROM sessions
WHERE user_id = $1 AND session_id > $2
ORDER BY session_id
LIMIT $3

-- cancelled_sessions --
-- By session_id, as the primary key has them.
SELECT session_id FROM cancelled_sessions
WHERE user_id = $1 AND session_id > $2
ORDER BY session_id
LIMIT $3

-- ledger_entries --
-- The key is compared as text, so that nothing in a page token can fail to be one.
SELECT pass_id::text AS pass_id, entry_number, kind, energy_wh, sessions, entry_time
FROM ledger_entries
WHERE user_id = $1 AND (pass_id::text, lpad(entry_number::text, 10, '0')) > ($2, $3)
ORDER BY pass_id::text, lpad(entry_number::text, 10, '0')
LIMIT $4

-- events --
-- In the user's order.
SELECT user_id, event_seq, event_type, pass_id, event_time
FROM events
WHERE user_id = $1 AND lpad(event_seq::text, 19, '0') > $2
ORDER BY lpad(event_seq::text, 19, '0')
LIMIT $3

-- payment_references --
-- The table is found by its reference only; a user's references are those of the passes.
SELECT r.payment_reference, r.pass_id::text AS pass_id
FROM passes p
JOIN payment_references r USING (payment_reference)
WHERE p.user_id = $1 AND r.user_id = $1 AND payment_reference > $2
ORDER BY payment_reference
LIMIT $3

-- user_sequences --
-- How many events the user has had.
SELECT last_event_seq FROM user_sequences WHERE user_id = $1
