"""The CLIP_benchmark layout: what is read, and what each kind of damage is called."""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from data_pipeline.errors import InputError
from evals.datasets import Example, decode, open_folder, read_examples, resolve_tasks
from tests.data_pipeline.conftest import encode


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def test_reads_every_shard_in_order(colour_set: Path) -> None:
    """Images would be missing, or stand beside the labels of others."""
    folder = open_folder(colour_set)
    examples = list(read_examples(folder))
    assert [example.label for example in examples] == [0, 1, 2] * 3
    assert folder.classnames == ("red", "green", "blue")
    for example in examples:
        pixel = decode(example).getpixel((5, 5))
        assert int(np.argmax(pixel)) == example.label


def test_reads_captions(write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> None:
    """Blank lines would become captions that no image can be found by."""
    root = write_folder("pairs", [{"jpg": picture(), "txt": b"one\n\ntwo\n"}], kind="Retrieval\n", classnames=None)
    folder = open_folder(root)
    assert folder.kind == "retrieval"
    assert [example.captions for example in read_examples(folder)] == [("one", "two")]


def test_reads_integer_npy_labels(write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> None:
    """Sets whose exporter wrote labels as arrays could not be measured."""
    labels = [np.int64(2), np.array([1], dtype=np.uint8)]
    root = write_folder("npy", [{"jpg": picture(), "npy": npy(np.asarray(label))} for label in labels])
    assert [example.label for example in read_examples(open_folder(root))] == [2, 1]


BAD_SAMPLES = {
    "label 3": ({"cls": b"3"}, "label '3' is no class number from 0 to 2"),
    "label -1": ({"cls": b"-1"}, "label '-1' is no class"),
    "label text": ({"cls": b"cat"}, "label 'cat' is no class"),
    "no label": ({"json": b"{}"}, "image without a label; add s0000000.cls"),
    "npy range": ({"npy": npy(np.int64(7))}, "label '7' is no class"),
    "npy float": ({"npy": npy(np.float32(1))}, "type float32; must be one integer"),
    "npy vector": ({"npy": npy(np.array([0, 1, 0]))}, r"shape \(3,\)"),
    "npy pickle": ({"npy": npy(np.array({"a": 1}, dtype=object))}, "damaged or pickled"),
    "npy raw pickle": ({"npy": pickle.dumps(1)}, "damaged or pickled"),
    "npy cut": ({"npy": npy(np.int64(1))[:-4]}, "damaged or pickled"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_a_bad_label_is_named(case: str, write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> None:
    """A wrong label would count against the model, or a pickle would run code."""
    members, message = BAD_SAMPLES[case]
    root = write_folder("bad", [{"jpg": picture(), **members}])
    with pytest.raises(InputError, match=message) as caught:
        list(read_examples(open_folder(root)))
    assert "0.tar, s0000000: " in str(caught.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"txt": b"a dog"}, "no image"),
        ({"jpg": b"", "cls": b"0"}, "without captions"),
        ({"jpg": b"", "txt": b" \n"}, "captions are empty"),
        ({"jpg": b"", "txt": b"\xff\xfe"}, "not UTF-8"),
    ],
)
def test_a_bad_pair_is_named(members: dict[str, bytes], message: str, write_folder: Callable[..., Path]) -> None:
    """An image or a caption without its partner would lower recall for no fault of the model."""
    root = write_folder("bad", [members], kind="retrieval")
    with pytest.raises(InputError, match=message):
        list(read_examples(open_folder(root)))


def damaged_images() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    files = {}
    for fmt in ("JPEG", "PNG", "GIF"):
        buffer = io.BytesIO()
        noise.save(buffer, fmt)
        files[fmt] = buffer.getvalue()
    return {"empty": b"", "half": files["PNG"][:2000], "headless": files["JPEG"][:3], "gif": files["GIF"]}


@pytest.mark.parametrize("case", ["empty", "half", "headless", "gif"])
def test_a_bad_image_is_named(case: str) -> None:
    """An image that cannot be decoded would end the run without telling which, or be measured half."""
    with pytest.raises(InputError, match=r"^0\.tar, s1: .*(image|JPEG).*; mend or drop this sample$"):
        decode(Example("0.tar, s1", damaged_images()[case]))


def test_a_huge_image_is_refused_before_decoding(picture: Callable[..., bytes]) -> None:
    """A small file that unpacks to gigabytes would take the machine down."""
    data = picture(size=(24, 16))
    frame = data.index(b"\xff\xc0")
    claims = data[: frame + 5] + struct.pack(">HH", 60_000, 60_001) + data[frame + 9 :]
    with pytest.raises(InputError, match=r"^x: image of 60001 x 60000 pixels .*; mend or drop this sample$"):
        decode(Example("x", claims))


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    """Medical and depth images would be white, all alike."""
    values = np.linspace(0, 65535, 20 * 30).astype(np.uint16).reshape(20, 30)
    image = decode(Example("x", encode(Image.fromarray(values), "PNG")))
    assert image.mode == "RGB"
    assert np.array_equal(image, np.repeat((values >> 8)[:, :, None], 3, axis=2))


def test_images_are_not_turned_by_exif(picture: Callable[..., bytes]) -> None:
    """Figures would differ from published ones, for which images are taken as they are stored."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(Image.open(io.BytesIO(picture(size=(24, 16)))), "JPEG", exif=exif)
    assert decode(Example("x", data)).size == (24, 16)


def test_images_of_small_real_sets_are_pillows_to_the_bit(real_data: Path) -> None:
    """Figures would differ from those of clip-benchmark in the last digits, or more."""
    tasks = resolve_tasks(real_data / "wds", "cifar10,mnist,dtd10,flickr8k,imagenet1k_sample")
    for _, folder in tasks:
        for example in read_examples(folder):
            by_pillow = Image.open(io.BytesIO(example.image)).convert("RGB")
            ours = decode(example)
            assert (ours.mode, ours.size, ours.tobytes()) == ("RGB", by_pillow.size, by_pillow.tobytes()), example.where


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "test/nshards.txt",
            None,
            "nshards.txt: missing; the data folder needs test/nshards.txt, test/0.tar",
        ),
        ("test/nshards.txt", "two", "'two' is no positive number"),
        ("test/nshards.txt", "0", "'0' is no positive number"),
        ("test/nshards.txt", "4", "says 4 shards .* but 3 are there"),
        ("test/nshards.txt", "2", "says 2 shards .* but 3 are there"),
        ("test/1.tar", None, "says 3 shards .* but 2 are there"),
        ("classnames.txt", None, "classnames.txt: missing"),
        ("classnames.txt", "red\n\nblue", "blank line"),
        ("classnames.txt", "\n", "blank line or no line"),
        ("zeroshot_classification_templates.txt", None, "templates.txt: missing"),
        ("zeroshot_classification_templates.txt", "a {c}\na thing", "'a thing' lacks {c}"),
        ("dataset_type.txt", "multilabel", "'multilabel' is not measured"),
    ],
)
def test_a_bad_layout_is_named(file: str, text: str | None, message: str, colour_set: Path) -> None:
    """A folder that was copied in part would be measured in part, under the same name."""
    if text is None:
        (colour_set / file).unlink()
    else:
        (colour_set / file).write_text(text)
    with pytest.raises(InputError, match=message):
        open_folder(colour_set)


def test_missing_folders_are_named_together(colour_set: Path) -> None:
    """Each missing data set would cost another start of the program."""
    with pytest.raises(InputError, match=r"no folder for mnist, vtab/pets; each needs .*test/nshards\.txt"):
        resolve_tasks(colour_set.parent, "colours,mnist,vtab/pets")
    with pytest.raises(InputError, match="no such folder"):
        resolve_tasks(colour_set / "nowhere", "mnist")


@pytest.mark.parametrize("name", ["vtab/pets", "vtab-pets", "wds_vtab-pets", "wds_vtab-pets_test"])
def test_folders_are_found_under_other_programs_names(
    name: str, write_folder: Callable[..., Path], picture: Callable[..., bytes]
) -> None:
    """Data downloaded for clip-benchmark or DataComp would have to be renamed."""
    classnames = "\n".join(f"breed {i}" for i in range(37))
    root = write_folder(name, [{"jpg": picture(), "cls": b"36"}], classnames=classnames)
    [(task, folder)] = resolve_tasks(root.parent.parent if "/" in name else root.parent, "vtab/pets")
    assert (task.main_metric, folder.root) == ("mean_per_class_recall", root)


def test_another_data_set_under_a_benchmarks_name_is_refused(
    write_folder: Callable[..., Path], picture: Callable[..., bytes]
) -> None:
    """Figures of some other data would be compared with published ones."""
    root = write_folder("mnist", [{"jpg": picture(), "cls": b"0"}])
    with pytest.raises(InputError, match="3 names, but mnist has 10 classes"):
        resolve_tasks(root.parent, "mnist")
    (root / "dataset_type.txt").write_text("retrieval")
    with pytest.raises(InputError, match="makes it retrieval, but mnist is classification"):
        resolve_tasks(root.parent, "mnist")
