-- OCPI Tokens: what a station knows of a user. Found by token_key, the token as it is compared
-- (voucher_grpc.domain.redemption.token). The older version goes on: it knows no tokens.
SET LOCAL lock_timeout = '5s';
CREATE TABLE tokens (
    token_key text PRIMARY KEY,
    user_id text NOT NULL,
    country_code text NOT NULL,
    party_id text NOT NULL,
    token_type text NOT NULL,
    uid text NOT NULL,
    contract_id text NOT NULL,
    valid boolean NOT NULL,
    whitelist text NOT NULL CHECK (
        whitelist IN ('ALWAYS', 'ALLOWED', 'ALLOWED_OFFLINE', 'NEVER')
    ),
    update_time timestamptz NOT NULL
);
CREATE INDEX tokens_by_user ON tokens (user_id, token_key);
