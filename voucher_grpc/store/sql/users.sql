-- upsert_user --
-- Replaces all that is known of a user.
INSERT INTO users (user_id, time_zone, currency_code, language, country_code, create_time, update_time)
VALUES ($1, $2, $3, $4, $5, clock_timestamp(), clock_timestamp())
ON CONFLICT (user_id) DO UPDATE
SET time_zone = $2, currency_code = $3, language = $4, country_code = $5,
    update_time = clock_timestamp()
RETURNING user_id, time_zone, currency_code, language, country_code, create_time, update_time

-- user --
-- One user.
SELECT user_id, time_zone, currency_code, language, country_code, create_time, update_time
FROM users WHERE user_id = $1

-- lock_vehicles --
-- Of a user, who need not have a row anywhere; vehicles are registered one after the other.
SELECT pg_advisory_xact_lock(hashtextextended('vehicles of ' || $1, 0))

-- register_vehicle --
-- Replaces the profile, but never the user: without a vehicle_id for a foreign vehicle. A
-- new one only if the user has fewer than $4. After the lock, as a statement of its own: it
-- sees what committed while we waited.
WITH room AS (
    SELECT EXISTS (SELECT 1 FROM vehicles WHERE vehicle_id = $1)
        OR (SELECT count(*) FROM vehicles WHERE user_id = $2) < $4 AS is_left
), registered AS (
    INSERT INTO vehicles (vehicle_id, user_id, profile, create_time)
    SELECT $1, $2, $3, clock_timestamp() FROM room WHERE is_left
    ON CONFLICT (vehicle_id) DO UPDATE SET profile = $3
    WHERE vehicles.user_id = $2
    RETURNING vehicle_id, user_id, profile, create_time
)
SELECT room.is_left, registered.* FROM room LEFT JOIN registered ON true

-- vehicles --
-- A page of a user's vehicles.
SELECT vehicle_id, user_id, profile, create_time
FROM vehicles WHERE user_id = $1 AND vehicle_id > $2
ORDER BY vehicle_id LIMIT $3

-- deregister_vehicle --
-- Only the user's own.
DELETE FROM vehicles WHERE vehicle_id = $2 AND user_id = $1 RETURNING vehicle_id

-- owner_of_vehicle --
-- Whose a vehicle is.
SELECT user_id FROM vehicles WHERE vehicle_id = $1
