"""Data sets: what every source must give, and what it says when it cannot."""

import gzip
import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fastrobust import data


def small(num_classes=3, shape=(4, 5, 3)):
    """Return valid arrays: every class twice in training, once in the test."""
    rng = np.random.default_rng(7)
    return {
        "x_train": rng.integers(0, 256, (2 * num_classes, *shape), np.uint8),
        "y_train": np.arange(2 * num_classes) % num_classes,
        "x_test": rng.integers(0, 256, (num_classes, *shape), np.uint8),
        "y_test": np.arange(num_classes)[::-1].copy(),
    }


def write_idx(path, array, *, packed):
    """Write the IDX format of MNIST: magic, big-endian sizes, bytes."""
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_mnist(raw, arrays, *, packed):
    raw.mkdir(parents=True)
    for split, stem in (("train", "train"), ("test", "t10k")):
        write_idx(raw / f"{stem}-images-idx3-ubyte", arrays[f"x_{split}"], packed=packed)
        labels = arrays[f"y_{split}"].astype(np.uint8)
        write_idx(raw / f"{stem}-labels-idx1-ubyte", labels, packed=packed)


def write_folder(root, arrays, names):
    for split in ("train", "test"):
        pairs = zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)
        for index, (pixels, label) in enumerate(pairs):
            folder = root / split / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{index}.png")


def same_images(tensor, array):
    """Compare float32 NCHW in [0, 1] with the uint8 NHWC that it came from."""
    expected = array.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_digits_are_all_of_scikit_learns_in_a_fixed_split():
    digits = data.load("digits")
    assert digits.x_train.shape == (1297, 1, 8, 8) and digits.x_test.shape == (500, 1, 8, 8)
    assert digits.x_train.dtype == torch.float32 and digits.y_train.dtype == torch.int64
    source = load_digits()
    held_out = np.random.RandomState(0).permutation(1797)[-500:]
    np.testing.assert_array_equal(digits.x_test[:, 0].numpy(), source.images[held_out] / 16)
    np.testing.assert_array_equal(digits.y_test.numpy(), source.target[held_out])
    both = torch.cat([digits.x_train, digits.x_test])[:, 0]
    assert sorted(map(bytes, (both * 16).byte().numpy())) == sorted(
        map(bytes, source.images.astype(np.uint8))
    )
    assert digits.y_test[:8].tolist() == [0, 9, 6, 9, 8, 4, 5, 8]
    assert digits.digest == "71526d29715e4aa47f5fc1a7732ffa27503c97abdaf0a159cc974a39403857de"


def test_digest_is_sha256_of_the_stored_bytes_whichever_splits_are_kept(tmp_path):
    arrays = small()
    np.savez(tmp_path / "a.npz", **arrays)
    by_hand = hashlib.sha256(b"255")
    for name in ("x_train", "y_train", "x_test", "y_test"):
        by_hand.update(str(arrays[name].shape).encode() + arrays[name].tobytes())
    whole = data.load(f"npz:{tmp_path}/a.npz")
    test_only = data.load(f"npz:{tmp_path}/a.npz", splits=("test",))
    assert whole.digest == test_only.digest == by_hand.hexdigest()
    assert test_only.x_train.shape == (0, 3, 4, 5) and test_only.y_train.shape == (0,)
    assert torch.equal(test_only.x_test, whole.x_test)
    arrays["y_test"] = arrays["y_test"][::-1]
    assert data.DataSet.from_uint8("b", arrays).digest != whole.digest


