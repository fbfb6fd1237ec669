import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from confnb import data
from confnb.data import as_images, load, split, stratified_order


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
    d = load("digits")
    assert (len(d.x_train) + len(d.x_held), len(d.x_held), len(d.x_test)) == (1437, 143, 360)
    assert d.shape == (1, 16, 16) and d.classes == 10 and d.title == "scikit-learn digits (16 x 16)"
    for x, y in (d.x_train, d.y_train), (d.x_held, d.y_held), (d.x_test, d.y_test):
        assert x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1 and y.dtype == torch.int64 and len(x) == len(y)
        assert y.bincount().min() >= len(y) // 12


@given(n=st.integers(4, 80), seed=st.integers(0, 3), part=st.floats(.1, 1))
@settings(max_examples=30, deadline=None)
def test_no_image_is_in_two_parts_and_the_held_part_never_changes(n, seed, part):
    (x, y), (xt, yt) = tagged(n), tagged(9, seed=1)
    whole = split(x, y, xt, yt, "tagged")
    some = split(x, y, xt, yt, "tagged", train=max(1, int(part * len(whole.x_train))), test=3, seed=seed)
    assert torch.equal(some.x_held, whole.x_held)
    for d in whole, some:
        assert not rows(d.x_train) & rows(d.x_held) and not (rows(d.x_train) | rows(d.x_held)) & rows(d.x_test)
    assert rows(whole.x_train) | rows(whole.x_held) == rows(as_images(x))
    by_pixels = dict(zip([i.tobytes() for i in as_images(x).numpy()], y, strict=True))
    assert [by_pixels[i.numpy().tobytes()] for i in some.x_train] == some.y_train.tolist()


def test_a_smaller_test_set_is_the_beginning_of_a_larger_one():
    small, large = load("digits", test=30), load("digits", test=100)
    assert torch.equal(small.x_test, large.x_test[:30]) and len(small.x_train) == 1294
    assert not torch.equal(load("digits", test=30, seed=1).x_test, small.x_test)


def test_at_most_5000_are_held_out():
    y = np.arange(60_000) % 2
    d = split(np.zeros((60_000, 1, 1), np.uint8), y, np.zeros((2, 1, 1), np.uint8), y[:2], "many", train=10)
    assert len(d.x_held) == 5000 and len(d.x_train) == 10


@pytest.mark.parametrize("wrong, say", [
    (dict(train=1295), "1,295 training .143 more are held out. examples were asked for, but there are 1,294"),
    (dict(test=361), "361 test examples were asked for, but there are 360"),
    (dict(test=0), "ask for 1 to 360"),
])
def test_more_than_there_are_is_refused(wrong, say):
    with pytest.raises(ValueError, match=say):
        load("digits", **wrong)


@pytest.mark.parametrize("name", ["", "digit", "MNIST", "npz:", "folder:", "zip:a"])
def test_an_unknown_name_gets_the_list(name):
    with pytest.raises(ValueError, match="digits, mnist, fashion-mnist, cifar10, svhn, imagenet, npz:PATH and folder:PATH"):
        load(name)


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
    d = load("npz:some_set.npz", test=4)
    assert d.title == "some set" and d.shape == (1, 4, 4) and (len(d.x_train), len(d.x_held), len(d.x_test)) == (27, 3, 4)
    npz(Path.cwd(), "some_set.npz", x_test=tagged(3)[0], y_test=tagged(3)[1])
    assert len(load("npz:some_set.npz").x_test) == 3
    assert len(load(f"npz:{root / 'some_set.npz'}").x_test) == 6


@pytest.mark.parametrize("change, error, say", [
    (dict(y_test=None), ValueError, "set.npz has no y_test; it needs x_train, y_train, x_test, y_test and has"),
    (dict(y_train=np.arange(7) % 3), ValueError, r"y_train must have shape \(30,\)"),
    (dict(y_train=np.arange(30) % 3 + .5), TypeError, "y_train must be integer class indices"),
    (dict(x_train=np.full((30, 4, 4), 9.)), ValueError, "x_train: pixels must lie in"),
    (dict(x_test=np.zeros((6, 5, 5), np.uint8)), ValueError, r"training images are \(1, 4, 4\) and test images are \(1, 5, 5\)"),
    (dict(y_test=np.full(6, 5)), ValueError, "class 5 occurs in y_test and never in y_train"),
    (dict(y_train=np.full(30, -1)), ValueError, "from -1 to -1"),
    (dict(x_test=np.zeros((0, 4, 4), np.uint8), y_test=np.zeros(0, int)), ValueError, "no images that go with y_test"),
    (dict(x_train=np.array([object()])), ValueError, "plain numbers only"),
])
def test_bad_npz_contents_are_refused(root, change, error, say):
    npz(root, **change)
    with pytest.raises(error, match=say):
        load("npz:set.npz")


