"""Postgres: the only part that knows SQL and asyncpg.

database.py    pool, reserved connections, the translation of the driver's errors
batching.py    batches: many callers, one round trip
migrate.py     forward-only migrations in migrations/
queries.py     named statements from sql/
clock.py       the database's clock
one file an area of data beside its sql/<area>.sql
"""
