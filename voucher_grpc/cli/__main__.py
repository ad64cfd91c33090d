"""`python -m voucher_grpc.cli` is `voucher-grpc`."""

from voucher_grpc.cli import main

main()