def test_files_that_are_no_npz_are_refused(root):
    root.mkdir()
    (root / "text.npz").write_text("hello")
    (root / "empty.npz").write_bytes(b"")
    npz(root)
    (root / "half.npz").write_bytes((root / "set.npz").read_bytes()[:600])
    np.save(root / "one.npy", np.zeros(3))
    with pytest.raises(FileNotFoundError, match="there is no nowhere.npz; looked for"):
        load("npz:nowhere.npz")
    for name in "text.npz", "empty.npz", "half.npz", "one.npy":
        with pytest.raises(ValueError, match=f"{name} is no .npz file, or a damaged one; np.savez writes one"):
            load(f"npz:{name}")
    content = bytearray((root / "set.npz").read_bytes())
    content[200:210] = b"0123456789"
    (root / "set.npz").write_bytes(content)
    with pytest.raises(ValueError, match="plain numbers only, and whole"):
        load("npz:set.npz")


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
    d = load("folder:my_pictures")
    assert d.shape == (channels, 5, 6) and d.classes == 2 and d.title == "my pictures" and len(d.x_train) + len(d.x_held) == 14
    written = np.asarray(Image.open(folder / "my_pictures/test/horse/0.png"))
    first = d.x_test[d.y_test == 1][0]
    assert torch.equal((first * 255).round().to(torch.uint8), torch.from_numpy(written.copy()).expand(channels, -1, -1))


def test_a_picture_of_another_size_is_refused(folder):
    pictures(folder, "test", "horse", 1, size=(7, 5))
    with pytest.raises(ValueError, match="one size, but train/cat/0.png and test/horse/0.png are 6 x 5 and 7 x 5 pixels; resize them first"):
        load("folder:my_pictures")


def test_grey_pictures_among_coloured_ones_become_coloured(folder):
    grey = np.asarray(Image.open(folder / "my_pictures/test/cat/0.png"))
    pictures(folder, "train", "horse", 1, mode="RGB")
    d = load("folder:my_pictures")
    cat = d.x_test[d.y_test == 0][0]
    assert d.shape == (3, 5, 6) and torch.equal((cat * 255).round().to(torch.uint8), torch.from_numpy(grey.copy()).expand(3, -1, -1))


def test_other_classes_in_test_are_refused(folder):
    pictures(folder, "test", "zebra", 1)
    with pytest.raises(ValueError, match="same class folders, but zebra"):
        load("folder:my_pictures")


def test_a_folder_without_parts_is_refused(root):
    (root / "my_pictures").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="has no train and no test"):
        load("folder:my_pictures")


def test_a_damaged_picture_is_named(folder):
    file = folder / "my_pictures/train/cat/0.png"
    whole = file.read_bytes()
    for content in b"nothing", whole[: len(whole) - 40]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match="train/cat/0.png cannot be read as a picture"):
            load("folder:my_pictures")


def test_sixteen_bit_pictures_are_refused(folder):
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(folder / "my_pictures/train/cat/0.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        load("folder:my_pictures")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "svhn"])
def test_without_files_and_network_a_sentence_says_what_to_do_and_nothing_is_left(root, no_network, name):
    with pytest.raises(FileNotFoundError, match=f"{name} is not under .* set CONFNB_DATA .* or use 'digits'") as e:
        load(name)
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
        load("mnist")
    assert not list(root.rglob("*"))


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
    assert len(load("mnist").x_test) == 20
    assert sorted(f.name for f in root.rglob("*") if f.is_file()) == ["test", "train"] and [f.name for f in root.iterdir()] == ["MNIST"]


def test_damaged_files_are_named(root):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in "train", "t10k":
        for kind in "images-idx3", "labels-idx1":
            (raw / f"{part}-{kind}-ubyte").write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x05" * 3 + b"abc")
    with pytest.raises(ValueError, match="the files of mnist under .* cannot be read .* delete them"):
        load("mnist")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_gets_the_same_sentence(root, no_network):
    root.mkdir()
    root.chmod(0o500)
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        load("mnist")


@pytest.mark.data
@pytest.mark.skipif(not (data.data_root() / "MNIST").is_dir(), reason="MNIST is not under CONFNB_DATA")
def test_mnist_from_confnb_data():
    d = load("mnist", train=1000, test=500)
    assert d.title == "MNIST" and d.shape == (1, 28, 28) and d.classes == 10
    assert len(d.x_held) == 5000 and len(d.x_train) == 1000 and len(d.x_test) == 500
    assert d.x_test.min() == 0 and d.x_test.max() == 1 and abs(d.x_held.mean().item() - .1307) < .002
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
    opened, real = [], data._picture
    monkeypatch.setattr(data, "_picture", lambda file: opened.append(file) or real(file))
    d = load("imagenet", train=4, test=2)
    assert d.shape == (3, 224, 224) and d.classes == 2 and len(opened) == len(d.x_train) + len(d.x_held) + len(d.x_test) == 7  # no other file
    crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    known = [crop(Image.open(f).convert("RGB")) for f in sorted((root / "imagenet/val").rglob("*.png"))]
    assert all(any(torch.equal(x, k) for k in known) for x in d.x_test)


def test_imagenet_that_is_not_there_is_asked_for(root):
    (root / "imagenet" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="without a login, and .* has no val; put"):
        load("imagenet")
