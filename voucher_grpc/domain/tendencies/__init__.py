"""What a user is inclined to do, learned from sessions, and what is expected from it."""
