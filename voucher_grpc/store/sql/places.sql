-- lock_locations --
-- When those named by three arrays, ids in small letters, were last changed by their operators.
-- They stay locked, in order, so that nobody replaces one meanwhile by an older or a newer one.
SELECT k.country_code, k.party_id, k.location_id,
    (l.document ->> 'last_updated')::timestamptz AS last_updated
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (country_code, party_id, location_id)
JOIN locations l
    ON lower(l.country_code || '*' || l.party_id || '*' || l.location_id)
        = lower(k.country_code || '*' || k.party_id || '*' || k.location_id)
ORDER BY l.country_code, l.party_id, l.location_id
FOR UPDATE OF l

-- stored_tariffs --
-- The same of tariffs, which the lock of the version keeps from changing.
SELECT k.country_code, k.party_id, k.tariff_id,
    (t.document ->> 'last_updated')::timestamptz AS last_updated
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (country_code, party_id, tariff_id)
JOIN tariffs t
    ON lower(t.country_code || '*' || t.party_id || '*' || t.tariff_id)
        = lower(k.country_code || '*' || k.party_id || '*' || k.tariff_id)

-- upsert_locations --
-- Replaces whole locations; a row comes back for each that is new or has changed. One that has
-- come to be since they were locked is not replaced by an older one.
INSERT INTO locations (country_code, party_id, location_id, document, update_time)
SELECT k.country_code, k.party_id, k.location_id, k.document::jsonb, clock_timestamp()
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    AS k (country_code, party_id, location_id, document)
ON CONFLICT (country_code, party_id, location_id) DO UPDATE
SET document = excluded.document, update_time = excluded.update_time
WHERE locations.document IS DISTINCT FROM excluded.document
    AND coalesce((excluded.document ->> 'last_updated')::timestamptz
        >= (locations.document ->> 'last_updated')::timestamptz, true)
RETURNING country_code, party_id, location_id

-- delete_respelt_locations --
-- The same ones, as they were spelt before.
DELETE FROM locations l
USING unnest($1::text[], $2::text[], $3::text[]) AS k (country_code, party_id, location_id)
WHERE lower(l.country_code || '*' || l.party_id || '*' || l.location_id)
        = lower(k.country_code || '*' || k.party_id || '*' || k.location_id)
    AND l.location_id <> k.location_id
RETURNING l.location_id

-- delete_respelt_tariffs --
-- The same ones, as they were spelt before.
DELETE FROM tariffs t
USING unnest($1::text[], $2::text[], $3::text[]) AS k (country_code, party_id, tariff_id)
WHERE lower(t.country_code || '*' || t.party_id || '*' || t.tariff_id)
        = lower(k.country_code || '*' || k.party_id || '*' || k.tariff_id)
    AND t.tariff_id <> k.tariff_id
RETURNING t.tariff_id

-- mark_locations --
-- Those just written, once their version is known: it is moved last, so that one who waits
-- for a location does not keep all others from writing theirs.
UPDATE locations l SET change_version = $4
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (country_code, party_id, location_id)
WHERE (l.country_code, l.party_id, l.location_id) = (k.country_code, k.party_id, k.location_id)

-- changed_locations --
-- The keys of those that have changed since a version, up to a number.
SELECT country_code, party_id, location_id
FROM locations WHERE change_version > $1 AND change_version > 0
LIMIT $2

-- locations --
-- Those named by three arrays, looked up one by one (as in passes.sql). A location may have
-- 2 MB: its EVSEs come apart from each other and as text, so that they are read one by one.
SELECT l.document - 'evses' AS head,
    ARRAY(
        SELECT e.evse::text
        FROM jsonb_array_elements(l.document -> 'evses') WITH ORDINALITY AS e (evse, number)
        ORDER BY e.number
    ) AS evses,
    l.update_time
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (country_code, party_id, location_id)
CROSS JOIN LATERAL (
    SELECT o.document, o.update_time FROM locations o
    WHERE lower(o.country_code || '*' || o.party_id || '*' || o.location_id)
        = lower(k.country_code || '*' || k.party_id || '*' || k.location_id)
    ORDER BY o.update_time DESC LIMIT 1
) l

-- list_locations --
-- A slice of a page, of a country or an operator if they are given: at most $6 rows and, as they
-- are stored, $7 bytes, but one row; `found` is how many there would be without the bytes. The
-- size is read without the document, and only those documents that come back are read.
SELECT document - 'evses' AS head,
    ARRAY(
        SELECT e.evse::text
        FROM jsonb_array_elements(document -> 'evses') WITH ORDINALITY AS e (evse, number)
        ORDER BY e.number
    ) AS evses,
    update_time, found
FROM (
    SELECT country_code, party_id, location_id, document, update_time, size_bytes,
        sum(size_bytes) OVER (
            ORDER BY country_code, party_id, location_id ROWS UNBOUNDED PRECEDING
        ) AS sum_bytes,
        count(*) OVER () AS found
    FROM (
        SELECT country_code, party_id, location_id, document, update_time,
            pg_column_size(document) AS size_bytes
        FROM locations
        WHERE (country_code, party_id, location_id) > ($1, $2, $3)
            AND ($4 = '' OR country_code = $4) AND ($5 = '' OR party_id = $5)
        ORDER BY country_code, party_id, location_id
        LIMIT $6
    ) page
) sized
WHERE sum_bytes <= $7 OR sum_bytes = size_bytes
ORDER BY country_code, party_id, location_id

