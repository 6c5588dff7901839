"""From original files to memory: the whole path on files made here, and every way in which it can go wrong.

The loopback server shows that downloading, checking, parsing and keeping work on files in the original formats. It does
not show that the real hosts are up, nor that our checksums are those of their files (they are TFDS's own: last test).
"""

import functools
import gzip
import hashlib
import http.server
import io
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from flowcore.data import DataError, load, reading
from flowcore.data.datasets import BUILDERS, preparation
from flowcore.data.datasets.cifar10 import FlowCifar10
from flowcore.data.datasets.digits import FlowDigits
from flowcore.data.datasets.mnist import FlowFashionMnist, FlowMnist

UrlInfo = tfds.core.download.checksums.UrlInfo


def left_in(folder: Path) -> list[str]:
    """Everything below a folder, hidden or not."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ------------------------------------------------------------------------------------------------ the originals, small


def idx(array: np.ndarray) -> bytes:
    """The IDX format, written from its description and not with our reader: magic, sizes, bytes."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def random_images(n: int, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n, np.uint8)


TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
GREY = {"train": random_images(30, (28, 28), 0), "test": random_images(10, (28, 28), 1)}
COLOUR = {"train": random_images(25, (3, 32, 32), 2), "test": random_images(5, (3, 32, 32), 3)}


def mnist_files() -> dict[str, bytes]:
    names = {"train": "train", "test": "t10k"}
    return {
        f"{names[split]}-{part}-ubyte.gz": gzip.compress(idx(array))
        for split, pair in GREY.items()
        for part, array in zip(("images-idx3", "labels-idx1"), pair, strict=True)
    }


def cifar10_files() -> dict[str, bytes]:
    def records(images, labels):
        return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))

    images, labels = COLOUR["train"]
    members = {f"data_batch_{i + 1}.bin": records(images[5 * i :][:5], labels[5 * i :][:5]) for i in range(5)}
    members |= {"test_batch.bin": records(*COLOUR["test"]), "readme.html": b"<html>"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return {"cifar-10-binary.tar.gz": packed.getvalue()}


def builder_of(parent, files: dict[str, bytes], base: str):
    """`parent` with its files at another address, and the checksums of these files, packed and not."""
    urls = {name: f"{base}/{name}" for name in files}
    unpacked = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in files.items()}
    infos = {
        f"{base}/{name}": UrlInfo(tfds.core.utils.Size(len(content)), hashlib.sha256(content).hexdigest(), name)
        for name, content in (unpacked | files).items()
    }
    in_order = tuple(urls[url.rsplit("/", 1)[1]] for url in parent.URLS)
    return type(f"Local{parent.__name__}", (parent,), {"URLS": in_order, "url_infos": infos})


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A folder and the address at which it is served; `stop()` ends it."""
    folder = tmp_path / "served"
    folder.mkdir()
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=http_server.serve_forever, args=(0.02,))
    thread.start()

    def stop():
        http_server.shutdown()
        http_server.server_close()
        thread.join()

    yield folder, f"http://127.0.0.1:{http_server.server_address[1]}", stop
    if thread.is_alive():
        stop()


@pytest.fixture
def offer(server, monkeypatch):
    """offer(parent, files): serve the files and make them known as the data set "local"."""

    def publish(parent, files):
        folder, base, stop = server
        for name, content in files.items():
            (folder / name).write_bytes(content)
        monkeypatch.setitem(BUILDERS, "local", builder_of(parent, files, base))
        return folder, stop

    return publish


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def assert_is(loaded: dict, images: np.ndarray, labels: np.ndarray):
    assert loaded["image"].dtype == np.uint8 and loaded["label"].dtype == np.int64
    np.testing.assert_array_equal(loaded["image"], images)
    np.testing.assert_array_equal(loaded["label"], labels)


# ------------------------------------------------------------------------------------------------ digits, end to end


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A data_dir with the digits in it: not to be written to."""
    root = tmp_path_factory.mktemp("digits")
    load("digits", data_dir=root)
    return root


@pytest.fixture
def own(prepared, root):
    """A data_dir with the digits in it, to be spoilt; and the folder of the digits."""
    shutil.copytree(prepared, root)
    return root, root / "flow_digits" / "1.0.0"


