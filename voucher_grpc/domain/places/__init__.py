"""OCPI Locations and Tariffs: the time zone and the price that everything is judged by."""