def test_npz_becomes_float_channels_first(tmp_path):
    arrays = small()
    np.savez(tmp_path / "a.npz", **arrays)
    loaded = data.load(f"npz:{tmp_path}/a.npz")
    for split in ("train", "test"):
        same_images(getattr(loaded, f"x_{split}"), arrays[f"x_{split}"])
        np.testing.assert_array_equal(getattr(loaded, f"y_{split}").numpy(), arrays[f"y_{split}"])
    assert (loaded.num_classes, loaded.class_names) == (3, ("0", "1", "2"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "name, folder, first", [("mnist", "MNIST", "0 - zero"), ("fashion_mnist", "FashionMNIST", "T-")]
)
def test_mnist_files_are_read_packed_or_not(tmp_path, monkeypatch, name, folder, first, packed):
    arrays = small(10, (28, 28))
    write_mnist(tmp_path / folder / "raw", arrays, packed=packed)
    monkeypatch.setenv("FASTROBUST_DATA", str(tmp_path))
    loaded = data.load(name)
    same_images(loaded.x_test, arrays["x_test"][..., None])
    assert loaded.y_test.tolist() == arrays["y_test"].tolist()
    assert loaded.class_names[0].startswith(first)
    assert len(list((tmp_path / folder / "raw").iterdir())) == 4, "the folder is left as it was"


def test_folder_of_images(tmp_path):
    arrays, names = small(), ["ant", "bee", "cat"]
    write_folder(tmp_path, arrays, names)
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.class_names == tuple(names)
    order = np.argsort(arrays["y_train"], kind="stable")
    same_images(loaded.x_train, arrays["x_train"][order])
    assert loaded.y_train.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_files_say_where_and_what(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"must be in {tmp_path}.*download=True"):
        data.load(name, tmp_path)


def test_an_incomplete_set_names_the_users_folder(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw, small(10, (28, 28)), packed=True)
    (raw / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"must be in {raw}"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("name", ["npz:{}/none.npz", "folder:{}/none"])
def test_missing_paths_are_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none"):
        data.load(name.format(tmp_path))


@pytest.mark.parametrize("name", ["", "mnits", "npz", "npz:", "folder:", "digits:here"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="data set must be one of digits"):
        data.load(name)


def without(name):
    return lambda arrays: arrays.pop(name)


def changed(name, change):
    return lambda arrays: arrays.update({name: change(arrays[name])})


BAD_ARRAYS = {
    "key": (without("y_test"), ValueError, "must hold x_train"),
    "float pixels": (changed("x_test", lambda x: x / 255), TypeError, "x_test must be uint8"),
    "shape": (changed("x_train", lambda x: x[0, 0]), ValueError, "x_train must have shape"),
    "channels first": (
        changed("x_train", lambda x: x.transpose(0, 3, 1, 2)),
        ValueError,
        "x_train must have shape",
    ),
    "image size": (changed("x_test", lambda x: x[:, :3]), ValueError, "images of one shape"),
    "no images": (changed("x_test", lambda x: x[:0]), ValueError, "at least one image"),
    "count": (changed("y_train", lambda y: y[:-1]), ValueError, "y_train must have shape"),
    "float labels": (changed("y_test", lambda y: y / 1), TypeError, "y_test must hold integer"),
    "negative": (changed("y_test", lambda y: y - 1), ValueError, "y_test must be >= 0"),
    "absent in test": (changed("y_test", lambda y: y * 0), ValueError, "got none of"),
    "gap": (changed("y_train", lambda y: y + (y > 1)), ValueError, "got none of"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(tmp_path, case):
    damage, error, message = BAD_ARRAYS[case]
    arrays = small()
    damage(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(error, match=message):
        data.load(f"npz:{tmp_path}/bad.npz")


def test_pixels_above_white_are_refused():
    with pytest.raises(ValueError, match="from 0 to 16, got"):
        data.DataSet.from_uint8("a", small(), white=16)


def test_a_broken_npz_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="a.npz must be a readable"):
        data.load(f"npz:{tmp_path}/a.npz")


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="splits must be"):
        data.load("digits", splits=("valid",))


def test_folders_that_do_not_fit_are_refused(tmp_path):
    arrays, names = small(), ["ant", "bee", "cat"]
    write_folder(tmp_path / "classes", arrays, names)
    (tmp_path / "classes" / "test" / "cat").rename(tmp_path / "classes" / "test" / "cow")
    with pytest.raises(ValueError, match="same classes in train and test"):
        data.load(f"folder:{tmp_path}/classes")

    write_folder(tmp_path / "sizes", arrays, names)
    Image.new("RGB", (9, 9)).save(tmp_path / "sizes" / "train" / "bee" / "big.png")
    with pytest.raises(ValueError, match="shape of the first.*big.png"):
        data.load(f"folder:{tmp_path}/sizes")

    write_folder(tmp_path / "modes", arrays, names)
    Image.new("RGBA", (5, 4)).save(tmp_path / "modes" / "train" / "bee" / "clear.png")
    with pytest.raises(ValueError, match="clear.png must be an 8-bit grey or RGB.*RGBA"):
        data.load(f"folder:{tmp_path}/modes")


BAD_TENSORS = {
    "dtype": ({"x_test": torch.zeros(3, 3, 4, 5, dtype=torch.float64)}, TypeError, "float32"),
    "rank": ({"x_test": torch.zeros(3, 4)}, ValueError, "one shape|shape"),
    "nan": ({"x_test": torch.full((3, 3, 4, 5), torch.nan)}, ValueError, r"\[0, 1\], got nan"),
    "bright": ({"x_test": torch.full((3, 3, 4, 5), 1.5)}, ValueError, r"\[0, 1\], got 1.5"),
    "label": ({"y_test": torch.tensor([0, 1, 3])}, ValueError, r"y_test must lie in \[0, 3\)"),
    "names": ({"class_names": ("a", "b")}, ValueError, "class_names must hold 3"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_data_set_made_by_hand_is_checked_too(case):
    changes, error, message = BAD_TENSORS[case]
    good = data.DataSet.from_uint8("a", small())
    with pytest.raises(error, match=message):
        replace(good, **changes)
