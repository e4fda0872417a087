"""What a round costs on a network whose devices upload more slowly than they download (post 2, introduction)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from repro.errors import ReproError
from repro.files import read_yaml
from repro.validation import Model, Positive, Text, fitting


class Speeds(Model):
    """Speeds of a link class as ``pipelines/e2.yaml`` writes them, in Mbit/s."""

    down: Positive
    up: Positive


Links = Annotated[dict[Text, Speeds], Field(min_length=1)]


@dataclass(frozen=True)
class Link:
    """The connection of one device.

    Attributes:
        name: for readers.
        down, up: megabits per second (10^6 bits); post 2: the upload is typically half of the download.

    Raises:
        ReproError: a speed is not above 0.
    """

    name: str
    down: float
    up: float

    def __post_init__(self) -> None:
        if not (self.down > 0 and self.up > 0):
            raise ReproError(
                f"link {self.name}: {self.down} Mbit/s down, {self.up} up; speeds above 0 were expected; correct them"
            )

    def seconds(self, bytes_up: float, bytes_down: float) -> float:
        """Seconds to download ``bytes_down`` and then upload ``bytes_up``; latency and overhead are left out.

        >>> Link("cable", down=20, up=10).seconds(bytes_up=10e6, bytes_down=10e6)
        12.0
        """
        return 8 * (bytes_down / self.down + bytes_up / self.up) / 1e6


def slowest(links: Iterable[Link], bytes_up: float, bytes_down: float) -> Link:
    """The device that everyone waits for in a synchronous round; which one it is can depend on the messages.

    Args:
        links: one for each device.
        bytes_up, bytes_down: lengths of the messages of one device in one round.

    Raises:
        ReproError: no device.
    """
    links = list(links)
    if not links:
        raise ReproError("a round without devices; at least one link was expected; add one")
    return max(links, key=lambda link: link.seconds(bytes_up, bytes_down))


def round_seconds(links: Iterable[Link], bytes_up: float, bytes_down: float) -> float:
    """Seconds that the messages of one synchronous round take: "the slowest edge device sets the tone" (post 2).

    Arguments and errors are those of ``slowest``.
    """
    return slowest(links, bytes_up, bytes_down).seconds(bytes_up, bytes_down)


def load_links(root: Path = Path()) -> list[Link]:
    """The link classes of ``pipelines/e2.yaml``, in the order of the file.

    Raises:
        ReproError: the file or its key ``links`` is missing or malformed.
    """
    path = root / "pipelines/e2.yaml"
    speeds = fitting(Links, read_yaml(path).get("links"), path, "links")
    return [Link(name, float(each.down), float(each.up)) for name, each in speeds.items()]
