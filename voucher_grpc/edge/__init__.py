"""Where gRPC meets the use cases: credentials, messages, statuses, the steps around a call."""
