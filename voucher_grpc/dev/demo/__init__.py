"""Invented operators, passes and users, to try the service with."""
