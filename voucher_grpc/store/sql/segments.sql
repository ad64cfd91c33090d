-- page_of_members --
-- Users after one, with the country they declared or charge in most, and the type of
-- their first vehicle. The page is cut first: a plan for all of them would read every
-- user for each page.
SELECT t.user_id, t.sessions, t.first_session_time, t.last_session_time, t.state, t.forecast,
    t.recent,
    t.profile_type, coalesce(nullif(u.country_code, ''), p.country_code, '') AS country_code,
    coalesce(v.profile ->> 'type', '') AS vehicle_type, clock_timestamp() AS database_time
FROM (SELECT * FROM tendencies WHERE user_id > $1 ORDER BY user_id LIMIT 500) t
LEFT JOIN LATERAL (
    SELECT country_code FROM users WHERE users.user_id = t.user_id OFFSET 0
) u ON true
LEFT JOIN LATERAL (
    SELECT country_code FROM tendency_places
    WHERE tendency_places.user_id = t.user_id
    ORDER BY energy_weight DESC LIMIT 1
) p ON true
LEFT JOIN LATERAL (
    SELECT profile FROM vehicles
    WHERE vehicles.user_id = t.user_id
    ORDER BY create_time, vehicle_id LIMIT 1
) v ON true
ORDER BY t.user_id

-- forget_segments --
-- Before all are written anew.
DELETE FROM segments

-- write_segments --
-- All of them.
INSERT INTO segments (country_code, vehicle_type, profile_type, users, energy_kwh, hours)
VALUES ($1, $2, $3, $4, $5, $6)

-- segments --
-- The largest first, should there be more than a snapshot takes.
SELECT country_code, vehicle_type, profile_type, users, energy_kwh, hours
FROM segments ORDER BY users DESC, country_code, vehicle_type, profile_type LIMIT $1
