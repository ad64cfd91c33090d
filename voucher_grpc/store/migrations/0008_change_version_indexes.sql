-- outside of a transaction
-- What has changed since a version, and how much a party has. Built while upserts go on. An
-- index that was left unfinished is made anew.
DROP INDEX CONCURRENTLY IF EXISTS products_by_change;
CREATE INDEX CONCURRENTLY products_by_change
    ON products (change_version) WHERE change_version > 0;
DROP INDEX CONCURRENTLY IF EXISTS tariffs_by_change;
CREATE INDEX CONCURRENTLY tariffs_by_change
    ON tariffs (change_version) WHERE change_version > 0;
DROP INDEX CONCURRENTLY IF EXISTS locations_by_change;
CREATE INDEX CONCURRENTLY locations_by_change
    ON locations (change_version) WHERE change_version > 0;
DROP INDEX CONCURRENTLY IF EXISTS tariffs_of_party;
CREATE INDEX CONCURRENTLY tariffs_of_party
    ON tariffs (country_code, party_id) INCLUDE (components);
