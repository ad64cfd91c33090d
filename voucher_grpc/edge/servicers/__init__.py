"""One servicer a service: check, convert, call, convert."""