def test_digits_are_those_of_scikit_learn_in_two_disjoint_splits(prepared):
    from sklearn.datasets import load_digits

    train, test = (load("digits", split, data_dir=prepared) for split in ("train", "test"))
    assert train["image"].shape == (1500, 8, 8, 1) and test["image"].shape == (297, 8, 8, 1)
    for part in (train, test):
        assert part["image"].dtype == np.uint8 and part["label"].dtype == np.int64
        assert (part["image"].min(), part["image"].max()) == (0, 255)
        assert set(part["label"]) == set(range(10))
    assert set(np.unique(train["image"])) == {round(level * 255 / 16) for level in range(17)}

    def rows(images, labels):
        return sorted(zip((image.tobytes() for image in images), labels, strict=True))

    ours = rows(*(np.concatenate([train[key], test[key]]) for key in ("image", "label")))
    theirs = load_digits()
    assert ours == rows(np.round(theirs.images / 16 * 255).astype(np.uint8), theirs.target)


def test_digits_are_read_from_disk_the_second_time(prepared, monkeypatch):
    monkeypatch.setattr(reading, "prepare", None)  # would be a TypeError
    start = time.perf_counter()
    assert len(load("digits", data_dir=prepared)["image"]) == 1500
    assert time.perf_counter() - start < 10


def test_splits_can_be_cut_and_joined(prepared):
    assert len(load("digits", "train[:10%]+test", data_dir=prepared)["image"]) == 150 + 297


