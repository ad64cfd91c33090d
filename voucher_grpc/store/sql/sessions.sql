-- make_tendencies --
-- Every user has a row, and it is locked: as make_sequences does it, and for the
-- same reason. In order, as all locks are taken.
INSERT INTO tendencies (user_id)
SELECT user_id FROM unnest($1::text[]) AS k (user_id) ORDER BY user_id
ON CONFLICT (user_id) DO UPDATE SET sessions = tendencies.sessions WHERE false

-- lock_tendencies --
-- Sessions of one user are added one batch after the other.
SELECT user_id, sessions, first_session_time, last_session_time, state, forecast, recent
FROM tendencies WHERE user_id = ANY($1::text[])
ORDER BY user_id FOR UPDATE

-- time_zones --
-- Of the locations named by three arrays, ids in small letters, as they are now. Looked up one
-- by one (as in passes.sql).
SELECT k.country_code, k.party_id, k.location_id, l.spelt_id, l.time_zone
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (country_code, party_id, location_id)
CROSS JOIN LATERAL (
    SELECT o.location_id AS spelt_id, o.document->>'time_zone' AS time_zone FROM locations o
    WHERE lower(o.country_code || '*' || o.party_id || '*' || o.location_id)
        = lower(k.country_code || '*' || k.party_id || '*' || k.location_id)
    ORDER BY o.update_time DESC LIMIT 1
) l

-- stored_sessions --
-- Those of the sessions sent that are known.
SELECT s.user_id, s.session_id, s.country_code, s.party_id, s.location_id, s.evse_uid, s.connector_id,
    s.time_zone, s.start_time, s.end_time, s.energy_wh
FROM unnest($1::text[], $2::text[]) AS k (user_id, session_id)
JOIN sessions s USING (user_id, session_id)

-- users_sessions --
-- All sessions of some users, to rebuild their tendencies after a correction.
SELECT s.user_id, s.session_id, s.country_code, s.party_id, s.location_id, s.evse_uid, s.connector_id,
    s.time_zone, s.start_time, s.end_time, s.energy_wh
FROM sessions s WHERE user_id = ANY($1::text[])

-- write_sessions --
-- New and corrected ones alike; which is which has been decided under the lock.
INSERT INTO sessions (
    user_id, session_id, country_code, party_id, location_id, evse_uid, connector_id,
    time_zone, start_time, end_time, energy_wh
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::timestamptz[], $10::timestamptz[], $11::bigint[]
)
ON CONFLICT (user_id, session_id) DO UPDATE SET
    country_code = excluded.country_code, party_id = excluded.party_id,
    location_id = excluded.location_id, evse_uid = excluded.evse_uid,
    connector_id = excluded.connector_id, time_zone = excluded.time_zone,
    start_time = excluded.start_time, end_time = excluded.end_time,
    energy_wh = excluded.energy_wh

-- write_tendencies --
-- The new sums.
UPDATE tendencies t
SET sessions = n.sessions, first_session_time = n.first_session_time,
    last_session_time = n.last_session_time, state = n.state, forecast = n.forecast,
    recent = n.recent
FROM unnest(
    $1::text[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::bytea[], $6::bytea[],
    $7::bytea[]
) AS n (user_id, sessions, first_session_time, last_session_time, state, forecast, recent)
WHERE t.user_id = n.user_id

-- page_of_users --
-- Users after one, for a rebuild of all.
SELECT user_id FROM tendencies WHERE user_id > $1 ORDER BY user_id LIMIT 200

-- forget_places --
-- Before a rebuild.
DELETE FROM tendency_places WHERE user_id = ANY($1::text[])

-- add_places --
-- Weights are sums, so they are added to.
INSERT INTO tendency_places (
    user_id, country_code, party_id, location_id, evse_uid, energy_weight
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::double precision[]
)
ON CONFLICT (user_id, country_code, party_id, location_id, evse_uid)
DO UPDATE SET energy_weight = tendency_places.energy_weight + excluded.energy_weight

-- tendency --
-- One user's tendency with its greatest places.
SELECT t.user_id, t.sessions, t.first_session_time, t.last_session_time, t.state, t.forecast,
    t.recent, t.profile_type,
    p.country_codes, p.party_ids, p.location_ids, p.evse_uids, p.weights, p.total_weight,
    clock_timestamp() AS database_time
FROM tendencies t
CROSS JOIN LATERAL (
    SELECT
        array_agg(x.country_code) AS country_codes, array_agg(x.party_id) AS party_ids,
        array_agg(x.location_id) AS location_ids, array_agg(x.evse_uid) AS evse_uids,
        array_agg(x.energy_weight) AS weights, max(x.total_weight) AS total_weight
    FROM (
        SELECT country_code, party_id, location_id, evse_uid, energy_weight,
            sum(energy_weight) OVER () AS total_weight
        FROM tendency_places
        WHERE tendency_places.user_id = t.user_id
        ORDER BY energy_weight DESC, country_code, party_id, location_id, evse_uid
        LIMIT 8
    ) x
) p
WHERE t.user_id = $1 AND (t.sessions > 0 OR t.profile_type <> '')

-- declare_preferences --
-- The wishes replace those declared before.
INSERT INTO tendencies (user_id, profile_type) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET profile_type = $2

-- cancelled_sessions --
-- Which of some sessions do not count; their ids are stored in small letters.
SELECT s.user_id, s.session_id
FROM (
    SELECT DISTINCT user_id, lower(session_id) AS session_id
    FROM unnest($1::text[], $2::text[]) AS u (user_id, session_id)
) k
JOIN cancelled_sessions s USING (user_id, session_id)
WHERE s.user_id = ANY($1::text[])

-- cancel_sessions --
-- From now on they do not count.
INSERT INTO cancelled_sessions (user_id, session_id)
SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT (user_id, session_id) DO NOTHING

-- delete_sessions --
-- Those that were there come back.
DELETE FROM sessions s
USING unnest($1::text[], $2::text[]) AS k (user_id, session_id)
WHERE s.user_id = ANY($1::text[])
    AND (s.user_id, s.session_id) = (k.user_id, k.session_id)
RETURNING s.user_id, s.session_id

-- forget_cancelled --
-- They can be recorded again.
DELETE FROM cancelled_sessions s
USING unnest($1::text[], $2::text[]) AS k (user_id, session_id)
WHERE s.user_id = ANY($1::text[])
    AND (s.user_id, s.session_id) = (k.user_id, lower(k.session_id))

-- delete_cancelled --
-- The same by ids in small letters: the rows of some users are looked through.
DELETE FROM sessions s
USING unnest($1::text[], $2::text[]) AS k (user_id, session_id)
WHERE s.user_id = ANY($1::text[])
    AND (s.user_id, lower(s.session_id)) = (k.user_id, k.session_id)
RETURNING s.user_id, s.session_id
