-- OCPI Tokens, by token_key, which is what the table is distributed by.

-- lock_tokens --
-- Of a user, who need not have a row anywhere; tokens are registered one after the other.
SELECT pg_advisory_xact_lock(hashtextextended('tokens of ' || $1, 0))

-- register --
-- Replaces what is said of a token, but never its user: without a token_key for one of another
-- user. A new one only if the user has fewer than $10. After the lock, as a statement of its own: it
-- sees what committed while we waited.
WITH room AS (
    SELECT EXISTS (SELECT 1 FROM tokens WHERE token_key = $1)
        OR (SELECT count(*) FROM tokens WHERE user_id = $2) < $10 AS is_left
), registered AS (
    INSERT INTO tokens (
        token_key, user_id, country_code, party_id, token_type, uid, contract_id, valid, whitelist,
        update_time
    )
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp() FROM room WHERE is_left
    ON CONFLICT (token_key) DO UPDATE SET
        uid = excluded.uid, contract_id = excluded.contract_id, valid = excluded.valid,
        whitelist = excluded.whitelist, update_time = excluded.update_time
    WHERE tokens.user_id = $2
    RETURNING *
)
SELECT room.is_left, registered.* FROM room LEFT JOIN registered ON true

-- token --
-- Whose a token is, and what is said of it.
SELECT t.* FROM tokens t WHERE t.token_key = $1

-- tokens --
-- A page of a user's tokens.
SELECT t.* FROM tokens t WHERE t.user_id = $1 AND t.token_key > $2 ORDER BY t.token_key LIMIT $3

-- delete --
-- Only the user's own.
DELETE FROM tokens WHERE token_key = $2 AND user_id = $1 RETURNING token_key
