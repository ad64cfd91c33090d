"""What a charge costs by an OCPI Tariff, exactly: the one engine of offers, bills and plans."""
