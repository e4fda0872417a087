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
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from repro.data import sets
from repro.data.sets import layouts, sources, standin
from repro.errors import ReproError
from repro.registry import specs

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
        self.arrays = dict(zip(sets.ARRAYS, (images[:10], labels[:10], images[10:], labels[10:]), strict=True))
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
        images = sets.load("tiny", self.root)
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
        sets.prepare("tiny", world.root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- sources -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "official", "npm"])
def test_every_source_gives_the_same_arrays_and_manifest(world: World, kind: str) -> None:
    world.offer(kind)
    provenance = sets.prepare("tiny", world.root)
    world.assert_served()
    assert provenance["served_by"] == kind
    manifest = sets.manifest("tiny", world.root)
    assert manifest["train_per_class"] == np.bincount(world.arrays["train_labels"]).tolist()
    assert kind not in json.dumps(manifest)
    assert provenance["sha256"] == manifest["sha256"] == sets.load("tiny", world.root).sha256


def test_sources_are_tried_in_the_declared_order(world: World) -> None:
    for kind in ("npm", "official", "raw"):
        world.offer(kind)
        shutil.rmtree(world.root / "prepared", ignore_errors=True)
        assert sets.prepare("tiny", world.root)["served_by"] == kind


def test_a_failed_source_is_told_in_one_line_and_the_next_serves(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.offer("npm")
    sets.prepare("tiny", world.root)
    raw, official, _ = capsys.readouterr().err.splitlines()
    assert "'raw' did not work" in raw
    assert "'official' did not work" in official
    assert official.endswith("trying 'npm'")


def test_prepared_data_is_not_fetched_again(world: World) -> None:
    world.offer("npm")
    first = sets.prepare("tiny", world.root)
    (world.bin / "npm").unlink()
    shutil.rmtree(world.root / "raw")
    assert sets.prepare("tiny", world.root) == first
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
    assert sets.prepare("tiny", world.root, download=False)["served_by"] == "npm"


def test_simultaneous_calls_fetch_once(world: World) -> None:
    world.offer("npm")
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: sets.load("tiny", world.root), range(4)))
    assert len({images.sha256 for images in loaded}) == 1
    assert (world.shelf / "calls").read_text() == "called\n"


# ---- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"not a pickle", None])
def test_a_corrupted_pickle_is_refused_and_the_next_source_serves(world: World, damage: bytes | None) -> None:
    world.offer("raw")
    (world.root / "raw" / "tiny-py" / "data_2").write_bytes(world.pickles["data_2"][:-40] if damage is None else damage)
    assert "raw/tiny-py cannot be decoded" in failure(world)
    world.offer("npm")
    assert sets.prepare("tiny", world.root)["served_by"] == "npm"


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
    layout = layouts.PickledBatches(train=["x"], test=["x"], labels="labels")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays = layout.decode([("x", batch)], SHAPE).arrays
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
    assert sets.prepare("tiny", world.root)["served_by"] == kind
    assert (world.root / "raw" / name).read_bytes() == (world.shelf / name).read_bytes()


def test_a_download_interrupted_by_the_user_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.offer("official")
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sets.prepare("tiny", world.root)
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
    monkeypatch.setattr(sources, "STALL_SECONDS", 0.2)
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
    sets.prepare("tiny", world.root)
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
    images = sets.load("tiny", world.root)
    for name in sets.ARRAYS:
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
    [sets.load, sets.prepare, sets.manifest, sets.manifest_sha256, sets.declaration],
)
def test_an_unknown_name_is_answered_with_the_known_ones(world: World, ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ReproError, match=r"no data set 'cifar11'.*declares: tiny$"):
        ask("cifar11", world.root)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        ("a: [1", "not valid YAML"),
        ("- 1", "the top level is a list"),
        ("tiny: 3", r"key tiny: a number \(3\); a mapping was expected"),
        ("tiny: {title: x}", r"key tiny\.citation: missing"),
    ],
)
def test_a_malformed_declaration_is_one_line(world: World, content: str | None, expected: str) -> None:
    path = world.root / "sources.yaml"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ReproError, match=expected) as caught:
        sets.declarations(world.root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("colour", "red", "key tiny: unknown key 'colour'"),
        (
            "sources",
            [{"kind": "torrent", "layout": BATCHES}],
            r"sources\[1\]\.kind: text \('torrent'\); one of raw",
        ),
        (
            "sources",
            [{"kind": "raw", "folder": "x", "layout": {"format": "zip"}}],
            r"layout\.format: text \('zip'\); one of pickled",
        ),
        ("sources", [{"kind": "raw", "layout": BATCHES}], r"sources\[1\]\.folder: missing"),
        ("arrays", {name: {"shape": [1], "sha256": "ab"} for name in sets.ARRAYS}, "the 64 hex digits of a SHA-256"),
    ],
)
def test_a_malformed_field_is_named(world: World, field: str, value: object, expected: str) -> None:
    world.declare(**{field: value})
    with pytest.raises(ReproError, match=expected):
        sets.declarations(world.root)


