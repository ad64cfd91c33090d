-- Charges at stations. Every statement names bucket and user, by which all these tables are
-- distributed (voucher_grpc.store.placement). Keys are looked up one by one, as in passes.sql: the
-- transactions of these batches find their rows by index.

-- charges --
-- The charges under these keys; those by the CDRs and sessions of these texts (party*id in small
-- letters); and those of the users whose reservation has ended by $8.
SELECT c.* FROM unnest($1::smallint[], $2::text[], $3::uuid[]) AS k (bucket, user_id, charge_id)
JOIN charges c USING (bucket, user_id, charge_id)
WHERE c.bucket = ANY($1) AND c.user_id = ANY($2)
UNION ALL
SELECT c.* FROM unnest($4::smallint[], $5::text[], $6::text[]) AS k (bucket, user_id, cdr)
JOIN charges c ON c.bucket = k.bucket AND c.user_id = k.user_id
    AND lower(c.country_code || '*' || c.party_id || '*' || c.cdr_id) = k.cdr AND c.cdr_id <> ''
WHERE c.bucket = ANY($4) AND c.user_id = ANY($5)
UNION ALL
SELECT c.* FROM unnest($4::smallint[], $5::text[], $7::text[]) AS k (bucket, user_id, session)
JOIN charges c ON c.bucket = k.bucket AND c.user_id = k.user_id
    AND lower(c.country_code || '*' || c.party_id || '*' || c.session_id) = k.session
    AND c.status = 'CAPTURED'
WHERE c.bucket = ANY($4) AND c.user_id = ANY($5)
UNION ALL
SELECT c.* FROM charges c
WHERE c.bucket = ANY($1) AND c.user_id = ANY($2) AND c.status = 'AUTHORIZED' AND c.expire_time <= $8

-- uses --
-- What charges have of passes.
SELECT u.user_id, u.charge_id, u.pass_id, u.reserved_energy_wh, u.reserved_sessions, u.energy_wh,
    u.sessions, u.saved_micros, u.of_balance
