-- knowledge --
-- All that requests need to know, a row for each, whether its user is known or not. A
-- vehicle that is registered says whose it is. What concerns the whole batch (clock,
-- versions, what is sold out) stands in the first row only, so that it is not sent once
-- for each request.
SELECT
    k.position, r.user_id, v.user_id AS vehicle_user_id, v.profile::text AS vehicle_profile,
    u.user_id IS NOT NULL AS known,
    u.time_zone, u.currency_code, u.language, u.country_code,
    t.sessions, t.first_session_time, t.last_session_time, t.state, t.forecast, t.recent, t.profile_type,
    p.country_codes, p.party_ids, p.location_ids, p.evse_uids, p.weights,
    b.product_ids, b.purchase_times, b.days_to_start, b.days_to_end, b.unused, b.amounts_left,
    CASE WHEN k.position = 1 THEN clock_timestamp() END AS database_time,
    CASE WHEN k.position = 1 THEN
        (SELECT version FROM versions WHERE name = 'catalogue')
    END AS catalogue_version,
    CASE WHEN k.position = 1 THEN
        (SELECT version FROM versions WHERE name = 'locations')
    END AS locations_version,
    CASE WHEN k.position = 1 THEN
        ARRAY(SELECT product_id FROM product_stock WHERE sold_out)
    END AS sold_out
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (user_id, vehicle_id, position)
LEFT JOIN vehicles v USING (vehicle_id)
CROSS JOIN LATERAL (SELECT coalesce(v.user_id, k.user_id) AS user_id) r
LEFT JOIN users u ON u.user_id = r.user_id
LEFT JOIN tendencies t ON t.user_id = r.user_id
LEFT JOIN LATERAL (
    SELECT
        array_agg(x.country_code) AS country_codes, array_agg(x.party_id) AS party_ids,
        array_agg(x.location_id) AS location_ids, array_agg(x.evse_uid) AS evse_uids,
        array_agg(x.energy_weight) AS weights
    FROM (
        SELECT country_code, party_id, location_id, evse_uid, energy_weight
        FROM tendency_places
        WHERE tendency_places.user_id = r.user_id
        ORDER BY energy_weight DESC, country_code, party_id, location_id, evse_uid
        LIMIT 8
    ) x
) p ON t.user_id IS NOT NULL
LEFT JOIN LATERAL (
    SELECT
        array_agg(x.product_id) AS product_ids,
        array_agg(x.purchase_time) AS purchase_times,
        array_agg(
            extract(epoch FROM x.start_time - clock_timestamp()) / 86400
        )::double precision[] AS days_to_start,
        array_agg(
            extract(epoch FROM coalesce(x.end_time, x.first_use_before) - clock_timestamp())
            / 86400
        )::double precision[] AS days_to_end,
        array_agg(x.end_time IS NULL) AS unused,
        array_agg(coalesce(x.left_energy_wh, x.left_sessions)) AS amounts_left
    FROM (
        SELECT product_id, purchase_time, start_time, end_time, first_use_before, left_energy_wh,
            left_sessions
        FROM passes
        WHERE passes.user_id = r.user_id
            AND (closed_as IS NULL OR closed_as = 'EXPIRED')
            AND (
                hold_expire_time IS NULL OR confirm_time IS NOT NULL
                OR hold_expire_time > clock_timestamp()
            )
        ORDER BY purchase_time DESC
        LIMIT 200
    ) x
) b ON true
