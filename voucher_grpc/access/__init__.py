"""Who may do what: scopes, roles, principals and the one table, without a word of gRPC."""