def test_the_manifest_hash_needs_no_data(world: World) -> None:
    world.offer("raw")
    assert sets.write_manifest("tiny", world.root) == world.root / "manifests" / "tiny.json"
    expected = sets.load("tiny", world.root).sha256
    shutil.rmtree(world.root / "raw")
    shutil.rmtree(world.root / "prepared")
    assert sets.manifest_sha256("tiny", world.root) == expected


def test_an_absent_or_contradictory_manifest_is_refused(world: World) -> None:
    with pytest.raises(ReproError, match=r"tiny.json cannot be read.*python -m repro data tiny"):
        sets.manifest_sha256("tiny", world.root)
    world.offer("raw")
    path = sets.write_manifest("tiny", world.root)
    path.write_text(path.read_text().replace(world.entry()["arrays"]["test_labels"]["sha256"], "0" * 64))
    with pytest.raises(ReproError, match="the arrays give"):
        sets.manifest_sha256("tiny", world.root)
    path.write_text("{}")
    with pytest.raises(ReproError, match="not a manifest"):
        sets.manifest_sha256("tiny", world.root)


def test_committed_manifests_state_a_declared_variant() -> None:
    root = REPOSITORY / "data"
    for name, declared in sets.declarations(root).items():
        stored = json.loads((root / "manifests" / f"{name}.json").read_text())
        (variant,) = (each for each in declared.variants if each.reduced == stored["reduced"])
        assert {array: facts["sha256"] for array, facts in stored["arrays"].items()} == variant.hashes
        assert {array: tuple(facts["shape"]) for array, facts in stored["arrays"].items()} == variant.shapes
        assert stored["arrays"]["train_images"]["shape"][1:] == list(declared.image_shape)
        assert sum(stored["train_per_class"]) + sum(stored["test_per_class"]) == variant.images
        assert len(stored["classes"]) == len(stored["train_per_class"]) == (variant.classes or 100)  # 0: a stand-in
        assert sets.manifest_sha256(name, root) == stored["sha256"]


def test_without_a_name_all_is_prepared_that_the_posts_need() -> None:
    posts = [source for source in specs.SOURCES if source != "lb"]
    used = {spec.dataset for source in posts for spec, _ in specs.runs(source, "smoke", root=REPOSITORY)}
    assert set(sets.DEFAULT) == used


# ---- folders of images, and variants ------------------------------------------------------------------------

COUNTS = {"ant": 5, "bee": 3, "Cow": 1}  # 80 %, rounded up: 4, 3 and 1
CLASSES = ["Cow", "ant", "bee"]  # in the order of bytes, as os.listdir sorted by Python gives it


