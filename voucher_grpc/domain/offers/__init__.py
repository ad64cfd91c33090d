"""Determining offers: valuation, ranking, and the reasons."""
