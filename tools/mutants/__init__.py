"""Mutation testing: a sample of small wrong changes, and whether the tests notice them."""
