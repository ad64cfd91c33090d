"""The steps around each call, from the outside in (`method` has their order)."""
