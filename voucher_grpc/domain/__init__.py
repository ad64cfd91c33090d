"""The rules: what is sold, to whom, when and for how much. No gRPC, no protobuf, no Postgres."""
