-- outside of a transaction
-- OCPI compares ids without regard to case (2.2.1, 16.1 CiString). An index that was left
-- unfinished is made anew.
DROP INDEX CONCURRENTLY IF EXISTS locations_by_id;
CREATE INDEX CONCURRENTLY locations_by_id
    ON locations (country_code, party_id, lower(location_id));
DROP INDEX CONCURRENTLY IF EXISTS tariffs_by_id;
CREATE INDEX CONCURRENTLY tariffs_by_id
    ON tariffs (country_code, party_id, lower(tariff_id));
