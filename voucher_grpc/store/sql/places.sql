-- upsert_location --
-- Replaces the whole location.
INSERT INTO locations (country_code, party_id, location_id, document, update_time)
VALUES ($1, $2, $3, $4, clock_timestamp())
ON CONFLICT (country_code, party_id, location_id)
DO UPDATE SET document = $4, update_time = clock_timestamp()

-- locations --
-- Those named by three arrays.
SELECT l.document, l.update_time
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (country_code, party_id, location_id)
JOIN locations l USING (country_code, party_id, location_id)

-- list_locations --
-- A page, of a country or an operator if they are given.
SELECT document, update_time
FROM locations
WHERE (country_code, party_id, location_id) > ($1, $2, $3)
    AND ($4 = '' OR country_code = $4) AND ($5 = '' OR party_id = $5)
ORDER BY country_code, party_id, location_id
LIMIT $6

-- take_default --
-- There is one default tariff for a country and currency; the newest wins.
UPDATE tariffs SET default_for_country = false
WHERE country_code = $1 AND currency_code = $2 AND default_for_country

-- upsert_tariff --
-- Replaces the whole tariff.
INSERT INTO tariffs
    (country_code, party_id, tariff_id, currency_code, default_for_country, document, update_time)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp())
ON CONFLICT (country_code, party_id, tariff_id) DO UPDATE
SET currency_code = $4, default_for_country = $5, document = $6, update_time = clock_timestamp()

-- tariff --
-- One tariff.
SELECT document, default_for_country, update_time
FROM tariffs WHERE country_code = $1 AND party_id = $2 AND tariff_id = $3

-- list_tariffs --
-- A page, of a country or an operator if they are given.
SELECT document, default_for_country, update_time
FROM tariffs
WHERE (country_code, party_id, tariff_id) > ($1, $2, $3)
    AND ($4 = '' OR country_code = $4) AND ($5 = '' OR party_id = $5)
ORDER BY country_code, party_id, tariff_id
LIMIT $6
