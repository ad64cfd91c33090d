"""A server with one rule broken: `python -m tests.fault.mutant NAME serve`.

The rule is broken in this process, before it serves; nothing of it is in the product.
"""

import sys

from tests.fault.mutations import MUTATIONS
from voucher_grpc.cli import main

if __name__ == "__main__":
    MUTATIONS[sys.argv.pop(1)].break_it()
    main()
