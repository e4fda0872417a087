"""Sources: places that may serve the files of a data set. Nothing of an archive is used before its digest is right.

What fetches and unpacks is imported where it is used: it takes longer to load than to read all declarations.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

from repro.data.sets.layouts import ARRAYS, Decoded, Files, Layout
from repro.data.sets.standin import hundred_classes
from repro.errors import ReproError

CHUNK = 1 << 20
STALL_SECONDS = 8.0
"""A server that neither accepts a connection nor sends a byte for this long counts as unreachable."""


Other = Callable[[str], Any]
"""Name of a data set -> its arrays, prepared where they are not yet."""


class NotServed(Exception):
    """A source has nothing usable; ``str`` is the reason, and the next source is tried."""


def told(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def say(line: str) -> None:
    """One line for the user, apart from what the command prints."""
    print(f"repro: {line}", file=sys.stderr)


@dataclass(frozen=True)
class Source(ABC):
    """A place that may serve a data set."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def origin(self) -> str:
        """What provenance calls this source, the same on every machine."""

    @abstractmethod
    def way(self, raw: Path) -> str:
        """What a user can do to make this source work, as an imperative phrase."""

    @abstractmethod
    def decoded(self, raw: Path, download: bool, image_shape: tuple[int, ...], other: Other) -> Decoded:
        """The data set, with images of ``image_shape`` (H, W, C); ``other`` prepares and loads another data set.

        Raises:
            NotServed: this place has nothing usable.
        """


@dataclass(frozen=True)
class FileSource(Source):
    """A place that serves the files of a layout."""

    layout: Layout

    @abstractmethod
    def files(self, raw: Path, download: bool) -> Files:
        """The files that the layout wants, one after the other; raises NotServed."""

    def decoded(self, raw: Path, download: bool, image_shape: tuple[int, ...], other: Other) -> Decoded:
        """What the layout makes of the files."""
        from tqdm import tqdm

        files = self.files(raw, download)
        try:
            bar = tqdm(files, desc=f"decoding {PurePosixPath(self.origin).name}", unit=" files", delay=2, disable=None)
            return self.layout.decode(bar, image_shape)
        except NotServed:
            raise
        except Exception as error:  # damaged pickles and images fail in any of a dozen ways
            raise NotServed(f"{self.origin} cannot be decoded ({type(error).__name__}: {told(error)})") from error