-- tariffs_of_parties --
-- For each of the tariffs named by three arrays how many price components it has in the store
-- (null: it is not there), and how many tariffs and components its party and all have. One that
-- is not counted yet counts as one component. The sums are made once, not for each tariff.
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
        WITH ORDINALITY AS k (country_code, party_id, tariff_id, position)
), stored AS MATERIALIZED (
    SELECT p.country_code, p.party_id, t.tariffs, t.components
    FROM (SELECT DISTINCT country_code, party_id FROM wanted) p
    CROSS JOIN LATERAL (
        SELECT count(*) AS tariffs, coalesce(sum(greatest(components, 1)), 0)::bigint AS components
        FROM tariffs
        WHERE tariffs.country_code = p.country_code AND tariffs.party_id = p.party_id
    ) t
), whole AS MATERIALIZED (
    SELECT count(*) AS tariffs, coalesce(sum(greatest(components, 1)), 0)::bigint AS components
    FROM tariffs
)
SELECT w.country_code, w.party_id, w.tariff_id,
    CASE WHEN t.tariff_id IS NOT NULL THEN greatest(t.components, 1) END AS components,
    s.tariffs AS party_tariffs, s.components AS party_components,
    a.tariffs AS all_tariffs, a.components AS all_components
FROM wanted w
LEFT JOIN tariffs t
    ON lower(t.country_code || '*' || t.party_id || '*' || t.tariff_id)
        = lower(w.country_code || '*' || w.party_id || '*' || w.tariff_id)
CROSS JOIN whole a
JOIN stored s ON (s.country_code, s.party_id) = (w.country_code, w.party_id)
ORDER BY w.position

-- take_defaults --
-- There is one default tariff for a country and currency; the newest wins. The others go
-- first: the unique index is asked row by row.
UPDATE tariffs t SET default_for_country = false, change_version = $5
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    AS n (country_code, currency_code, party_id, tariff_id)
WHERE t.country_code = n.country_code AND t.currency_code = n.currency_code
    AND t.default_for_country AND (t.party_id, lower(t.tariff_id)) <> (n.party_id, n.tariff_id)
RETURNING t.tariff_id

-- upsert_tariffs --
-- Replaces whole tariffs; a row comes back for each that is new or has changed.
INSERT INTO tariffs (
    country_code, party_id, tariff_id, currency_code, default_for_country, components, document,
    update_time, change_version
)
SELECT k.country_code, k.party_id, k.tariff_id, k.currency_code, k.default_for_country, k.components,
    k.document::jsonb, clock_timestamp(), $8
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::integer[], $7::text[]
) AS k (
    country_code, party_id, tariff_id, currency_code, default_for_country, components, document
)
ON CONFLICT (country_code, party_id, tariff_id) DO UPDATE
SET currency_code = excluded.currency_code, default_for_country = excluded.default_for_country,
    components = excluded.components, document = excluded.document,
    update_time = excluded.update_time, change_version = excluded.change_version
WHERE (tariffs.default_for_country, tariffs.document)
    IS DISTINCT FROM (excluded.default_for_country, excluded.document)
RETURNING tariff_id

-- tariff --
-- One tariff; the document as text, which is read in steps.
SELECT document::text AS document, default_for_country, update_time
FROM tariffs
WHERE lower(country_code || '*' || party_id || '*' || tariff_id)
    = lower($1::text || '*' || $2::text || '*' || $3::text)
ORDER BY update_time DESC LIMIT 1

-- list_tariffs --
-- A slice of a page, as of locations.
SELECT document::text AS document, default_for_country, update_time, found
FROM (
    SELECT country_code, party_id, tariff_id, document, default_for_country, update_time,
        size_bytes,
        sum(size_bytes) OVER (
            ORDER BY country_code, party_id, tariff_id ROWS UNBOUNDED PRECEDING
        ) AS sum_bytes,
        count(*) OVER () AS found
    FROM (
        SELECT country_code, party_id, tariff_id, document, default_for_country, update_time,
            pg_column_size(document) AS size_bytes
        FROM tariffs
        WHERE (country_code, party_id, tariff_id) > ($1, $2, $3)
            AND ($4 = '' OR country_code = $4) AND ($5 = '' OR party_id = $5)
        ORDER BY country_code, party_id, tariff_id
        LIMIT $6
    ) page
) sized
WHERE sum_bytes <= $7 OR sum_bytes = size_bytes
ORDER BY country_code, party_id, tariff_id

-- delete_locations --
-- Those of an operator named by an array, ids in small letters.
DELETE FROM locations
WHERE country_code = $1 AND party_id = $2 AND lower(location_id) = ANY ($3::text[])
RETURNING location_id

-- delete_tariffs --
-- Those of an operator named by an array, ids in small letters.
DELETE FROM tariffs
WHERE country_code = $1 AND party_id = $2 AND lower(tariff_id) = ANY ($3::text[])
RETURNING tariff_id

-- named_tariffs --
-- Which of some tariffs, ids in small letters, connectors of the operator name: all of its
-- locations are read.
SELECT DISTINCT lower(named.tariff_id #>> '{}') AS tariff_id
FROM locations l
CROSS JOIN LATERAL jsonb_path_query(
    l.document, '$.evses[*].connectors[*].tariff_ids[*]'
) AS named (tariff_id)
WHERE l.country_code = $1 AND l.party_id = $2 AND lower(named.tariff_id #>> '{}') = ANY ($3::text[])
