"""A task of a step: meets the others as a worker does and prints what it then knows, a JSON object a rank."""

from __future__ import annotations

import json
import os
import socket

from jobs.launchers import read
from jobs.rendezvous import Rendezvous

cluster = read(os.environ)
assert cluster is not None
foretold = cluster.local_rank, cluster.local_size, cluster.local_ranks, cluster.num_nodes
meeting = Rendezvous(cluster, timeout_s=60)
met = meeting.cluster
said = {
    "rank": met.rank,
    "host": socket.gethostname(),
    "addresses": [task.address for task in met.tasks],
    "place": [met.local_rank, met.local_size, met.local_ranks, met.num_nodes],
    "foretold": foretold,
}
print(json.dumps(said), flush=True)
meeting.close()
