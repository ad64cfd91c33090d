"""Reading and writing files: catalogues, sessions and OCPI objects. No channel, no extra."""
