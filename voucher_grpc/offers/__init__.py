"""Determining offers: tendencies, valuation, ranking, reasons, and the signed offer_id."""
