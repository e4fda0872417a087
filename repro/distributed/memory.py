"""What clients keep between rounds, on its way between the server, who stores it, and the process that trains them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from repro.training.clients import SerialClients

Memory = Mapping[int, Mapping[str, Any]]
"""By client: ``state`` of its codec, its own running statistics (``buffers``) and its ``momentum``."""


def memory_of(serial: SerialClients, clients: Iterable[int]) -> Memory:
    """What ``clients`` keep."""
    buffers, momenta = serial.exchange.buffers.own, serial.local.momenta.kept
    return {
        client: {
            "state": serial.exchange.state(client),
            "buffers": buffers[client] if buffers else {},
            "momentum": momenta[client] if momenta else {},
        }
        for client in clients
    }


def remember(serial: SerialClients, memory: Memory) -> None:
    """The inverse of ``memory_of``."""
    for client, kept in memory.items():
        serial.exchange.state(client)
        serial.exchange.states[client] = kept["state"]
        for all_clients, name in ((serial.exchange.buffers.own, "buffers"), (serial.local.momenta.kept, "momentum")):
            if all_clients:
                all_clients[client] = kept[name]
