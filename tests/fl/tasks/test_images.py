"""The task images."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fl.errors import TaskError
from fl.tasks import Site, TrainingConfig, create
from fl.tasks import images as images_module
from fl.tasks.loop import centralised


def picture(path, grey=100, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color=grey if mode == "L" else (grey,) * len(mode)).save(path)
    return path


@pytest.fixture
def zoo(tmp_path):
    """Ten cats, all darker than ten dogs, and a file that is no picture."""
    for number in range(10):
        picture(tmp_path / "cat" / f"{number}.png", grey=number)
        picture(tmp_path / "dog" / f"{number}.jpg", grey=200 + number, size=(9, 30))
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_a_model_learns_real_pictures(tmp_path):
    digits = load_digits(n_class=3)
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = tmp_path / "digits" / f"{digit}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype(np.uint8)).save(path)
    task = create("images", {"path": str(tmp_path / "digits"), "size": 8, "channels": 1, "width": 8})
    assert centralised(task, TrainingConfig(), epochs=4, seed=1).metrics["accuracy"] > 0.95


def test_classes_are_found_in_the_path_or_named(zoo):
    assert create("images", {"path": str(zoo)}).labels(None).tolist() == [0] * 10 + [1] * 10
    assert create("images", {"classes": ["dog", "cat", "eel"]}).labels(zoo).tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_brought_to_one_size_and_range(zoo, channels):
    task = create("images", {"path": str(zoo), "size": 16, "channels": channels})
    data = task.train_data(Site("a"))
    assert len(data) == 16
    for inputs, label in data:
        assert inputs.shape == (channels, 16, 16)
        assert inputs.mean().item() == pytest.approx(1.6 * label - 1, abs=0.1)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_of_picture_is_read(tmp_path, mode):
    path = tmp_path / "a" / "x.tif"
    path.parent.mkdir()
    Image.new("RGB", (9, 9)).convert(mode).save(path)
    assert images_module.decode(path, 8, 3).shape == (3, 8, 8)


def test_pictures_are_decoded_again_where_there_is_no_room(zoo, monkeypatch):
    monkeypatch.setattr(images_module, "KEPT_BYTES", 3 * 8 * 8 * 2)
    task = create("images", {"path": str(zoo), "size": 8})
    data = task.train_data(Site("a"))
    assert all((data[index][0] == data[index][0]).all() for index in range(len(data)))
    kept = [index for index in range(len(data)) if index in data._kept]
    assert len(kept) == 2


def test_training_and_evaluation_share_no_picture(zoo):
    task = create("images", {"path": str(zoo), "size": 8})
    both = [*task.train_data(Site("a")), *task.evaluation_data(Site("a"))]
    assert len({(inputs.numpy().tobytes(), label) for inputs, label in both}) == 20


def test_shards_hold_the_pictures_they_were_given(zoo, tmp_path):
    task = create("images", {"path": str(zoo), "size": 8})
    shard = tmp_path / "shard"
    shard.mkdir()
    task.write_shard(None, np.array([0, 3, 15]), shard)
    assert sorted(str(path.relative_to(shard)) for path in shard.glob("*/*")) == ["cat/0.png", "cat/3.png", "dog/5.jpg"]
    assert (shard / "dog" / "5.jpg").read_bytes() == (zoo / "dog" / "5.jpg").read_bytes()
    site = Site("a", data_dir=shard)
    assert len(task.train_data(site)) + len(task.evaluation_data(site)) == 3


def test_shards_are_copied_where_links_cannot_be(zoo, tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("another disk")

    monkeypatch.setattr(images_module.os, "link", refuse)
    shard = tmp_path / "shard"
    shard.mkdir()
    create("images", {"path": str(zoo)}).write_shard(None, np.array([0]), shard)
    assert (shard / "cat" / "0.png").read_bytes() == (zoo / "cat" / "0.png").read_bytes()


def test_a_site_need_not_have_every_class(tmp_path):
    picture(tmp_path / "cat" / "a.png")
    picture(tmp_path / "cat" / "b.png")
    assert len(create("images", {"classes": ["cat", "dog"]}).train_data(Site("a", data_dir=tmp_path))) == 1


def test_the_centre_may_have_pictures_of_its_own(zoo):
    assert len(create("images", {"classes": ["cat", "dog"], "centre": str(zoo)}).centre_data()) == 20
    assert create("images", {}).centre_data() is None


def refused(action):
    with pytest.raises(TaskError) as caught:
        action()
    return caught.value.message


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_an_unreadable_picture_is_refused_by_its_path(zoo, content):
    path = zoo / "cat" / "3.png"
    path.write_bytes(content)
    task = create("images", {"path": str(zoo)})
    message = refused(lambda: [*task.train_data(Site("a")), *task.evaluation_data(Site("a"))])
    assert message.startswith(f"cannot read the picture {path}: ")


def test_a_picture_cut_short_is_refused_by_its_path(tmp_path):
    path = picture(tmp_path / "x.jpg", size=(200, 200))
    path.write_bytes(path.read_bytes()[:-200])
    assert refused(lambda: images_module.decode(path, 8, 3)).startswith(f"cannot read the picture {path}: ")


def test_a_folder_of_no_class_is_refused(zoo):
    picture(zoo / "eel" / "a.png")
    task = create("images", {"classes": ["cat", "dog"]})
    assert refused(lambda: task.train_data(Site("a", data_dir=zoo))) == f"{zoo / 'eel'} is the folder of no class"


def test_a_site_without_pictures_is_named(tmp_path):
    (tmp_path / "cat").mkdir()
    task = create("images", {"classes": ["cat", "dog"]})
    message = refused(lambda: task.train_data(Site("ward-3", data_dir=tmp_path)))
    assert message == f"site ward-3 has no examples in {tmp_path}"


def test_what_is_not_there_is_named(tmp_path):
    named = create("images", {"classes": ["cat", "dog"]})
    gone = tmp_path / "gone"
    assert refused(lambda: named.train_data(Site("a", data_dir=gone))) == f"there is no directory {gone}"
    assert refused(lambda: named.train_data(Site("a"))) == "site a has no data directory, and task.path is not set"
    assert refused(lambda: named.labels(None)) == "the task images has no folder to divide"
    assert refused(create("images", {}).model) == "the task images does not know its classes"
    alone = create("images", {"path": str(tmp_path)})
    assert refused(alone.model) == f"{tmp_path} has 0 folders, and each class needs one"
