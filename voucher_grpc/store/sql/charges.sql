-- Charges at stations. Every statement names the user, by whom all these tables are distributed.
-- Keys are looked up one by one, as in passes.sql: the transactions of these batches find their rows
-- by index.

-- charges --
-- The charges under these keys; those by the CDRs and sessions of these texts (party*id in small
-- letters); and those of the users whose reservation has ended by $6.
SELECT c.* FROM unnest($1::text[], $2::uuid[]) AS k (user_id, charge_id)
JOIN charges c USING (user_id, charge_id)
WHERE c.user_id = ANY($1)
UNION ALL
SELECT c.* FROM unnest($3::text[], $4::text[]) AS k (user_id, cdr)
JOIN charges c ON c.user_id = k.user_id
    AND lower(c.country_code || '*' || c.party_id || '*' || c.cdr_id) = k.cdr AND c.cdr_id <> ''
WHERE c.user_id = ANY($3)
UNION ALL
SELECT c.* FROM unnest($3::text[], $5::text[]) AS k (user_id, session)
JOIN charges c ON c.user_id = k.user_id
    AND lower(c.country_code || '*' || c.party_id || '*' || c.session_id) = k.session
    AND c.status = 'CAPTURED'
WHERE c.user_id = ANY($3)
UNION ALL
SELECT c.* FROM charges c
WHERE c.user_id = ANY($1) AND c.status = 'AUTHORIZED' AND c.expire_time <= $6

-- uses --
-- What charges have of passes.
SELECT u.user_id, u.charge_id, u.pass_id, u.reserved_energy_wh, u.reserved_sessions, u.energy_wh,
    u.sessions, u.saved_micros, u.of_balance
FROM unnest($1::text[], $2::uuid[]) AS k (user_id, charge_id)
JOIN charge_passes u USING (user_id, charge_id)
WHERE u.user_id = ANY($1)
ORDER BY u.user_id, u.charge_id, u.place_in_order

-- passes --
-- The users' passes that a charge which began at $2 or later can be used with: the open ones, and
-- those whose validity has ended since.
SELECT p.* FROM passes p
WHERE p.user_id = ANY($1::text[]) AND p.close_time IS NULL
UNION ALL
SELECT p.* FROM passes p
WHERE p.user_id = ANY($1::text[]) AND p.closed_as = 'EXPIRED' AND p.end_time > $2

-- known_passes --
-- Passes under these keys, whatever has become of them.
SELECT p.*
FROM unnest($1::text[], $2::uuid[]) AS k (user_id, pass_id)
JOIN passes p USING (user_id, pass_id)
WHERE p.user_id = ANY($1)

-- balances --
-- The sums of the ledgers of passes, and what of it is reserved.
SELECT e.user_id, e.pass_id, sum(e.energy_wh)::bigint AS balance_energy_wh,
    sum(e.sessions)::integer AS balance_sessions, count(*)::integer AS ledger_entries,
    coalesce(-sum(e.energy_wh) FILTER (WHERE e.kind IN ('RESERVATION', 'RELEASE')), 0)::bigint
        AS reserved_energy_wh,
    coalesce(-sum(e.sessions) FILTER (WHERE e.kind IN ('RESERVATION', 'RELEASE')), 0)::integer
        AS reserved_sessions
FROM unnest($1::text[], $2::uuid[]) AS k (user_id, pass_id)
JOIN ledger_entries e USING (user_id, pass_id)
WHERE e.user_id = ANY($1)
GROUP BY e.user_id, e.pass_id

