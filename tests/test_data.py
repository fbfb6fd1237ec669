import copy
import gzip
import hashlib
import io
import os
import pickle
import shutil
import socket
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from confnb import data
from confnb import images as images_module
from confnb import pictures as pictures_module
from confnb.data import load_data
from confnb.images import as_images, split, stratified_order

MEMORY = pictures_module._memory


@pytest.fixture
def root(tmp_path, monkeypatch):
    "An empty CONFNB_DATA"
    monkeypatch.setenv("CONFNB_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def rows(x):
    return {image.numpy().tobytes() for image in x}


def tagged(n, seed=0):
    "n images that all differ, as bytes, and their labels"
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 4, 4), dtype=np.uint8)
    return pixels, np.arange(n) % 3


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5))
@settings(deadline=None)
def test_every_prefix_of_the_order_holds_the_classes_in_proportion(labels, seed):
    y = torch.tensor(labels)
    order = stratified_order(y, seed)
    assert sorted(order.tolist()) == list(range(len(y)))
    share = torch.nn.functional.one_hot(y, 4).double().mean(0)
    taken = torch.nn.functional.one_hot(y[order], 4).double().cumsum(0)
    expected = torch.arange(1, len(y) + 1, dtype=torch.float64)[:, None] * share
    assert (taken - expected).abs().max() <= 2


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    y, state = torch.arange(100) % 10, torch.get_rng_state()
    assert torch.equal(stratified_order(y, 1), stratified_order(y, 1)) and not torch.equal(stratified_order(y, 1), stratified_order(y, 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_digits_have_the_sizes_and_types_that_were_promised():
    d = load_data("digits")
    assert (len(d.x_train) + len(d.x_val), len(d.x_val), len(d.x_test)) == (1437, 143, 360)
    assert d.shape == (1, 16, 16) and d.classes == 10 and d.title == "scikit-learn digits (16 x 16)"
    for x, y in (d.x_train, d.y_train), (d.x_val, d.y_val), (d.x_test, d.y_test):
        assert x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1 and y.dtype == torch.int64 and len(x) == len(y)
        assert y.bincount().min() >= len(y) // 12


@given(n=st.integers(4, 80), seed=st.integers(0, 3), part=st.floats(.1, 1))
@settings(max_examples=30, deadline=None)
def test_no_image_is_in_two_parts_and_the_held_part_never_changes(n, seed, part):
    (x, y), (xt, yt) = tagged(n), tagged(9, seed=1)
    whole = split((x, y), (xt, yt), "tagged")
    some = split((x, y), (xt, yt), "tagged", n_train=max(1, int(part * len(whole.x_train))), n_test=3, seed=seed)
    assert torch.equal(some.x_val, whole.x_val)
    for d in whole, some:
        assert not rows(d.x_train) & rows(d.x_val) and not (rows(d.x_train) | rows(d.x_val)) & rows(d.x_test)
    assert rows(whole.x_train) | rows(whole.x_val) == rows(as_images(x))
    by_pixels = dict(zip([i.tobytes() for i in as_images(x).numpy()], y, strict=True))
    assert [by_pixels[i.numpy().tobytes()] for i in some.x_train] == some.y_train.tolist()


def test_a_smaller_test_set_is_the_beginning_of_a_larger_one():
    small, large = load_data("digits", test=30), load_data("digits", test=100)
    assert torch.equal(small.x_test, large.x_test[:30]) and len(small.x_train) == 1294
    assert not torch.equal(load_data("digits", test=30, seed=1).x_test, small.x_test)


def test_at_most_5000_are_held_out():
    y = np.arange(60_000) % 2
    d = split((np.zeros((60_000, 1, 1), np.uint8), y), (np.zeros((2, 1, 1), np.uint8), y[:2]), "many", n_train=10)
    assert len(d.x_val) == 5000 and len(d.x_train) == 10


@pytest.mark.parametrize("wrong, say", [
    (dict(train=1295), "1,295 training .143 more are held out. examples were asked for, but there are 1,294"),
    (dict(test=361), "361 test examples were asked for, but there are 360"),
    (dict(test=0), "ask for 1 to 360"),
])
def test_more_than_there_are_is_refused(wrong, say):
    with pytest.raises(ValueError, match=say):
        load_data("digits", **wrong)


@pytest.mark.parametrize("name", ["", "digit", "MNIST", "npz:", "folder:", "zip:a"])
def test_an_unknown_name_gets_the_list(name):
    with pytest.raises(ValueError, match="digits, mnist, fashion-mnist, cifar10, svhn, imagenet, npz:PATH and folder:PATH"):
        load_data(name)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_and_floats_in_all_layouts_give_the_same_images(channels):
    last = np.random.default_rng(0).integers(0, 256, (5, 7, 9, channels), dtype=np.uint8)
    first = last.transpose(0, 3, 1, 2)
    expected = torch.from_numpy(first.copy()).float() / 255
    for pixels in last, first, last / 255., torch.from_numpy(first.copy()), (first / 255).astype(np.float32):
        assert torch.equal(as_images(pixels), expected) or (as_images(pixels) - expected).abs().max() < 1e-7
    if channels == 1:
        assert torch.equal(as_images(last[..., 0]), expected)


@pytest.mark.parametrize("pixels, error, say", [
    (np.zeros((2, 4, 4), np.int64), TypeError, "pix must be uint8 in 0..255 or floating point"),
    (np.zeros((4, 4)), ValueError, r"pix must have shape .* not \(4, 4\)"),
    (np.zeros((2, 9, 9, 9)), ValueError, "with 1 to 4 channels"),
    (np.full((2, 4, 4), 200.), ValueError, "pix: pixels must lie in .0, 1., .* divide by 255"),
    (np.full((2, 4, 4), np.nan), ValueError, "pix: .* NaN"),
])
def test_pixels_that_cannot_be_are_refused(pixels, error, say):
    with pytest.raises(error, match=say):
        as_images(pixels, "pix")


def npz(root, name="set.npz", **arrays):
    (x, y), (xt, yt) = tagged(30), tagged(6, seed=1)
    content = {k: v for k, v in {**dict(x_train=x, y_train=y, x_test=xt, y_test=yt), **arrays}.items() if v is not None}
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / name, **content)
    return content


def test_an_npz_file_is_found_here_then_under_confnb_data(root):
    npz(root, "some_set.npz")
    d = load_data("npz:some_set.npz", test=4)
    assert d.title == "some set" and d.shape == (1, 4, 4) and (len(d.x_train), len(d.x_val), len(d.x_test)) == (27, 3, 4)
    npz(Path.cwd(), "some_set.npz", x_test=tagged(3)[0], y_test=tagged(3)[1])
    assert len(load_data("npz:some_set.npz").x_test) == 3
    assert len(load_data(f"npz:{root / 'some_set.npz'}").x_test) == 6


@pytest.mark.parametrize("change, error, say", [
    (dict(y_test=None), ValueError, "set.npz has no y_test; it needs x_train, y_train, x_test, y_test and has"),
    (dict(y_train=np.arange(7) % 3), ValueError, r"y_train must have shape \(30,\)"),
    (dict(y_train=np.arange(30) % 3 + .5), TypeError, "y_train must be integer class indices"),
    (dict(x_train=np.full((30, 4, 4), 9.)), ValueError, "x_train: pixels must lie in"),
    (dict(x_test=np.zeros((6, 5, 5), np.uint8)), ValueError, r"training images are \(1, 4, 4\) and test images are \(1, 5, 5\)"),
    (dict(y_test=np.full(6, 5)), ValueError, "class 5 occurs in y_test and never in y_train"),
    (dict(y_train=np.full(30, -1)), ValueError, "y_train must be class indices from 0 up, but these run from -1 to -1"),
    (dict(y_test=np.array([0, 1, 2, 0, 1, -1])), ValueError, "y_test must be class indices from 0 up, but these run from -1 to 2"),
    (dict(y_train=np.full(30, 2**64 - 1, np.uint64)), ValueError, "y_train holds 18446744073709551615, which is more"),
    (dict(y_train=np.array(["cat"] * 30)), ValueError, "plain numbers only, .* y_train holds <U3"),
    (dict(y_train=np.zeros(30, "datetime64[s]")), ValueError, "plain numbers only, .* y_train holds datetime64"),
    (dict(y_train=np.zeros(30, bool)), TypeError, "y_train must be integer class indices"),
    (dict(y_train=np.zeros(30, complex)), TypeError, "y_train must be integer class indices"),
    (dict(x_train=np.array(["cat"] * 30)), ValueError, "x_train holds <U3"),
    (dict(x_train=np.zeros((30, 4, 4), "timedelta64[s]")), ValueError, "x_train holds timedelta64"),
    (dict(x_train=np.zeros((30, 4, 4), np.uint16)), TypeError, "x_train must be uint8 in 0..255 or floating point"),
    (dict(x_train=np.zeros((30, 4, 4), complex)), TypeError, "x_train must be uint8 in 0..255 or floating point in .0, 1., not complex128"),
    (dict(x_train=np.zeros((30, 4, 4), [("a", "u1")])), ValueError, "x_train holds"),
    (dict(x_test=np.zeros((0, 4, 4), np.uint8), y_test=np.zeros(0, int)), ValueError, "no images that go with y_test"),
    (dict(x_train=np.array([object()])), ValueError, "plain numbers only"),
])
def test_bad_npz_contents_are_refused(root, change, error, say):
    npz(root, **change)
    with pytest.raises(error, match=say):
        load_data("npz:set.npz")


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "<u4", ">i4", "<u8", ">u8", ">i8"])
def test_labels_of_any_width_and_byte_order_are_the_same_labels(root, kind):
    npz(root, "plain.npz")
    content = npz(root)
    npz(root, **{k: content[k].astype(kind) for k in ("y_train", "y_test")})
    plain, other = load_data("npz:plain.npz"), load_data("npz:set.npz")
    for name in "y_train", "y_val", "y_test":
        assert getattr(other, name).dtype == torch.int64 and torch.equal(getattr(plain, name), getattr(other, name))


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f2", np.longdouble])
def test_pixels_of_any_width_and_byte_order_are_the_same_pixels(root, kind):
    npz(root, "plain.npz")
    content = npz(root)
    npz(root, **{k: (content[k] / 255).astype(kind) for k in ("x_train", "x_test")})
    torch.testing.assert_close(load_data("npz:set.npz").x_train, load_data("npz:plain.npz").x_train, atol=1e-3, rtol=0)


