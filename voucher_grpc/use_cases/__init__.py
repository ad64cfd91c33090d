"""One file for each RPC or sweep: what happens in which order. No gRPC, protobuf or asyncpg."""
