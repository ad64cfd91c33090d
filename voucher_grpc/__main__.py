"""The command `voucher-grpc`, also as `python -m voucher_grpc`: says which extra it needs."""

import sys


def main() -> None:
    """Run the command line, which is more than a client install has."""
    try:
        from voucher_grpc.cli import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("voucher_grpc"):
            raise
        needs = f"the command needs {error.name}: pip install 'voucher-grpc[cli]'"
        sys.stderr.write(f"voucher-grpc: {needs}\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