def test_a_header_that_promises_too_much_is_refused_before_anything_is_read(root):
    npz(root)
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000), }"
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    with zipfile.ZipFile(root / "set.npz", "a") as z, zipfile.ZipFile(root / "big.npz", "w") as big:
        for name in z.namelist():
            big.writestr(name, z.read(name) if name != "x_train.npy" else b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + b"123")
    with pytest.raises(ValueError, match=r"big.npz must hold .* x_train is to hold 1,000,000,000,000,000 bytes, and there are 3"):
        load_data("npz:big.npz")


def test_what_memory_cannot_hold_is_refused_before_anything_is_read(root, folder, monkeypatch):
    content = npz(root)
    x, y = tagged(1000)
    np.savez_compressed(root / "bomb.npz", **content | {"x_train": np.zeros((1000, 40, 40), np.uint8), "y_train": y})
    assert (root / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr(pictures_module, "_memory", lambda: 1e6)
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", None)
    with pytest.raises(ValueError, match="bomb.npz takes 0.0 GB of memory as images, and there are 0.0; ask for fewer"):
        load_data("npz:bomb.npz")
    monkeypatch.setattr(pictures_module, "_memory", lambda: 100)
    with pytest.raises(ValueError, match="a folder of 11 pictures takes"):
        load_data("folder:my_pictures", on_demand=False)
    assert 2**28 < MEMORY()


def test_numpys_memory_error_becomes_a_sentence(root, monkeypatch):
    npz(root)
    def full(*args, **kwargs):
        raise MemoryError("Unable to allocate 1.46 TiB for an array")
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", full)
    with pytest.raises(ValueError, match=r"not enough memory for npz:set.npz \(Unable to allocate 1.46 TiB .*; ask for fewer images"):
        load_data("npz:set.npz")


@pytest.mark.parametrize("name", ["/dev/zero", "pipe.npz"])
def test_what_might_never_end_is_not_read(root, name):
    root.mkdir()
    if name == "pipe.npz":
        os.mkfifo(root / name)
    elif not Path(name).exists():
        pytest.skip("there is no /dev/zero here")
    with pytest.raises(ValueError, match="no regular file"):
        load_data(f"npz:{name}")


def test_a_folder_in_place_of_a_file_is_told_of(root):
    root.mkdir()
    with pytest.raises(ValueError, match="is a folder; folder:PATH takes one"):
        load_data(f"npz:{root}")


def test_a_file_that_may_not_be_read_is_not_called_damaged(root, monkeypatch):
    npz(root)
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match="set.npz cannot be opened: Permission denied; ask its owner"):
        load_data("npz:set.npz")


