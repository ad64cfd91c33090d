"""The use of passes at charging stations: charges are authorized, captured, released, reversed."""
