"""The signed offer_id and the keys that sign it; offers make one, purchases read it."""