def test_a_locked_npz_is_refused_in_a_sentence(root):
    npz(root)
    content = bytearray((root / "set.npz").read_bytes())
    for sign, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):  # the flag of encryption, in the directory and before each member
        place = content.find(sign)
        while place >= 0:
            content[place + at] |= 1
            place = content.find(sign, place + 1)
    (root / "set.npz").write_bytes(content)
    with pytest.raises(ValueError, match="set.npz must hold plain numbers only, and whole, .* encrypted"):
        load_data("npz:set.npz")


def test_files_that_are_no_npz_are_refused(root):
    root.mkdir()
    (root / "text.npz").write_text("hello")
    (root / "empty.npz").write_bytes(b"")
    npz(root)
    (root / "half.npz").write_bytes((root / "set.npz").read_bytes()[:600])
    np.save(root / "one.npy", np.zeros(3))
    with pytest.raises(FileNotFoundError, match="there is no nowhere.npz; looked for"):
        load_data("npz:nowhere.npz")
    for name in "text.npz", "empty.npz", "half.npz", "one.npy":
        with pytest.raises(ValueError, match=f"{name} is no .npz file, or a damaged one; np.savez writes one"):
            load_data(f"npz:{name}")
    content = bytearray((root / "set.npz").read_bytes())
    content[200:210] = b"0123456789"
    (root / "set.npz").write_bytes(content)
    with pytest.raises(ValueError, match="plain numbers only, and whole"):
        load_data("npz:set.npz")


