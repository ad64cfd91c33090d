"""What a server tells of itself: metrics, logs, traces, and where the time of a call went."""
