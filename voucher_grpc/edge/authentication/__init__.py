"""Who calls: tokens and certificates become principals."""