def pictures(root, part, label, count, size=(6, 5), mode="L"):
    folder = root / "my_pictures" / part / label
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(label) + count)
    for i in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")


@pytest.fixture
def folder(root):
    for part in "train", "test":
        for label in "cat", "horse":
            pictures(root, part, label, 6)
    return root


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3)])
def test_a_folder_of_pictures(folder, mode, channels):
    pictures(folder, "train", "cat", 8, mode=mode)
    d = load_data("folder:my_pictures")
    assert d.shape == (channels, 5, 6) and d.classes == 2 and d.title == "my pictures" and len(d.x_train) + len(d.x_val) == 14
    written = np.asarray(Image.open(folder / "my_pictures/test/horse/0.png"))
    first = d.x_test[d.y_test == 1][0]
    assert torch.equal((first * 255).round().to(torch.uint8), torch.from_numpy(written.copy()).expand(channels, -1, -1))


def test_a_picture_of_another_size_is_refused(folder):
    pictures(folder, "test", "horse", 1, size=(7, 5))
    with pytest.raises(ValueError, match="one size, but train/cat/0.png and test/horse/0.png are 6 x 5 and 7 x 5 pixels; resize them first"):
        load_data("folder:my_pictures")


def test_grey_pictures_among_coloured_ones_become_coloured(folder):
    grey = np.asarray(Image.open(folder / "my_pictures/test/cat/0.png"))
    pictures(folder, "train", "horse", 1, mode="RGB")
    d = load_data("folder:my_pictures")
    cat = d.x_test[d.y_test == 0][0]
    assert d.shape == (3, 5, 6) and torch.equal((cat * 255).round().to(torch.uint8), torch.from_numpy(grey.copy()).expand(3, -1, -1))