@dataclass(frozen=True)
class RawFolder(FileSource):
    """A folder under ``data/raw`` in torchvision's layout."""

    kind = "raw"
    folder: str

    @property
    def origin(self) -> str:
        """The folder, relative to the data root."""
        return f"raw/{self.folder}"

    def way(self, raw: Path) -> str:
        """Where to put the files."""
        return f"put torchvision's files into {raw / self.folder}"

    def files(self, raw: Path, download: bool) -> Files:
        """Read the files; they are trusted only after decoding, by the hashes or counts of the arrays."""
        folder = raw / self.folder
        if not folder.is_dir():
            raise NotServed(f"no folder {folder}")
        return self._read(folder)

    def _read(self, folder: Path) -> Files:
        try:
            found = (path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*")))
            for name in self.layout.required or filter(self.layout.wants, found):
                yield name, (folder / name).read_bytes()
        except OSError as error:
            raise NotServed(f"{error.filename} cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Archive(FileSource):
    """An archive that is kept under ``data/raw`` and never opened before its digest is right.

    Attributes:
        digest: ``md5:<hex>`` or ``sha256:<hex>``.
        folder: the data set's folder inside the archive.
        inner: the .tar.gz that holds the folder, where the archive is a .zip around it.
    """

    digest: str
    folder: str
    inner: str = field(default="", kw_only=True)

    @property
    @abstractmethod
    def filename(self) -> str:
        """Name of the archive under ``data/raw``."""

    @abstractmethod
    def fetch(self, work: Path) -> Path:
        """Download into the empty folder ``work``; the path of the archive. Raises NotServed."""

    def files(self, raw: Path, download: bool) -> Files:
        """The files of the archive, downloaded when ``data/raw`` has no intact copy."""
        kept = raw / self.filename
        reason = self._flaw(kept) if kept.exists() else f"no {kept}"
        if reason and not download:
            raise NotServed(f"{reason}, and downloading was not allowed")
        if reason:
            self._download(kept)
        return self._unpacked(kept)

    def _unpacked(self, kept: Path) -> Iterator[tuple[str, bytes]]:
        import tarfile
        import zipfile

        missing = set(self.layout.required)
        with ExitStack() as open_files:
            stream: IO[bytes] = open_files.enter_context(kept.open("rb"))
            if self.inner:
                stream = open_files.enter_context(zipfile.ZipFile(stream)).open(self.inner)
            # In one pass: what is compressed cannot be read at random.
            archive = open_files.enter_context(tarfile.open(fileobj=stream, mode="r|*"))
            for member in archive:
                path, content = PurePosixPath(member.name), archive.extractfile(member)
                if content is None or not path.is_relative_to(self.folder):
                    continue
                name = path.relative_to(self.folder).as_posix()
                if self.layout.wants(name):
                    missing.discard(name)
                    yield name, content.read()
        if missing:
            raise NotServed(f"{kept} holds no {self.folder}/{min(missing)}")

    def _download(self, kept: Path) -> None:
        """Fetch beside ``kept``, check, then move into place: a part of a file never has its name."""
        work = kept.with_name(f".{kept.name}.part")
        shutil.rmtree(work, ignore_errors=True)  # of a download that was killed
        work.mkdir(parents=True)
        try:
            fetched = self.fetch(work)
            if reason := self._flaw(fetched):
                raise NotServed(f"the download is incomplete or corrupted: {reason}")
            os.replace(fetched, kept)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _flaw(self, path: Path) -> str | None:
        algorithm, expected = self.digest.split(":")
        with path.open("rb") as file:
            # As a checksum md5 is also to be had where a security policy forbids it as a signature.
            new = partial(hashlib.new, algorithm, usedforsecurity=False)
            found = hashlib.file_digest(file, new).hexdigest()
        if found == expected:
            return None
        return f"{path.name} has {path.stat().st_size} bytes and {algorithm} {found}, expected {expected}"


@dataclass(frozen=True)
class OfficialArchive(Archive):
    """The archive that the authors of the data set publish."""

    kind = "official"
    url: str

    @property
    def origin(self) -> str:
        """The address."""
        return self.url

    @property
    def filename(self) -> str:
        """Last part of the address."""
        return PurePosixPath(self.url).name

    def way(self, raw: Path) -> str:
        """What to download."""
        return f"download {self.url} to {raw / self.filename}"

    def fetch(self, work: Path) -> Path:
        """Stream to a file; a host that cannot be reached fails within STALL_SECONDS."""
        import urllib.error
        import urllib.request
        from http.client import HTTPException

        from tqdm import tqdm

        target = work / self.filename
        try:
            with urllib.request.urlopen(self.url, timeout=STALL_SECONDS) as response:
                size = int(response.headers.get("Content-Length") or 0) or None
                bar = tqdm(total=size, unit="B", unit_scale=True, desc=self.filename, disable=None)
                with bar, target.open("wb") as file:
                    # An error in writing passes: it is the disk's, and another source would meet it too.
                    while chunk := _receive(response.read):
                        file.write(chunk)
                        bar.update(len(chunk))
        except urllib.error.URLError as error:
            raise NotServed(f"the host cannot be reached: {error.reason}") from error
        except (HTTPException, TimeoutError, ConnectionError) as error:
            raise NotServed(f"the host does not answer: {told(error)}") from error
        return target


def _receive(read: Callable[[int], bytes]) -> bytes:
    from http.client import HTTPException

    try:
        return read(CHUNK)
    except (OSError, HTTPException) as error:
        raise NotServed(f"the download broke off: {told(error)}") from error


@dataclass(frozen=True)
class NpmPackage(Archive):
    """A registry package, through whichever registry the user's ``npm`` client is set up for."""

    kind = "npm"
    package: str
    version: str

    @property
    def origin(self) -> str:
        """Package and version."""
        return f"{self.package}@{self.version}"

    @property
    def filename(self) -> str:
        """What ``npm pack`` calls the archive."""
        return f"{self.package}-{self.version}.tgz"

    def way(self, raw: Path) -> str:
        """How to get the package by hand."""
        return f"install Node.js, then run `npm pack {self.origin}` in {raw}"

    def fetch(self, work: Path) -> Path:
        """Run ``npm pack``; npm compares the package with the registry's checksum, the caller with ours."""
        import subprocess

        npm = shutil.which("npm")
        if npm is None:
            raise NotServed("the npm client is not installed")
        say(f"fetching {self.origin} with npm")
        # Without the two settings npm takes over a minute to find out that there is no network.
        patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        command = [npm, "pack", self.origin, "--ignore-scripts", *patience]
        done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        target = work / self.filename
        if done.returncode or not target.exists():
            marks = ("npm error ", "npm ERR! ")
            told = [line[9:].strip() for line in done.stderr.splitlines() if line.startswith(marks)]
            raise NotServed(f"npm pack failed ({'; '.join(told[:2]) or f'exit code {done.returncode}'})")
        return target


@dataclass(frozen=True)
class Derived(Source):
    """Made from another data set of ``sources.yaml`` by ``standin.hundred_classes``."""

    kind = "derived"
    base: str

    @property
    def origin(self) -> str:
        """The data set that it is made from."""
        return f"derived/{self.base}"

    def way(self, raw: Path) -> str:
        """How to get the other data set."""
        return f"run `python -m repro data {self.base}`"

    def decoded(self, raw: Path, download: bool, image_shape: tuple[int, ...], other: Other) -> Decoded:
        """Prepare the other data set where it is not yet, and transform its images."""
        try:
            base = other(self.base)
        except ReproError as error:
            raise NotServed(str(error)) from error
        return hundred_classes({name: getattr(base, name) for name in ARRAYS}, base.class_names)


SOURCES: dict[str, type[Source]] = {each.kind: each for each in (RawFolder, OfficialArchive, NpmPackage, Derived)}
