"""What the user runs: the command line, the configuration, the graph of stages and the cluster."""

import os

if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
    # On a cluster: notice within 35 s that a host has gone without closing its connections. Ray's own choice is 7 minutes.
    # Ray reads these variables when it is imported, and the modules of this package import it.
    os.environ.setdefault("RAY_grpc_client_keepalive_time_ms", "20000")
    os.environ.setdefault("RAY_grpc_client_keepalive_timeout_ms", "15000")
