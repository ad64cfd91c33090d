"""A server as a whole: its configuration, its parts put together, start and stop."""