def test_other_classes_in_test_are_refused(folder):
    pictures(folder, "test", "zebra", 1)
    with pytest.raises(ValueError, match="same class folders, but zebra"):
        load_data("folder:my_pictures")


def test_a_folder_without_parts_is_refused(root):
    (root / "my_pictures").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="has no train and no test"):
        load_data("folder:my_pictures")


def test_a_damaged_picture_is_named(folder):
    file = folder / "my_pictures/train/cat/0.png"
    whole = file.read_bytes()
    for content in b"nothing", whole[: len(whole) - 40]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match="train/cat/0.png cannot be read as a picture"):
            load_data("folder:my_pictures")


def test_sixteen_bit_pictures_are_refused(folder):
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(folder / "my_pictures/train/cat/0.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        load_data("folder:my_pictures")


def test_a_pipe_among_the_pictures_is_named_and_not_waited_for(folder):
    os.mkfifo(folder / "my_pictures/test/cat/x.png")
    with pytest.raises(ValueError, match="test/cat/x.png is no regular file; remove it"):
        load_data("folder:my_pictures")


def test_a_picture_of_too_many_pixels_is_refused(folder):
    file = folder / "my_pictures/train/cat/0.png"
    content = bytearray(file.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(ValueError, match="train/cat/0.png says that it has more pixels than any picture here should"):
        load_data("folder:my_pictures")


# parts


@pytest.fixture(params=["digits", "npz:set.npz", "folder:my_pictures", "imagenet", "mnist"])
def named(request, folder, monkeypatch):
    npz(folder)
    imagenet(folder)
    monkeypatch.setattr(data, "_FILES", {name: ("",) for name in data._FILES})
    (folder / "MNIST/raw").mkdir(parents=True)
    monkeypatch.setattr(data, "_part", lambda name, root, part, download=False: tagged(40 if part == "train" else 12, seed=len(part)))
    return request.param


PARTS = [["test"], ["val"], ["train"], ["val", "test"], ["test", "train"], ["train", "val", "test"], "val", ("test", "test"), {"test"}]


def test_each_part_is_the_same_whatever_is_loaded_beside_it(named):
    whole = load_data(named, train=5, test=3)
    for parts in PARTS:
        some = load_data(named, train=5, test=3, parts=parts)
        for part in images_module.PARTS:
            for name in f"x_{part}", f"y_{part}":
                if part in parts:
                    assert torch.equal(getattr(whole, name), getattr(some, name)), parts
                else:
                    with pytest.raises(AttributeError, match=f"the part '{part}' of .* was not loaded; name it in load"):
                        getattr(some, name)
        assert (some.shape, some.title, some.classes) == (whole.shape, whole.title, whole.classes), parts


def test_what_is_not_wanted_is_not_read(root, folder, monkeypatch):
    read = []
    pixels = pictures_module._pixels
    monkeypatch.setattr(pictures_module, "_pixels", lambda file, mode=None: read.append(file) or pixels(file, mode))
    load_data("folder:my_pictures", test=4, parts=["test"])
    assert len(read) == 4 and {f.parts[-3] for f in read} == {"test"}
    imagenet(root)
    read.clear()
    load_data("imagenet", test=2, parts=["val", "test"])
    assert len(read) == 3 and sum("val" in f.parts for f in read) == 2
    read.clear()
    shutil.rmtree(root / "imagenet/train")
    assert len(load_data("imagenet", test=2, parts=["test"]).x_test) == 2
    with pytest.raises(FileNotFoundError, match="has no train"):
        load_data("imagenet", test=2, parts=["val", "test"])


def test_a_file_of_test_images_alone_will_do_for_them(root):
    npz(root, x_train=None, y_train=None)
    assert len(load_data("npz:set.npz", parts=["test"]).x_test) == 6
    with pytest.raises(ValueError, match="has no x_train, y_train"):
        load_data("npz:set.npz", parts=["val"])


def test_a_part_survives_copying_and_says_what_it_is():
    some = load_data("digits", test=7, parts=["test"])
    for again in copy.deepcopy(some), pickle.loads(pickle.dumps(some)):
        assert torch.equal(again.x_test, some.x_test) and not hasattr(again, "x_train")
    assert repr(some) == "Data('scikit-learn digits (16 x 16)': train not loaded, held not loaded, 7 test, 10 classes, images (1, 16, 16))"
    with pytest.raises(AttributeError, match="Data has no 'x_validation'"):
        some.x_validation  # noqa: B018


@pytest.mark.parametrize("parts", [[], ["tests"], "held", [None], None, 3, [["test"]]])
def test_parts_that_are_not_there_are_refused(parts):
    with pytest.raises(ValueError, match="parts are one or more of train, val, test, not"):
        load_data("digits", parts=parts)


def test_a_part_needs_its_images_and_its_labels():
    x, y = tagged(9)
    with pytest.raises(ValueError, match="the parts train, val, test need y_train, which is None"):
        split((x, None), (x, y), "t")
    with pytest.raises(ValueError, match="the parts val need x_train and y_train, which are None"):
        split((None, None), (x, y), "t", parts=["val"])


@pytest.mark.parametrize("n", [2.5, "3", True, -1])
def test_a_number_of_images_is_a_whole_number(n):
    with pytest.raises(ValueError, match="test examples were asked for, but there are 360"):
        load_data("digits", test=n)


@pytest.mark.parametrize("name", [None, 3, ["digits"]])
def test_a_data_set_has_a_name(name):
    with pytest.raises(TypeError, match="a data set has a name"):
        load_data(name)


# downloads


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "svhn"])
def test_without_files_and_network_a_sentence_says_what_to_do_and_nothing_is_left(root, no_network, name):
    with pytest.raises(FileNotFoundError, match=f"{name} is not under .* set CONFNB_DATA .* or use 'digits'") as e:
        load_data(name)
    assert "\n" not in str(e.value) and not [f for f in root.rglob("*")]