-- write --
-- Charges that are new or have changed, with all that follows: what they have of passes ($24 to
-- $33), ledger entries ($34 to $39), events ($41 to $44) at $40, and what has become of passes
-- ($45 to $48, $50 and $51); $49 belongs to the charges. All or nothing; the counts come back,
-- because an UPDATE of no row is no error to Postgres.
WITH input AS (
    SELECT * FROM unnest(
        $1::text[], $2::uuid[], $3::text[], $4::bytea[], $5::text[], $6::text[],
        $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::integer[],
        $13::timestamptz[], $14::timestamptz[], $15::bigint[], $16::bigint[], $17::bigint[],
        $18::boolean[], $19::uuid[], $20::text[], $21::text[], $22::bytea[], $23::jsonb[],
        $49::text[]
    ) AS i (
        user_id, charge_id, status, content, country_code, party_id, location_id, evse_uid,
        connector_id, tariff, time_zone, tax_basis_points, authorize_time, expire_time,
        requested_energy_wh, requested_duration_s, requested_cost_micros, pay_as_you_go,
        named_pass, session_id, cdr_id, capture_content, bill, condition
    )
), written AS (
    INSERT INTO charges AS c (
        user_id, charge_id, status, content, country_code, party_id, location_id, evse_uid,
        connector_id, tariff, time_zone, tax_basis_points, authorize_time, expire_time,
        requested_energy_wh, requested_duration_s, requested_cost_micros, pay_as_you_go,
        named_pass, session_id, cdr_id, capture_content, bill, condition
    )
    SELECT
        user_id, charge_id, status, content, country_code, party_id, location_id, evse_uid,
        connector_id, tariff, time_zone, tax_basis_points, authorize_time, expire_time,
        requested_energy_wh, requested_duration_s, requested_cost_micros, pay_as_you_go,
        named_pass, session_id, cdr_id, capture_content, bill, condition
    FROM input
    ON CONFLICT (user_id, charge_id) DO UPDATE SET
        status = excluded.status, expire_time = excluded.expire_time,
        session_id = excluded.session_id, cdr_id = excluded.cdr_id,
        capture_content = excluded.capture_content, bill = excluded.bill
    RETURNING 1
), used AS (
    INSERT INTO charge_passes AS u (
        user_id, charge_id, pass_id, place_in_order, reserved_energy_wh, reserved_sessions,
        energy_wh, sessions, saved_micros, of_balance
    )
    SELECT * FROM unnest(
        $24::text[], $25::uuid[], $26::uuid[], $27::smallint[], $28::bigint[],
        $29::integer[], $30::bigint[], $31::integer[], $32::bigint[], $33::boolean[]
    )
    ON CONFLICT (user_id, charge_id, pass_id) DO UPDATE SET
        place_in_order = excluded.place_in_order,
        reserved_energy_wh = excluded.reserved_energy_wh,
        reserved_sessions = excluded.reserved_sessions, energy_wh = excluded.energy_wh,
        sessions = excluded.sessions, saved_micros = excluded.saved_micros,
        of_balance = excluded.of_balance
), entered AS (
    INSERT INTO ledger_entries (user_id, pass_id, entry_number, kind, energy_wh, sessions, entry_time)
    SELECT e.*, $40::timestamptz FROM unnest(
        $34::text[], $35::uuid[], $36::integer[], $37::text[], $38::bigint[], $39::integer[]
    ) AS e
), told AS (
    INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time)
    SELECT e.*, $40::timestamptz
    FROM unnest($41::text[], $42::bigint[], $43::text[], $44::uuid[]) AS e
), numbered AS (
    UPDATE user_sequences s SET last_event_seq = m.event_seq
    FROM (
        SELECT user_id, max(event_seq) AS event_seq
        FROM unnest($41::text[], $42::bigint[]) AS e (user_id, event_seq) GROUP BY user_id
    ) m
    WHERE s.user_id = m.user_id AND s.user_id = ANY($41::text[])
    RETURNING 1
), changed AS (
    UPDATE passes p
    SET start_time = k.start_time, end_time = k.end_time,
        first_use_before = CASE WHEN k.start_time IS NULL THEN p.first_use_before END,
        left_energy_wh = k.left_energy_wh, left_sessions = k.left_sessions
    FROM unnest(
        $45::text[], $46::uuid[], $47::timestamptz[], $48::timestamptz[], $50::bigint[],
        $51::integer[]
    ) AS k (user_id, pass_id, start_time, end_time, left_energy_wh, left_sessions)
    WHERE p.user_id = k.user_id AND p.pass_id = k.pass_id AND p.user_id = ANY($45::text[])
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM written) AS charges,
    (SELECT count(*) FROM numbered) AS users,
    (SELECT count(*) FROM changed) AS passes

-- due --
-- Charges whose reservation has ended and has not been given back, over all users.
SELECT user_id FROM charges
WHERE status = 'AUTHORIZED' AND expire_time <= clock_timestamp()
ORDER BY expire_time
LIMIT $1

-- charge --
-- One charge.
SELECT c.* FROM charges c WHERE c.user_id = $1 AND c.charge_id = $2

-- list_charges --
-- A page, the newest first.
SELECT c.* FROM charges c
WHERE c.user_id = $1
    AND ($2::timestamptz IS NULL OR c.authorize_time < $2
        OR (c.authorize_time = $2 AND c.charge_id > $3))
ORDER BY c.authorize_time DESC, c.charge_id
LIMIT $4

-- reserved --
-- Whether anything is reserved on these passes.
SELECT u.user_id, u.pass_id
FROM unnest($1::text[], $2::uuid[]) AS k (user_id, pass_id)
JOIN charge_passes u USING (user_id, pass_id)
WHERE u.user_id = ANY($1)
    AND (u.reserved_energy_wh > 0 OR u.reserved_sessions > 0)
