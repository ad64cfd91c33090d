"""What the two signals cost, beside two ceilings and a peer: `python -m benchmarks`.

docs/benchmarks.md says what is measured and how.
"""

import os

# Children inherit it. OpenBLAS threads would fight over the cores, and gRPC's fork
# handlers are of no use to processes that are spawned.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
