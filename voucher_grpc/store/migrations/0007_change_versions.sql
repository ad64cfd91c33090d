-- What has changed since a version of the catalogue or of the locations, found by its rows.
-- The older version goes on: it writes rows without these columns and moves `version` alone;
-- servers then read all of it once (see versions.sql).
SET LOCAL lock_timeout = '5s';

-- How many of the changes that `version` counts have marked their rows.
ALTER TABLE versions ADD COLUMN recorded bigint NOT NULL DEFAULT 0;
-- The version of the catalogue with which the segments were last made.
INSERT INTO versions (name, version) VALUES ('segments', 1);

-- The version with which a row came to be as it is; 0: before there was this column.
ALTER TABLE products ADD COLUMN change_version bigint NOT NULL DEFAULT 0;
ALTER TABLE tariffs
    ADD COLUMN change_version bigint NOT NULL DEFAULT 0,
    -- How many price components it has, for the bound of its party; 0 is not counted yet.
    ADD COLUMN components integer NOT NULL DEFAULT 0;
ALTER TABLE locations ADD COLUMN change_version bigint NOT NULL DEFAULT 0;
