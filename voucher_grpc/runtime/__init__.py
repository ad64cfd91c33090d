"""How a server does its work, whatever the work is: batches, admission, quotas, clocks, files."""
