-- outside of a transaction
-- OCPI compares ids without regard to case (2.2.1, 16.1 CiString). One expression, so that no
-- other index comes near: of a table that was never analysed Postgres would take the primary key
-- and read all of an operator. An index that was left unfinished is made anew.
DROP INDEX CONCURRENTLY IF EXISTS locations_by_id;
CREATE INDEX CONCURRENTLY locations_by_id
    ON locations (lower(country_code || '*' || party_id || '*' || location_id));
DROP INDEX CONCURRENTLY IF EXISTS tariffs_by_id;
CREATE INDEX CONCURRENTLY tariffs_by_id
    ON tariffs (lower(country_code || '*' || party_id || '*' || tariff_id));
