-- bump --
-- Servers read anew what has this name. In a transaction first or last: first its row
-- lock keeps two such transactions apart, last they wait for one another the least.
UPDATE versions SET version = version + 1 WHERE name = $1
