"""Products, their conditions of use and their validity."""
