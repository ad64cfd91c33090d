"""Between messages and the domain: checks of form, conversions both ways, statuses.

The servicers, the client and the command use the same conversions. Nothing here
does I/O.
"""