def test_an_interrupted_download_leaves_nothing(root, monkeypatch):
    def half(name, where, part, download=False):
        if not download:
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        (where / "MNIST").mkdir(exist_ok=True)
        (where / "MNIST" / part).write_text("half")
        if part == "test":
            raise KeyboardInterrupt
    monkeypatch.setattr(data, "_part", half)
    with pytest.raises(KeyboardInterrupt):
        load_data("mnist")
    assert not list(root.rglob("*"))


def idx(values):
    "An array of bytes as MNIST's files hold it"
    return bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.astype(np.uint8).tobytes()


def test_a_silent_server_is_given_up_and_no_other_connection_is_touched(root, monkeypatch):
    "The real downloader, with a server of our own"
    from torchvision.datasets import MNIST

    x, y = tagged(20)
    files = {f: gzip.compress(idx(x if "images" in f else y)) for f, _ in MNIST.resources}
    monkeypatch.setattr(MNIST, "resources", [(f, hashlib.md5(c).hexdigest()) for f, c in files.items()])
    monkeypatch.setattr(MNIST, "mirrors", ["https://down.example/", "https://up.example/"])
    seen = []

    def urlopen(request, timeout=None):
        seen.append((timeout, socket.getdefaulttimeout()))
        if "down" in request.full_url:
            raise TimeoutError("timed out")
        return io.BytesIO(files[request.full_url.rpartition("/")[2]])

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert rows(load_data("mnist").x_test) == rows(as_images(x)) and set(seen) == {(30, None)} and len(seen) == 8
    assert {f.name for f in (root / "MNIST/raw").iterdir()} >= set(data._IDX)
    monkeypatch.setattr(MNIST, "resources", [(f, "0" * 32) for f in files])
    shutil.rmtree(root)
    with pytest.raises(FileNotFoundError, match="arrived with another checksum"):
        load_data("mnist")


