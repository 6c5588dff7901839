"""What a disk or somebody else can do to teachers and data sets: one line, and nothing is lost."""

import contextlib
import errno
import json
import os
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from problems import same
from tensorflow_datasets.core.features import feature

from flowcore import teachers
from flowcore.data import DataError, load
from flowcore.data.datasets.mnist import FILES
from flowcore.training import Recipe

DENOISER = Recipe(width=4, depth=1, steps=2, batch=2)


@pytest.fixture(autouse=True, scope="module")
def as_users_do():
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


# --- teachers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flowcore"


IMAGES = jax.random.normal(jax.random.key(0), (6, 2, 2, 1))


def ask():
    return teachers.denoiser(IMAGES, DENOISER)


def test_every_flipped_bit_of_a_cached_teacher_is_noticed(cache, capsys):
    first = ask()
    assert capsys.readouterr().out == "training a denoiser for 2 steps, once: it is kept for the next time\n"
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 40).astype(int):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert teachers.load(file, first) is None
        assert capsys.readouterr().out == f"{file} is damaged: training anew\n"
    file.write_bytes(whole[:-1])
    assert same(ask(), first) and file.read_bytes() == whole
    capsys.readouterr()
    assert same(ask(), first) and capsys.readouterr().out == ""


def test_whoever_shows_the_progress_is_told_nothing_else(cache, capsys):
    teachers.denoiser(IMAGES, DENOISER, progress=list)
    teachers.classifier(IMAGES, jnp.zeros(6, int), teachers.Classifier(steps=1, batch=2, width=2), progress=list)
    assert capsys.readouterr().out == ""


def no_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def hinder_disk(cache, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", no_space)
    return "No space left on device"


def hinder_move(cache, monkeypatch):
    monkeypatch.setattr(os, "replace", no_space)
    return "No space left on device"


def hinder_folder(cache, monkeypatch):
    cache.parent.mkdir()
    cache.write_text("")  # where the folder should be
    return "XDG_CACHE_HOME"


def hinder_reading(cache, monkeypatch):
    place = teachers.cache_path("denoiser", DENOISER, IMAGES)
    place.mkdir(parents=True)  # cannot be read as a file, nor replaced by one
    return "Is a directory"


@pytest.mark.parametrize("hinder", [hinder_disk, hinder_move, hinder_folder, hinder_reading])
def test_a_trained_teacher_is_given_back_though_it_cannot_be_kept(cache, monkeypatch, capsys, hinder):
    with monkeypatch.context() as patch:
        words = hinder(cache, patch)
        found = ask()
    said = capsys.readouterr().out.splitlines()
    assert words in said[-1] and "free some space" in said[-1] and "XDG_CACHE_HOME" in said[-1]
    assert "is trained but not kept in" in said[-1] and len(said) == (
        3 if hinder in (hinder_reading, hinder_folder) else 2
    )
    if cache.is_dir():
        assert not [path for path in cache.iterdir() if path.is_file()]  # no half
    with contextlib.suppress(OSError):
        cache.unlink()
    shutil.rmtree(cache, ignore_errors=True)
    assert same(ask(), found)


def test_two_who_train_the_same_teacher_do_not_meet(cache, monkeypatch):
    """Of one process even: the second finishes while the first is about to move its file to its place."""
    move, others = os.replace, []

    def late(partial, place):
        if not others:
            others.append(None)
            others[0] = ask()  # whole, before ours is
        assert Path(partial).is_file()
        move(partial, place)

    monkeypatch.setattr(os, "replace", late)
    first = ask()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    assert same(first, others[0]) and same(first, ask()) and len(list(cache.iterdir())) == 1


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    load("digits", data_dir=root)
    return root


def hidden(named):
    return {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "jsonFeature": {"json": json.dumps({"x": named})},
    }


TODAY, BEFORE = ({key: "planted.Feature", "content": {}} for key in ("pythonClassName", "type"))


@pytest.mark.parametrize("content", [TODAY, BEFORE, hidden(TODAY), hidden(BEFORE)])
def test_a_foreign_feature_is_refused_before_its_module_is_imported(digits, tmp_path, monkeypatch, content):
    folder = shutil.copytree(digits, tmp_path / "root") / "flow_digits" / "1.0.0"
    (tmp_path / "planted.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    (folder / "features.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="class 'planted.Feature', which is none of TFDS: its code is not run. Delete"):
        load("digits", data_dir=tmp_path / "root")
    assert "planted" not in sys.modules
    with contextlib.suppress(Exception):  # the power of this test: TFDS itself imports it
        feature.FeatureConnector.from_json({"type": "planted.Feature", "content": {}})
    assert sys.modules.pop("planted")


def test_a_module_that_a_data_set_names_is_not_imported_either(digits, tmp_path, monkeypatch):
    folder = shutil.copytree(digits, tmp_path / "root") / "flow_digits" / "1.0.0"
    (tmp_path / "planted.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"moduleName": "planted"}))
    assert len(load("digits", data_dir=tmp_path / "root")["image"]) == 1500
    assert "planted" not in sys.modules


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_unpacked_originals_are_compared_too(tmp_path, name):
    """With the real builders: what is there is in the right format, and not the data set."""
    for file in FILES:
        axes = 3 if "images" in file else 1
        content = bytes([0, 0, 8, axes]) + b"".join(n.to_bytes(4, "big") for n in (3, 28, 28)[:axes])
        (tmp_path / file.removesuffix(".gz")).write_bytes(content + bytes(3 * 28 ** (axes - 1)))
    with pytest.raises(DataError, match="train-images-idx3-ubyte is not the original file: expected sha256 .*Replace"):
        load(name, data_dir=tmp_path / "root", from_files=tmp_path)
    assert not (tmp_path / "root").exists()


def test_without_a_recorded_checksum_an_unpacked_file_is_refused(tmp_path, monkeypatch):
    from flowcore.data.datasets.mnist import FlowMnist

    monkeypatch.setattr(FlowMnist, "url_infos", {url: FlowMnist.url_infos[url] for url in FlowMnist.URLS})
    (tmp_path / FILES[0].removesuffix(".gz")).write_bytes(b"")
    with pytest.raises(
        DataError, match=f"cannot be compared: only {FILES[0]} has a recorded sha256. Put {FILES[0]} there"
    ):
        load("mnist", data_dir=tmp_path / "root", from_files=tmp_path)
