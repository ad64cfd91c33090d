-- The first schema. Distribution by user_id is prepared: every hot table's
-- primary key and unique constraints begin with user_id, no foreign key crosses
-- users, and what is looked up by another key is a table of its own.

-- Users and what they declared.
CREATE TABLE users (
    user_id text PRIMARY KEY,
    time_zone text NOT NULL DEFAULT '',
    currency_code text NOT NULL DEFAULT '',
    language text NOT NULL DEFAULT '',
    country_code text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);

-- Vehicles, found by vehicle_id alone: a gateway knows vehicles, not people.
CREATE TABLE vehicles (
    vehicle_id text PRIMARY KEY,
    user_id text NOT NULL,
    profile jsonb NOT NULL,
    create_time timestamptz NOT NULL
);
CREATE INDEX vehicles_by_user ON vehicles (user_id, vehicle_id);

-- The catalogue: small, replicated, without counters. A revision never changes.
CREATE TABLE products (
    product_id text PRIMARY KEY,
    revision integer NOT NULL,
    state text NOT NULL CHECK (state IN ('ACTIVE', 'RETIRED')),
    etag text NOT NULL
);

CREATE TABLE product_revisions (
    product_id text NOT NULL,
    revision integer NOT NULL,
    terms jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    created_by text NOT NULL,
    PRIMARY KEY (product_id, revision)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME;
END
$$;

CREATE TRIGGER product_revisions_are_immutable
    BEFORE UPDATE OR DELETE ON product_revisions
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- What belongs to a product across its revisions. sold_out is kept beside the
-- counter so that the partial index below does not change with each sale.
CREATE TABLE product_stock (
    product_id text PRIMARY KEY,
    stock bigint CHECK (stock >= 0),
    sold bigint NOT NULL DEFAULT 0 CHECK (sold >= 0),
    sold_out boolean NOT NULL DEFAULT false,
    max_purchases integer,
    rolling_days integer NOT NULL DEFAULT 0,
    withdrawn_before_revision integer NOT NULL DEFAULT 0,
    CONSTRAINT never_oversold CHECK (stock IS NULL OR sold <= stock)
) WITH (fillfactor = 50);
CREATE INDEX product_stock_sold_out ON product_stock (product_id) WHERE sold_out;

-- Who changed what in the catalogue, and when.
CREATE TABLE catalogue_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id text NOT NULL,
    revision integer NOT NULL,
    change text NOT NULL CHECK (change IN ('CREATE', 'UPDATE', 'RETIRE', 'WITHDRAW_OFFERS')),
    changed_by text NOT NULL,
    change_time timestamptz NOT NULL
);

-- One number that moves with each change of products or tariffs ('catalogue')
-- and of locations ('locations'); servers compare it to know when to read again.
CREATE TABLE versions (
    name text PRIMARY KEY,
    version bigint NOT NULL
);
INSERT INTO versions (name, version) VALUES ('catalogue', 1), ('locations', 1);

-- OCPI Locations and Tariffs as documents.
CREATE TABLE locations (
    country_code text NOT NULL,
    party_id text NOT NULL,
    location_id text NOT NULL,
    document jsonb NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (country_code, party_id, location_id)
);

CREATE TABLE tariffs (
    country_code text NOT NULL,
    party_id text NOT NULL,
    tariff_id text NOT NULL,
    currency_code text NOT NULL,
    default_for_country boolean NOT NULL,
    document jsonb NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (country_code, party_id, tariff_id)
);
CREATE UNIQUE INDEX tariffs_one_default
    ON tariffs (country_code, currency_code) WHERE default_for_country;

-- Charging sessions and the tendencies summed from them.
CREATE TABLE sessions (
    user_id text NOT NULL,
    session_id text NOT NULL,
    country_code text NOT NULL,
    party_id text NOT NULL,
    location_id text NOT NULL,
    evse_uid text NOT NULL,
    connector_id text NOT NULL,
    time_zone text NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    energy_wh bigint NOT NULL CHECK (energy_wh >= 0),
    PRIMARY KEY (user_id, session_id)
);

-- state is a vector of float64, little-endian (voucher_grpc.domain.tendencies.tendency).
CREATE TABLE tendencies (
    user_id text PRIMARY KEY,
    sessions bigint NOT NULL DEFAULT 0,
    first_session_time timestamptz,
    last_session_time timestamptz,
    state bytea NOT NULL DEFAULT '',
    profile_type text NOT NULL DEFAULT ''
);

-- How much of a user's charging happens where; weights as in the tendency.
CREATE TABLE tendency_places (
    user_id text NOT NULL,
    country_code text NOT NULL,
    party_id text NOT NULL,
    location_id text NOT NULL,
    evse_uid text NOT NULL,
    energy_weight double precision NOT NULL,
    PRIMARY KEY (user_id, country_code, party_id, location_id, evse_uid)
);

-- What is locked while a user's passes change; it also numbers the user's events.
CREATE TABLE user_sequences (
    user_id text PRIMARY KEY,
    last_event_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- pass_id is made from (user_id, request_id): the primary key is the promise of
-- one pass for each key.
CREATE TABLE passes (
    user_id text NOT NULL,
    pass_id uuid NOT NULL,
    request_id uuid NOT NULL,
    offer_digest bytea NOT NULL,
    product_id text NOT NULL,
    product_revision integer NOT NULL,
    vehicle_id text NOT NULL,
    price_micros bigint NOT NULL CHECK (price_micros >= 0),
    currency_code text NOT NULL,
    payment_reference text NOT NULL,
    purchase_time timestamptz NOT NULL,
    time_zone text NOT NULL,
    start_time timestamptz,
    end_time timestamptz,
    first_use_before timestamptz,
    PRIMARY KEY (user_id, pass_id),
    CONSTRAINT an_offer_is_bought_once UNIQUE (user_id, offer_digest)
);
CREATE INDEX passes_by_time ON passes (user_id, purchase_time DESC, pass_id);

-- The balance of a pass is the sum of its entries.
CREATE TABLE ledger_entries (
    user_id text NOT NULL,
    pass_id uuid NOT NULL,
    entry_number integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('OPENING')),
    energy_wh bigint,
    sessions integer,
    entry_time timestamptz NOT NULL,
    PRIMARY KEY (user_id, pass_id, entry_number)
);

CREATE VIEW owned_passes AS
SELECT
    p.user_id, p.pass_id, p.request_id, p.offer_digest, p.product_id, p.product_revision,
    p.vehicle_id, p.price_micros, p.currency_code, p.payment_reference, p.purchase_time,
    p.time_zone, p.start_time, p.end_time, p.first_use_before,
    b.energy_wh AS balance_energy_wh, b.sessions AS balance_sessions
FROM passes p
CROSS JOIN LATERAL (
    SELECT sum(e.energy_wh)::bigint AS energy_wh, sum(e.sessions)::integer AS sessions
    FROM ledger_entries e
    WHERE e.user_id = p.user_id AND e.pass_id = p.pass_id
) b;

-- A payment reference pays once; distributed by the reference.
CREATE TABLE payment_references (
    payment_reference text PRIMARY KEY,
    user_id text NOT NULL,
    pass_id uuid NOT NULL
);

-- What has happened, in each user's order; written with the change itself.
CREATE TABLE events (
    user_id text NOT NULL,
    event_seq bigint NOT NULL,
    event_type text NOT NULL CHECK (event_type IN ('PASS_PURCHASED')),
    pass_id uuid NOT NULL,
    event_time timestamptz NOT NULL,
    PRIMARY KEY (user_id, event_seq)
);
