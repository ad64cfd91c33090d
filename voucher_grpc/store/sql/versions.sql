-- lock --
-- First of all in a transaction that may change what has this name: it keeps two of them
-- apart, and who waits for it holds nothing yet that a purchase would wait for.
SELECT version FROM versions WHERE name = $1 FOR NO KEY UPDATE

-- bump --
-- Servers read what has changed of what has this name: the rows whose change_version is
-- greater than the version they have. Whoever changes rows without marking them, or deletes
-- some, moves `version` alone, as versions before this column did; all is then read again.
UPDATE versions SET version = version + 1, recorded = recorded + 1
WHERE name = $1
RETURNING version

-- made_with --
-- The segments are made anew as a whole; servers read them with this version of the catalogue.
UPDATE versions SET version = $1 WHERE name = 'segments'

-- all --
-- All at one instant; a change that is not recorded moves `unrecorded`.
SELECT name, version, version - recorded AS unrecorded, clock_timestamp() AS database_time
FROM versions

-- move --
-- After rows were deleted, which nothing marks: servers read all of it again.
UPDATE versions SET version = version + 1
WHERE name = $1
RETURNING version
