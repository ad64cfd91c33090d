"""What a user owns: purchases, ledger entries, balances and states."""
