-- lock --
-- First of all in a transaction that may change what has this name: it keeps two of them
-- apart, and who waits for it holds nothing yet that a purchase would wait for.
SELECT version FROM versions WHERE name = $1 FOR NO KEY UPDATE

-- bump --
-- Servers read anew what has this name.
UPDATE versions SET version = version + 1 WHERE name = $1
