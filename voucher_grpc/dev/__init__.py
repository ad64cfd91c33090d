"""To try the service with: a Postgres from a wheel, a token issuer, demo data."""
