"""Several processes on one port: their supervisor and their metrics as one."""
