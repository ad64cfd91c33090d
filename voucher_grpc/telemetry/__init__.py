"""What a server reports about itself: metrics, logs, traces, and where the time of a call went."""