def test_pickles_of_older_torchvisions_are_not_read(root, no_network):
    old = root / "MNIST/processed"
    old.mkdir(parents=True)
    for name in "training.pt", "test.pt":
        torch.save((torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)), old / name)
    with pytest.raises(FileNotFoundError, match="mnist is not under .* the pickles in .*processed are not read") as e:
        load_data("mnist")
    assert "weights_only" not in str(e.value)


def test_a_download_takes_its_place_when_complete(root, monkeypatch):
    def fetch(name, where, part, download=False):
        file = where / "MNIST" / "raw" / part
        if download:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("whole")
        if not file.exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        return tagged(20, seed=len(part))
    monkeypatch.setattr(data, "_part", fetch)
    assert len(load_data("mnist").x_test) == 20
    assert sorted(f.name for f in root.rglob("*") if f.is_file()) == ["test", "train"] and [f.name for f in root.iterdir()] == ["MNIST"]


def test_damaged_files_are_named(root):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in "train", "t10k":
        for kind in "images-idx3", "labels-idx1":
            (raw / f"{part}-{kind}-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x05" * 3 + b"abc")
    with pytest.raises(ValueError, match="the files of mnist under .* cannot be read .* delete them"):
        load_data("mnist")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_gets_the_same_sentence(root, no_network):
    root.mkdir()
    root.chmod(0o500)
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        load_data("mnist")


@pytest.mark.data
@pytest.mark.skipif(not (pictures_module.data_root() / "MNIST").is_dir(), reason="MNIST is not under CONFNB_DATA")
def test_mnist_from_confnb_data():
    d = load_data("mnist", train=1000, test=500)
    assert d.title == "MNIST" and d.shape == (1, 28, 28) and d.classes == 10
    assert len(d.x_val) == 5000 and len(d.x_train) == 1000 and len(d.x_test) == 500
    assert d.x_test.min() == 0 and d.x_test.max() == 1 and abs(d.x_val.mean().item() - .1307) < .002
    assert d.y_test.bincount().min() > 40


def imagenet(root, sizes=((300, 260), (224, 400))):
    "Folders laid out as torchvision's ImageNet, with two classes of pictures of several sizes"
    for part, count in ("train", 8), ("val", 3):
        for label in "n01440764", "n01443537":
            folder = root / "imagenet" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (*sizes[i % 2][::-1], 3), dtype=np.uint8)
                Image.fromarray(pixels).convert("L" if i == 2 else "RGB").save(folder / f"{i}.png")


def test_imagenet_is_read_as_single_crops(root, monkeypatch):
    from torchvision import transforms

    imagenet(root)
    opened, real = [], pictures_module._picture
    monkeypatch.setattr(pictures_module, "_picture", lambda file: opened.append(file) or real(file))
    d = load_data("imagenet", train=4, test=2)
    assert d.shape == (3, 224, 224) and d.classes == 2 and len(opened) == len(d.x_train) + len(d.x_val) + len(d.x_test) == 7  # no other file
    crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    known = [crop(Image.open(f).convert("RGB")) for f in sorted((root / "imagenet/val").rglob("*.png"))]
    assert all(any(torch.equal(x, k) for k in known) for x in d.x_test)


def test_imagenet_that_is_not_there_is_asked_for(root):
    (root / "imagenet" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="without a login, and .* has no val; put"):
        load_data("imagenet")