def jpeg(size: tuple[int, int], shade: int, mode: str = "RGB") -> bytes:
    """A picture that brightens by 40 from left to right, with ``shade`` in its middle."""
    width, height = size
    ramp = shade + np.rint(np.linspace(-20, 20, width)).astype(int)
    pixels = np.broadcast_to(ramp, (height, width)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def pictures(small: bool) -> dict[str, bytes]:
    """Nine JPEG files of three classes and two of clutter; ``small``: all of 9 x 9 pixels."""
    made = {}
    for folder, count in (COUNTS | {"clutter": 2}).items():
        for k in range(count):
            size = (9, 9) if small else (20 + 3 * k, 14 + len(folder))
            made[f"{folder}/image_{k + 1:04d}.jpg"] = jpeg(size, 30 + 40 * k)
    return made


class Folders:
    """A data root that declares ``zoo`` in two variants, of which only the reduced one has known hashes."""

    def __init__(self, base: Path) -> None:
        self.root, self.shelf = base / "data", base / "shelf"
        self.root.mkdir()
        self.shelf.mkdir()
        self.raw = self.root / "raw" / "zoo" / "objects"
        self.archive = self.shelf / "zoo.zip"
        self.pack(self.archive, pictures(small=False))
        self.digest = hashlib.md5(self.archive.read_bytes()).hexdigest()
        self.declare()

    def pack(self, path: Path, files: dict[str, bytes]) -> None:
        inner = self.shelf / "objects.tar.gz"
        pack(inner, "objects", files | {"ant/._image_0001.jpg": b"resource fork", "ant/notes.txt": b"no image"})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("zoo/objects.tar.gz", inner.read_bytes())
            archive.writestr("zoo/Annotations.tar", b"")

    def declare(self, archive: Path | None = None) -> None:
        layout = {"format": "image_folders", "left_out": ["clutter"]}
        made = layouts.ImageFolders(["clutter"]).decode(
            [(name, content) for name, content in pictures(small=True).items() if "clutter" not in name], (8, 8, 3)
        )
        arrays = {
            name: {"shape": list(array.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
            for name, array in made.arrays.items()
        }
        entry = {
            "title": "Zoo",
            "citation": "nobody",
            "licence": "none",
            "image_px": 8,
            "variants": {
                "complete": {"images": 9, "classes": 3},
                "tiny": {"images": 9, "classes": 3, "stored_px": 9, "reduced": "at 9 px", "arrays": arrays},
            },
            "sources": [
                {"kind": "raw", "folder": "zoo/objects", "layout": layout},
                {
                    "kind": "official",
                    "url": (archive or self.shelf / "nowhere.zip").as_uri(),
                    "digest": f"md5:{self.digest}",
                    "inner": "zoo/objects.tar.gz",
                    "folder": "objects",
                    "layout": layout,
                },
            ],
        }
        (self.root / "sources.yaml").write_text(yaml.safe_dump({"zoo": entry}))

    def put(self, files: dict[str, bytes]) -> None:
        shutil.rmtree(self.raw, ignore_errors=True)
        for name, content in files.items():
            path = self.raw / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def failure(self) -> str:
        with pytest.raises(ReproError) as caught:
            sets.prepare("zoo", self.root)
        assert "\n" not in str(caught.value)
        assert not (self.root / "prepared" / "zoo").exists()
        return str(caught.value)


@pytest.fixture
def zoo(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_folders_are_split_class_by_class_and_clutter_is_left_out(zoo: Folders) -> None:
    zoo.put(pictures(small=False))
    images = sets.load("zoo", zoo.root)
    assert images.class_names == tuple(CLASSES)
    assert images.train_labels.tolist() == [0] + [1] * 4 + [2] * 3
    assert images.test_labels.tolist() == [1]
    assert images.train_images.shape == (8, 8, 8, 3)
    assert abs(images.test_images[0].mean() - (30 + 40 * 4)) < 3, "the last file of its class is the test image"
    assert images.reduced is None


def test_reduced_pictures_are_told_from_the_published_ones_by_their_size(zoo: Folders) -> None:
    zoo.put(pictures(small=True))
    images = sets.load("zoo", zoo.root)
    assert images.reduced == sets.manifest("zoo", zoo.root)["reduced"] == "at 9 px"


@pytest.mark.parametrize("small", [False, True])
def test_the_folder_and_the_archive_give_the_same_manifest(zoo: Folders, small: bool) -> None:
    zoo.put(pictures(small))
    first = sets.manifest("zoo", zoo.root)
    shutil.rmtree(zoo.raw)
    shutil.rmtree(zoo.root / "prepared")
    zoo.pack(zoo.archive, pictures(small))
    zoo.digest = hashlib.md5(zoo.archive.read_bytes()).hexdigest()
    zoo.declare(zoo.archive)
    assert sets.prepare("zoo", zoo.root)["served_by"] == "official"
    assert sets.manifest("zoo", zoo.root) == first


@pytest.mark.parametrize(("lost", "images", "classes"), [("ant/image_0002.jpg", 8, 3), ("Cow/image_0001.jpg", 8, 2)])
def test_a_folder_that_was_not_unpacked_to_the_end_is_refused(
    zoo: Folders, lost: str, images: int, classes: int
) -> None:
    zoo.put({name: content for name, content in pictures(small=True).items() if name != lost})
    message = zoo.failure()
    assert f"raw/zoo/objects does not hold Zoo: it has {images} images of 9 x 9 px in {classes} classes" in message
    assert "complete (9 images of various sizes in 3 classes) or tiny (9 images of 9 x 9 px in 3 classes)" in message
    assert f"download {(zoo.shelf / 'nowhere.zip').as_uri()} to {zoo.root / 'raw' / 'nowhere.zip'}" in message


@pytest.mark.parametrize("damage", ["truncated", "empty", "no JPEG"])
def test_a_damaged_picture_is_named(zoo: Folders, damage: str) -> None:
    files = pictures(small=False)
    whole = files["bee/image_0002.jpg"]
    files["bee/image_0002.jpg"] = {"truncated": whole[: len(whole) - 60], "empty": b"", "no JPEG": b"x" * 900}[damage]
    zoo.put(files)
    assert "raw/zoo/objects cannot be decoded (ValueError: bee/image_0002.jpg:" in zoo.failure()


def test_other_pictures_in_place_of_a_known_variant_are_refused(zoo: Folders) -> None:
    zoo.put(pictures(small=True) | {"bee/image_0002.jpg": jpeg((9, 9), 7)})
    assert "does not hold Zoo: train_images has SHA-256" in zoo.failure()


def test_a_truncated_archive_of_pictures_is_never_opened(zoo: Folders) -> None:
    zoo.declare(zoo.archive)
    zoo.archive.write_bytes(zoo.archive.read_bytes()[:-50])
    assert "the download is incomplete or corrupted: zoo.zip has" in zoo.failure()
    assert list((zoo.root / "raw").iterdir()) == []


def test_a_machine_with_another_variant_than_the_manifest_is_told_so_until_it_adopts_it(
    zoo: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.put(pictures(small=True))
    sets.write_manifest("zoo", zoo.root)
    before = sets.manifest_sha256("zoo", zoo.root)
    shutil.rmtree(zoo.root / "prepared")
    zoo.put(pictures(small=False))
    with pytest.raises(ReproError) as caught:
        sets.load("zoo", zoo.root)
    message = str(caught.value)
    assert "\n" not in message
    assert "zoo: this machine has the complete data set, but" in message
    assert "rest on a reduced one (at 9 px)" in message
    assert "run `python -m repro data zoo`" in message
    assert sets.manifest_sha256("zoo", zoo.root) == before
    capsys.readouterr()
    sets.write_manifest("zoo", zoo.root)
    assert "records made from those are stale" in capsys.readouterr().err
    assert sets.load("zoo", zoo.root).sha256 == sets.manifest_sha256("zoo", zoo.root) != before


def test_hashes_that_nobody_published_are_kept_by_the_manifest(zoo: Folders) -> None:
    zoo.put(pictures(small=False))
    sets.write_manifest("zoo", zoo.root)
    shutil.rmtree(zoo.root / "prepared")
    zoo.put(pictures(small=False) | {"bee/image_0002.jpg": jpeg((30, 30), 7)})
    with pytest.raises(ReproError, match=r"this machine has the complete data set, but .* rest on the complete"):
        sets.load("zoo", zoo.root)


def test_a_flipped_bit_in_prepared_pictures_is_noticed_although_no_hash_is_declared(
    zoo: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.put(pictures(small=False))
    first = sets.load("zoo", zoo.root).sha256
    path = zoo.root / "prepared" / "zoo" / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert sets.load("zoo", zoo.root).sha256 == first
    assert "damaged or outdated: its manifest differs; preparing zoo again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "scaled"), [((20, 14), (12, 9)), ((14, 20), (9, 12)), ((9, 9), (9, 9)), ((5, 6), (9, 10))]
)
def test_a_picture_is_scaled_by_its_shorter_side_and_cut_from_the_centre(
    size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    resized = np.asarray(picture.resize(scaled, Image.Resampling.BILINEAR) if scaled != size else picture)
    left, top = round((scaled[0] - 8) / 2), round((scaled[1] - 8) / 2)
    np.testing.assert_array_equal(layouts.framed(picture, 8), resized[top : top + 8, left : left + 8])


def test_a_grey_picture_becomes_rgb() -> None:
    with Image.open(io.BytesIO(jpeg((30, 20), 77, "L"))) as grey:
        framed = layouts.framed(grey, 8)
    assert framed.shape == (8, 8, 3)
    assert np.ptp(framed, axis=2).max() == 0
    assert abs(framed.mean() - 77) < 2


# ---- the stand-in of 100 classes ---------------------------------------------------------------------------


def ten_classes(n: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = {f"{split}_images": rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for split in ("train", "test")}
    labels = {f"{split}_labels": rng.permutation(np.arange(n) % 2) for split in ("train", "test")}
    return {name: (arrays | labels)[name] for name in sets.ARRAYS}


def test_the_stand_in_uses_every_image_once_and_its_classes_evenly() -> None:
    base = ten_classes()
    made = standin.hundred_classes(base, ("cat", "dog"))
    assert made.classes is not None
    assert made.classes[11] == "dog, quarter turn"
    assert np.bincount(made.arrays["train_labels"]).tolist() == [2] * 20
    shown = list(standin.TRANSFORMATIONS.values())
    for image, label, original, was in zip(
        made.arrays["train_images"],
        made.arrays["train_labels"],
        base["train_images"],
        base["train_labels"],
        strict=True,
    ):
        assert label // 10 == was
        np.testing.assert_array_equal(image, shown[label % 10](original[None])[0])


def test_no_two_classes_of_the_stand_in_are_mirror_images_of_each_other() -> None:
    images = ten_classes()["train_images"]
    shown = list(standin.TRANSFORMATIONS.values())
    for a in range(10):
        for b in range(a):
            assert not np.array_equal(shown[a](images), shown[b](images))
            assert not np.array_equal(shown[a](images)[:, :, ::-1], shown[b](images[:, :, ::-1]))


def test_a_derived_data_set_is_made_from_its_base_and_says_so(world: World) -> None:
    rng = np.random.default_rng(3)
    world.arrays = {
        name: rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8) if name.endswith("images") else np.arange(20) % 3
        for name in sets.ARRAYS
    }
    tiny = world.entry() | {"sources": [{"kind": "raw", "folder": "tiny-py", "layout": BATCHES | {"train": ["train"]}}]}
    made = standin.hundred_classes(world.arrays, ("a", "b", "c")).arrays
    facts = {n: {"shape": list(x.shape), "sha256": hashlib.sha256(x.tobytes()).hexdigest()} for n, x in made.items()}
    derived = {key: tiny[key] for key in ("citation", "licence")} | {
        "title": "Thirty", "reduced": "a stand-in", "arrays": facts, "sources": [{"kind": "derived", "base": "tiny"}],
    }  # fmt: skip
    (world.root / "sources.yaml").write_text(yaml.safe_dump({"tiny": tiny, "thirty": derived}))
    with pytest.raises(ReproError, match=r"run `python -m repro data tiny` \[tiny could not be obtained"):
        sets.load("thirty", world.root)
    folder = world.root / "raw" / "tiny-py"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        planes = world.arrays[f"{split}_images"].transpose(0, 3, 1, 2).reshape(20, -1)
        batch = {"data": planes, "labels": world.arrays[f"{split}_labels"].tolist()}
        (folder / split).write_bytes(pickle.dumps(batch))
    images = sets.load("thirty", world.root)
    assert (images.n_classes, images.reduced) == (30, "a stand-in")
    np.testing.assert_array_equal(images.test_images, made["test_images"])


# ---- the module, and the real data -------------------------------------------------------------------------


def test_the_module_imports_without_torch() -> None:
    check = "import sys, repro.data.sets; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY).returncode == 0


@pytest.mark.data
def test_cifar10_is_complete_and_in_the_official_order() -> None:
    images = sets.load("cifar10", REPOSITORY / "data")
    assert images.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert images.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
    assert sets.manifest_sha256("cifar10", REPOSITORY / "data") == images.sha256
    # The mean and deviation that the literature normalises CIFAR-10 with.
    pixels = images.train_images.reshape(-1, 3)
    np.testing.assert_allclose(pixels.mean(axis=0) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
