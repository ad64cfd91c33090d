-- current_products --
-- A slice of a page of current revisions with their counters, by product_id: at most $3 rows and,
-- as they are stored, $4 bytes of terms, but one row; `found` is how many there would be without
-- the bytes (as in places.sql). The terms are text, which is read one by one.
SELECT product_id, revision, state, etag, terms::text AS terms, create_time, created_by,
    stock, sold, max_purchases, rolling_days, found
FROM (
    SELECT page.*,
        sum(size_bytes) OVER (ORDER BY product_id ROWS UNBOUNDED PRECEDING) AS sum_bytes,
        count(*) OVER () AS found
    FROM (
        SELECT p.product_id, p.revision, p.state, p.etag, r.terms, r.create_time, r.created_by,
            s.stock, s.sold, s.max_purchases, s.rolling_days,
            pg_column_size(r.terms) AS size_bytes
        FROM products p
        JOIN product_revisions r ON r.product_id = p.product_id AND r.revision = p.revision
        JOIN product_stock s ON s.product_id = p.product_id
        WHERE p.product_id > $1 AND (p.state = 'ACTIVE' OR $2)
        ORDER BY p.product_id
        LIMIT $3
    ) page
) sized
WHERE sum_bytes <= $4 OR sum_bytes = size_bytes
ORDER BY product_id

-- product --
-- One product at its current revision, or at the one asked for.
SELECT p.product_id, r.revision, p.state, p.etag, r.terms, r.create_time, r.created_by,
    s.stock, s.sold, s.max_purchases, s.rolling_days
FROM products p
JOIN product_revisions r
    ON r.product_id = p.product_id AND r.revision = CASE $2::integer WHEN 0 THEN p.revision ELSE $2::integer END
JOIN product_stock s ON s.product_id = p.product_id
WHERE p.product_id = $1

-- revisions --
-- Terms of the revisions named by two arrays; they never change, so they may be kept.
SELECT r.product_id, r.revision, r.terms
FROM unnest($1::text[], $2::integer[]) AS k (product_id, revision)
JOIN product_revisions r ON r.product_id = k.product_id AND r.revision = k.revision

-- insert_product --
-- Nothing is returned if the product exists.
INSERT INTO products (product_id, revision, state, etag, change_version)
VALUES ($1, 1, 'ACTIVE', $2, $3)
ON CONFLICT DO NOTHING
RETURNING product_id

-- lock_product --
-- The row that serialises changes of one product.
SELECT revision, state, etag FROM products WHERE product_id = $1 FOR UPDATE

-- lock_stock --
-- Purchases hold the same lock, so a change of stock or limit falls between two of them.
SELECT sold FROM product_stock WHERE product_id = $1 FOR UPDATE

-- insert_stock --
-- Stock and limit across revisions; see product_stock in the first migration.
INSERT INTO product_stock (product_id, stock, sold_out, max_purchases, rolling_days)
VALUES ($1, $2::bigint, coalesce($2::bigint <= 0, false), $3, $4)

-- update_stock --
-- The counter itself is moved by purchases only.
UPDATE product_stock
SET stock = $2::bigint, sold_out = coalesce(sold >= $2::bigint, false), max_purchases = $3, rolling_days = $4
WHERE product_id = $1

-- insert_revision --
-- A revision is written once and never changed.
INSERT INTO product_revisions (product_id, revision, terms, create_time, created_by)
VALUES ($1, $2, $3, clock_timestamp(), $4)

-- update_product --
-- Point at the new revision, or retire.
UPDATE products SET revision = $2, state = $3, etag = $4, change_version = $5
WHERE product_id = $1

-- withdraw_offers --
-- Refuse offers of revisions before this one.
UPDATE product_stock
SET withdrawn_before_revision = greatest(withdrawn_before_revision, $2)
WHERE product_id = $1

-- insert_change --
-- Who did what.
INSERT INTO catalogue_changes (product_id, revision, change, changed_by, change_time)
VALUES ($1, $2, $3, $4, clock_timestamp())

-- active_products --
-- All that can be offered, for the snapshot. Terms come as text: they are read in slices.
SELECT p.product_id, p.revision, p.state, p.etag, r.terms::text AS terms, r.create_time,
    r.created_by, s.stock, s.sold, s.max_purchases, s.rolling_days
FROM products p
JOIN product_revisions r ON r.product_id = p.product_id AND r.revision = p.revision
JOIN product_stock s ON s.product_id = p.product_id
WHERE p.state = 'ACTIVE'
ORDER BY p.product_id

-- changed_products --
-- Those that have changed since a version, with the active one that comes after each.
SELECT p.product_id, p.revision, p.state, p.etag, r.terms::text AS terms, r.create_time,
    r.created_by, s.stock, s.sold, s.max_purchases, s.rolling_days,
    (
        SELECT n.product_id FROM products n
        WHERE n.product_id > p.product_id AND n.state = 'ACTIVE'
        ORDER BY n.product_id LIMIT 1
    ) AS next_id
FROM products p
JOIN product_revisions r ON r.product_id = p.product_id AND r.revision = p.revision
JOIN product_stock s ON s.product_id = p.product_id
WHERE p.change_version > $1 AND p.change_version > 0

-- all_tariffs --
-- All tariffs, for the snapshot; documents come as text, as terms do.
SELECT document::text AS document, default_for_country FROM tariffs

-- changed_tariffs --
-- Those that have changed since a version.
SELECT document::text AS document, default_for_country
FROM tariffs WHERE change_version > $1 AND change_version > 0