def test_the_default_folder_is_that_of_tfds(root, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    load("digits")
    assert [path.name for path in root.iterdir()] == ["flow_digits"]


def test_nothing_is_printed(root, capfd):
    """What is printed would end up in notebooks, and differ from the first run to the second."""
    load("digits", data_dir=root)
    assert capfd.readouterr() == ("", "")


def test_tensorflow_is_never_imported(root):
    script = (
        "import sys; from flowcore.data import load; "
        f"load('digits', data_dir={str(root)!r}); load('digits', data_dir={str(root)!r}); "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_two_processes_prepare_at_the_same_time(root):
    """Both get as far as to publish; the later one takes what the earlier one made."""
    script = (
        "import sys; from flowcore import data; from flowcore.data.datasets import preparation\n"
        "publish = preparation.publish\n"
        "def late(*args): print('ready', flush=True); sys.stdin.readline(); publish(*args)\n"
        "preparation.publish = late\n"
        f"print(len(data.load('digits', data_dir={str(root)!r})['image']))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    assert [process.communicate("go\n")[0] for process in both] == ["1500\n"] * 2
    assert [path.name for path in root.iterdir()] == ["flow_digits"]


# ------------------------------------------------------------------------------------------------ download, from_files


@pytest.mark.parametrize(
    ("parent", "files", "originals"),
    [
        (FlowMnist, mnist_files, {split: (x[..., None], y) for split, (x, y) in GREY.items()}),
        (FlowFashionMnist, mnist_files, {split: (x[..., None], y) for split, (x, y) in GREY.items()}),
        (FlowCifar10, cifar10_files, {split: (x.transpose(0, 2, 3, 1), y) for split, (x, y) in COLOUR.items()}),
    ],
)
def test_downloads_once_and_reads_back_every_bit(offer, root, parent, files, originals):
    _, stop = offer(parent, files())
    assert_is(load("local", data_dir=root), *originals["train"])
    stop()
    for split, original in originals.items():
        assert_is(load("local", split, data_dir=root), *original)
    assert [path.name for path in root.iterdir()] == [BUILDERS["local"].name]  # no downloads, no leftovers


def test_a_download_with_a_wrong_checksum_is_refused(offer, root):
    files = mnist_files()
    folder, _ = offer(FlowMnist, files)
    other = gzip.compress(idx(GREY["train"][0] ^ 1))
    (folder / TRAIN_IMAGES).write_bytes(other)
    expected, found = (hashlib.sha256(content).hexdigest() for content in (files[TRAIN_IMAGES], other))
    with pytest.raises(DataError, match=f"(?s)train-images-idx3.*{expected}.*{found}.*from_files=") as caught:
        load("local", data_dir=root)
    assert str(root) not in str(caught.value)  # where it lay for a moment is of no use to anybody
    assert left_in(root) == []


def test_an_address_without_a_recorded_checksum_is_refused(offer, root):
    offer(FlowMnist, mnist_files())
    BUILDERS["local"].url_infos.popitem()
    with pytest.raises(DataError, match="Missing checksums"):
        load("local", data_dir=root)
    assert left_in(root) == []


@pytest.mark.parametrize("unpacked", [False, True])
def test_from_files_needs_no_network(offer, root, unpacked):
    folder, stop = offer(FlowMnist, mnist_files())
    stop()
    if unpacked:
        for path in folder.iterdir():
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    for split, (images, labels) in GREY.items():
        assert_is(load("local", split, data_dir=root, from_files=folder), images[..., None], labels)
    assert [path.name for path in root.iterdir()] == [BUILDERS["local"].name]


def test_from_files_with_another_file_is_refused(root, tmp_path):
    """With the real builder: our small file is not the real one, whose sha256 is recorded."""
    for name, content in mnist_files().items():
        (tmp_path / name).write_bytes(content)
    name = FlowMnist.URLS[0].rsplit("/", 1)[1]
    expected, found = FlowMnist.url_infos[FlowMnist.URLS[0]].checksum, hashlib.sha256(mnist_files()[name]).hexdigest()
    with pytest.raises(DataError, match=f"{name} is not the original.*{expected}.*{found}. Replace it"):
        load("mnist", data_dir=root, from_files=tmp_path)
    assert not root.exists()


CONTENT = {name.removesuffix(".gz"): gzip.decompress(packed) for name, packed in mnist_files().items()}


@pytest.fixture
def known_content(offer):
    """The folder of a data set "local"."""
    folder, _ = offer(FlowMnist, mnist_files())
    return folder


def test_from_files_takes_what_was_packed_anew(known_content, root):
    """As a distribution ships them: without the name and the date that the original's header has."""
    for name, content in CONTENT.items():
        (known_content / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1, mtime=7))
    loaded = load("local", data_dir=root, from_files=known_content)
    assert_is(loaded, GREY["train"][0][..., None], GREY["train"][1])


@pytest.mark.parametrize("packed", [False, True])
def test_from_files_refuses_another_content(known_content, root, packed):
    (known_content / TRAIN_IMAGES).unlink()
    name = "train-images-idx3-ubyte"
    other = bytearray(CONTENT[name])
    other[100] ^= 1
    (known_content / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(other) if packed else bytes(other))
    with pytest.raises(DataError, match=f"{name}.* is not the original file"):
        load("local", data_dir=root, from_files=known_content)


@pytest.mark.parametrize("missing", sorted(mnist_files()))
def test_from_files_with_a_missing_file_names_it_and_all(offer, root, missing):
    folder, _ = offer(FlowMnist, mnist_files())
    (folder / missing).unlink()
    with pytest.raises(DataError) as caught:
        load("local", data_dir=root, from_files=folder)
    assert str(caught.value).startswith(f"{missing} is not in {folder}")
    assert all(name in str(caught.value) for name in mnist_files())
    assert not root.exists()


@pytest.mark.parametrize("content", [b"", b"no IDX file", idx(GREY["train"][0])[:-1], idx(GREY["train"][0][:, 1:])])
def test_an_unpacked_file_that_cannot_be_read_is_refused(offer, root, content):
    folder, _ = offer(FlowMnist, mnist_files())
    (folder / TRAIN_IMAGES).unlink()
    (folder / TRAIN_IMAGES).with_suffix("").write_bytes(content)
    with pytest.raises(DataError, match="Nothing was kept|Replace it by the original"):
        load("local", data_dir=root, from_files=folder)
    assert left_in(root) == []


# ------------------------------------------------------------------------------------------------ no network


def served_at(monkeypatch, base: str):
    monkeypatch.setitem(BUILDERS, "local", builder_of(FlowMnist, mnist_files(), base))


def assert_fails_fast(root, match: str, seconds: float = 15):
    start = time.perf_counter()
    with pytest.raises(DataError, match=f"local cannot be downloaded.*{match}.*network.*from_files=.*data_dir="):
        load("local", data_dir=root)
    assert time.perf_counter() - start < seconds
    assert not root.exists()


def test_no_such_host_fails_fast(root, monkeypatch):
    served_at(monkeypatch, "http://no-such-host.invalid")
    assert_fails_fast(root, "no connection")


def test_a_stopped_server_fails_fast(offer, root):
    _, stop = offer(FlowMnist, mnist_files())
    stop()
    assert_fails_fast(root, "no connection")


def test_a_silent_server_fails_fast(root, monkeypatch):
    monkeypatch.setattr(preparation, "PATIENCE", 0.3)
    with http.server.socketserver.TCPServer(("127.0.0.1", 0), None) as mute:  # listens and never answers
        served_at(monkeypatch, f"http://127.0.0.1:{mute.server_address[1]}")
        assert_fails_fast(root, "no connection", seconds=5)


def test_a_resolver_that_hangs_fails_fast(root, monkeypatch):
    monkeypatch.setattr(preparation, "PATIENCE", 0.1)
    served_at(monkeypatch, "http://no-such-host.invalid")
    released = threading.Event()

    def hang(*args, **kwargs):
        released.wait(60)
        raise preparation.requests.ConnectionError

    monkeypatch.setattr(preparation.requests, "get", hang)
    assert_fails_fast(root, "no answer in 0.2 seconds", seconds=5)
    released.set()


def test_a_file_that_is_gone_fails_fast(offer, root):
    folder, _ = offer(FlowMnist, mnist_files())
    (folder / FlowMnist.URLS[0].rsplit("/", 1)[1]).unlink()
    assert_fails_fast(root, "404", seconds=5)


def test_a_file_that_is_cut_short_leaves_nothing(offer, root):
    """It is neither kept nor mistaken for the whole."""
    folder, _ = offer(FlowMnist, mnist_files())
    path = folder / FlowMnist.URLS[-1].rsplit("/", 1)[1]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="thrown away"):
        load("local", data_dir=root)
    assert left_in(root) == []


def test_the_proxy_of_the_environment_is_used(offer, root, monkeypatch):
    """An http proxy gets the whole address; ours takes the path of it, so the host need not exist."""
    folder, _ = offer(FlowMnist, mnist_files())
    proxy = BUILDERS["local"].URLS[0].rsplit("/", 1)[0]
    served_at(monkeypatch, "http://no-such-host.invalid")
    (folder / "http:" / "no-such-host.invalid").mkdir(parents=True)
    for name, content in mnist_files().items():
        (folder / "http:" / "no-such-host.invalid" / name).write_bytes(content)
    monkeypatch.setenv("http_proxy", proxy)
    assert len(load("local", data_dir=root)["image"]) == 30


def test_download_can_be_forbidden(offer, root):
    offer(FlowMnist, mnist_files())
    with pytest.raises(DataError, match="not prepared in .*Pass download=True, or pass from_files="):
        load("local", data_dir=root, download=False)
    assert not root.exists()
    assert len(load("digits", data_dir=root, download=False)["image"]) == 1500  # nothing to download


# ------------------------------------------------------------------------------------------------ names, splits


def test_an_unknown_name_lists_ours_and_what_is_prepared(prepared, root):
    with pytest.raises(DataError, match=r"no data set 'mnits'. Ours are digits, mnist.*: flow_digits. Choose"):
        load("mnits", data_dir=prepared)
    with pytest.raises(DataError, match=r"prepared in .*: none. Choose"):
        load("flow_digits:1.0.0", data_dir=root)
    with pytest.raises(DataError, match="no data set"):
        load("flow_digits:9.9.9", data_dir=prepared)


def test_an_unknown_split_lists_them(prepared):
    with pytest.raises(DataError, match="no split 'validation'. Choose from: train, test"):
        load("digits", "validation", data_dir=prepared)
    for split in ("train[a:b]", "train[:0]"):
        with pytest.raises(DataError, match="empty or not understood.*Write it as"):
            load("digits", split, data_dir=prepared)


class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set that somebody else prepared, with other features."""

    name = "foreign"
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, version="2.0.0") for name in ("even", "ragged")]

    def _info(self):
        features = {
            "x": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            "text": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"only": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            length = i if self.builder_config.name == "ragged" else 3
            yield i, {"x": np.full(length, i, np.float32), "text": "abc"[: i % 3 + 1]}


@pytest.fixture
def foreign(root):
    with preparation.without_output(bars=False):
        for config in ("even", "ragged"):
            Foreign(data_dir=root, config=config).download_and_prepare(file_format="array_record")
    return root


def test_what_others_prepared_is_read_too(foreign):
    for name in ("foreign/even", "foreign/even:2.0.0"):
        loaded = load(name, "only", data_dir=foreign)
        assert loaded["x"].shape == (5, 3) and sorted(loaded["x"][:, 0]) == list(range(5))
        assert set(loaded["text"]) == {b"a", b"ab", b"abc"}
    with pytest.raises(DataError, match="not made of arrays of one shape.*equally large"):
        load("foreign/ragged", "only", data_dir=foreign)
    with pytest.raises(DataError, match="prepared in .*: foreign/even, foreign/ragged. Choose"):
        load("foreign", data_dir=foreign)


def test_the_newest_version_is_read(own):
    root, folder = own
    shutil.copytree(folder, folder.with_name("1.10.0"))
    shutil.copytree(folder, folder.with_name("1.9.0"))
    assert reading.prepared_folder("flow_digits", root).name == "1.10.0"
    assert reading.prepared_folder("flow_digits:1.0.0", root) == folder


# ------------------------------------------------------------------------------------------------ damage on disk


def damages() -> dict:
    def flip_a_bit(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return {
        "missing": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "one bit flipped": flip_a_bit,
        "too few records": lambda path: shutil.copy(next(path.parent.glob("*test*")), path),
    }


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_file_says_which_folder_to_delete(own, damage):
    root, folder = own
    damages()[damage](next(folder.glob("*train.array_record*")))
    for name in ("digits", "flow_digits"):
        with pytest.raises(DataError, match=f"{folder} cannot be read: .*delete that folder and load again"):
            load(name, data_dir=root)
    shutil.rmtree(folder)
    assert len(load("digits", data_dir=root)["image"]) == 1500


def test_too_many_records_are_noticed(own):
    root, folder = own
    shutil.copy(next(folder.glob("*train.array_record*")), next(folder.glob("*test.array_record*")))
    with pytest.raises(DataError, match="has 1500 records, not 297.*delete that folder"):
        load("digits", "test", data_dir=root)


@pytest.mark.parametrize("missing", ["dataset_info.json", "features.json"])
def test_a_half_prepared_folder_says_so(own, missing):
    root, folder = own
    (folder / missing).unlink()
    for name in ("digits", "flow_digits"):
        with pytest.raises(DataError, match=f"half prepared: it has no {missing}. Delete that folder"):
            load(name, data_dir=root)


def test_a_garbled_info_file_says_which_folder_to_delete(own):
    root, folder = own
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=f"{folder} cannot be read: .*delete that folder"):
        load("digits", data_dir=root)


def test_another_format_is_refused(own):
    root, folder = own
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="needs TensorFlow.*file_format='array_record'"):
        load("digits", data_dir=root)


@pytest.mark.parametrize(("trouble", "raised"), [(KeyboardInterrupt, KeyboardInterrupt), (OSError, DataError)])
def test_an_interrupted_preparation_leaves_nothing(root, monkeypatch, trouble, raised):
    class Interrupted(FlowDigits):
        name = "flow_digits"

        def _generate_examples(self, images, labels):
            for index, example in super()._generate_examples(images, labels):
                if index == 200:
                    assert left_in(root)  # it was at it
                    raise trouble("the disk is full")
                yield index, example

    monkeypatch.setitem(BUILDERS, "digits", Interrupted)
    with pytest.raises(raised, match="the disk is full"):
        load("digits", data_dir=root)
    assert left_in(root) == []
    monkeypatch.undo()
    assert len(load("digits", data_dir=root)["image"]) == 1500


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be prepared in .*file/root"):
        load("digits", data_dir=tmp_path / "file" / "root")


def test_our_checksums_are_those_of_tfds():
    known = tfds.core.download.checksums.get_all_url_infos()
    for builder in BUILDERS.values():
        for url in builder.URLS:
            assert builder.url_infos[url] == known[url]
