"""A static check that statements can run on a Postgres that is distributed over several nodes."""
