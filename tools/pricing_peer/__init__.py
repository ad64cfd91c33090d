"""Compares the pricing engine with another implementation on generated tariffs and CDRs."""