FROM unnest($1::smallint[], $2::text[], $3::uuid[]) AS k (bucket, user_id, charge_id)
JOIN charge_passes u USING (bucket, user_id, charge_id)
WHERE u.bucket = ANY($1) AND u.user_id = ANY($2)
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
-- Charges that are new or have changed, with all that follows: what they have of passes ($25 to
-- $35), ledger entries ($36 to $41), events ($43 to $46) at $42, and what has become of passes
-- ($47 to $50, $52 and $53); $51 belongs to the charges. All or nothing; the counts come back, because an UPDATE of no row
-- is no error to Postgres.
WITH input AS (
    SELECT * FROM unnest(
        $1::smallint[], $2::text[], $3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::integer[],
        $14::timestamptz[], $15::timestamptz[], $16::bigint[], $17::bigint[], $18::bigint[],
        $19::boolean[], $20::uuid[], $21::text[], $22::text[], $23::bytea[], $24::jsonb[],
        $51::text[]
    ) AS i (
        bucket, user_id, charge_id, status, content, country_code, party_id, location_id, evse_uid,
        connector_id, tariff, time_zone, tax_basis_points, authorize_time, expire_time,
        requested_energy_wh, requested_duration_s, requested_cost_micros, pay_as_you_go,
        named_pass, session_id, cdr_id, capture_content, bill, condition
    )
), written AS (
    INSERT INTO charges AS c (
        bucket, user_id, charge_id, status, content, country_code, party_id, location_id, evse_uid,
        connector_id, tariff, time_zone, tax_basis_points, authorize_time, expire_time,
        requested_energy_wh, requested_duration_s, requested_cost_micros, pay_as_you_go,
        named_pass, session_id, cdr_id, capture_content, bill, condition
    )
    SELECT
        bucket, user_id, charge_id, status, content, country_code, party_id, location_id, evse_uid,
        connector_id, tariff, time_zone, tax_basis_points, authorize_time, expire_time,
        requested_energy_wh, requested_duration_s, requested_cost_micros, pay_as_you_go,
        named_pass, session_id, cdr_id, capture_content, bill, condition
    FROM input
    ON CONFLICT (bucket, user_id, charge_id) DO UPDATE SET
        status = excluded.status, expire_time = excluded.expire_time,
        session_id = excluded.session_id, cdr_id = excluded.cdr_id,
        capture_content = excluded.capture_content, bill = excluded.bill
    RETURNING 1
), used AS (
    INSERT INTO charge_passes AS u (
        bucket, user_id, charge_id, pass_id, place_in_order, reserved_energy_wh, reserved_sessions,
        energy_wh, sessions, saved_micros, of_balance
    )
    SELECT * FROM unnest(
        $25::smallint[], $26::text[], $27::uuid[], $28::uuid[], $29::smallint[], $30::bigint[],
        $31::integer[], $32::bigint[], $33::integer[], $34::bigint[], $35::boolean[]
    )
    ON CONFLICT (bucket, user_id, charge_id, pass_id) DO UPDATE SET
        place_in_order = excluded.place_in_order,
        reserved_energy_wh = excluded.reserved_energy_wh,
        reserved_sessions = excluded.reserved_sessions, energy_wh = excluded.energy_wh,
        sessions = excluded.sessions, saved_micros = excluded.saved_micros,
        of_balance = excluded.of_balance
), entered AS (
    INSERT INTO ledger_entries (user_id, pass_id, entry_number, kind, energy_wh, sessions, entry_time)
    SELECT e.*, $42::timestamptz FROM unnest(
        $36::text[], $37::uuid[], $38::integer[], $39::text[], $40::bigint[], $41::integer[]
    ) AS e
), told AS (
    INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time)
    SELECT e.*, $42::timestamptz
    FROM unnest($43::text[], $44::bigint[], $45::text[], $46::uuid[]) AS e
), numbered AS (
    UPDATE user_sequences s SET last_event_seq = m.event_seq
    FROM (
        SELECT user_id, max(event_seq) AS event_seq
        FROM unnest($43::text[], $44::bigint[]) AS e (user_id, event_seq) GROUP BY user_id
    ) m
    WHERE s.user_id = m.user_id AND s.user_id = ANY($43::text[])
    RETURNING 1
), changed AS (
    UPDATE passes p
    SET start_time = k.start_time, end_time = k.end_time,
        first_use_before = CASE WHEN k.start_time IS NULL THEN p.first_use_before END,
        left_energy_wh = k.left_energy_wh, left_sessions = k.left_sessions
    FROM unnest(
        $47::text[], $48::uuid[], $49::timestamptz[], $50::timestamptz[], $52::bigint[],
        $53::integer[]
    ) AS k (user_id, pass_id, start_time, end_time, left_energy_wh, left_sessions)
    WHERE p.user_id = k.user_id AND p.pass_id = k.pass_id AND p.user_id = ANY($47::text[])
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
SELECT c.* FROM charges c WHERE c.bucket = $1 AND c.user_id = $2 AND c.charge_id = $3

-- list_charges --
-- A page, the newest first.
SELECT c.* FROM charges c
WHERE c.bucket = $1 AND c.user_id = $2
    AND ($3::timestamptz IS NULL OR c.authorize_time < $3
        OR (c.authorize_time = $3 AND c.charge_id > $4))
ORDER BY c.authorize_time DESC, c.charge_id
LIMIT $5

-- reserved --
-- Whether anything is reserved on these passes.
SELECT u.user_id, u.pass_id
FROM unnest($1::smallint[], $2::text[], $3::uuid[]) AS k (bucket, user_id, pass_id)
JOIN charge_passes u USING (bucket, user_id, pass_id)
WHERE u.bucket = ANY($1) AND u.user_id = ANY($2)
    AND (u.reserved_energy_wh > 0 OR u.reserved_sessions > 0)
