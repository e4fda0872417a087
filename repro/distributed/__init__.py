"""The server and the clients of a training in processes of their own, which send each other the bytes of the codecs.

Process 0 is the server: it averages, evaluates and keeps the checkpoint. The others hold the clients, each a share of
them in a row. Batches, drawings and the order of all sums are those of the simulation in one process.
"""

from repro.distributed.group import AGAIN, Crossed, Group, Lost, joined
from repro.distributed.host import Host
from repro.distributed.server import Server, dismiss, large_batch

__all__ = ["AGAIN", "Crossed", "Group", "Host", "Lost", "Server", "dismiss", "joined", "large_batch"]
