"""The CLIP_benchmark layout: what is read, and what each kind of damage is called."""

import io
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from pineco.data_pipeline.errors import InputError
from pineco.evals.data.datasets import (
    BadSampleError,
    Example,
    Problems,
    decode,
    fingerprint,
    layout_needed,
    open_folder,
    read_examples,
    resolve_tasks,
)
from pineco.evals.data.tasks import load_tasks
from tests.support.shards import encode


def npy(array: np.ndarray | np.generic) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asanyarray(array), allow_pickle=True)
    return buffer.getvalue()


def test_reads_every_shard_in_order(colour_set: Path) -> None:
    """Images would be missing, or stand beside the labels of others."""
    folder = open_folder(colour_set)
    examples = list(read_examples(folder))
    assert [example.label for example in examples] == [0, 1, 2] * 3
    assert folder.classnames == ("red", "green", "blue")
    for example in examples:
        pixel = decode(example).getpixel((5, 5))
        assert isinstance(pixel, tuple)
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
    assert np.array_equal(np.asarray(image), np.repeat((values >> 8)[:, :, None], 3, axis=2))


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
        ("dataset_type.txt", "segmentation", "'segmentation' is none of classification, retrieval, multilabel"),
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


def test_many_missing_folders_are_counted(colour_set: Path) -> None:
    """A line of 31 names would hide what to do about them."""
    advice = "run again with --layout to see the exact layout of each, or pass --allow-missing to measure what is here"
    with pytest.raises(InputError) as error:
        resolve_tasks(colour_set.parent, "colours,mnist,cifar10,vtab/pets,cars,country211,food101,gtsrb")
    said = f"no folder for mnist, cifar10, vtab/pets, cars, country211 and 2 more; {advice}"
    assert str(error.value) == f"{colour_set.parent}: {said}"
    with pytest.raises(InputError, match=r"the exact layout of each$"):
        resolve_tasks(colour_set.parent, "mnist", allow_missing=True)


def test_missing_folders_are_named_together(colour_set: Path) -> None:
    """Each missing data set would cost another start of the program."""
    with pytest.raises(InputError, match=r"no folder for mnist, vtab/pets; run again with --layout"):
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
    assert (task.main_metric, folder.root) == ("mean_per_class_recall", str(root))


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


def test_reads_multilabel_vectors(write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> None:
    """Sets whose images have several classes could not be measured, or their classes would be mixed up."""
    vectors: list[np.ndarray] = [np.array([1, 0, 1], np.float32), np.zeros(3, np.int64), np.array([False, True, False])]
    samples = [{"jpg": picture(), "npy": npy(vector)} for vector in vectors]
    folder = open_folder(write_folder("many", samples, kind="multilabel"))
    assert (folder.kind, folder.classnames) == ("multilabel", ("red", "green", "blue"))
    assert [example.labels for example in read_examples(folder)] == [(0, 2), (), (1,)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"npy": npy(np.array([1, 0]))}, r"shape \(2,\) .*; must be 3 numbers"),
        ({"npy": npy(np.array([1, 0, 2]))}, "labels other than 0 and 1"),
        ({"npy": npy(np.array([1, 0, np.nan]))}, "labels other than 0 and 1"),
        ({"npy": npy(np.array(["1", "0", "0"]))}, "type <U1; must be 3 numbers"),
        ({"cls": b"1"}, "without labels; add s0000000.npy"),
    ],
)
def test_a_bad_vector_is_named(
    members: dict[str, bytes], message: str, write_folder: Callable[..., Path], picture: Callable[..., bytes]
) -> None:
    """A shorter vector would be taken for the first classes, and a probability for a class that is there."""
    root = write_folder("bad", [{"jpg": picture(), **members}], kind="multilabel")
    with pytest.raises(InputError, match=message):
        list(read_examples(open_folder(root)))


def test_all_bad_samples_are_told_in_one_line(write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> None:
    """Each bad sample would cost another run, or be left out of the figure without a word."""
    bad = [{"jpg": picture(), "cls": b"9"}, {"cls": b"0"}, {"jpg": picture()}, {"jpg": b"x", "cls": b"1"}]
    folder = open_folder(write_folder("bad", [{"jpg": picture(), "cls": b"0"}, *bad]))
    problems = Problems()
    good = list(read_examples(folder, problems))
    assert [example.number for example in good] == [0, 4], "the place in the data set must count bad samples"
    decode(good[0])
    with pytest.raises(BadSampleError) as caught:
        decode(good[1])
    problems.add(caught.value)
    assert len(problems) == 4
    test = folder.test
    with pytest.raises(InputError) as told:
        problems.check("bad", samples=5)
    assert str(told.value) == (
        f"bad: 4 of 5 samples cannot be used: {test.where('0.tar')}, s0000001: label '9' is no class number from 0 to "
        f"2 (classnames.txt); {test.where('0.tar')}, s0000002: holds cls, but no image (webp, png, jpg, jpeg); "
        f"{test.where('0.tar')}, s0000003: an image without a label; add s0000003.cls or .npy to the shard; ...; "
        "mend or drop them"
    )


def test_no_bad_sample_is_no_message() -> None:
    """A clean data set would be refused."""
    Problems().check("mnist", samples=10)


def test_problems_are_counted_by_threads() -> None:
    """Decoding threads would lose some of what they count."""
    problems = Problems(keep=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: problems.add(BadSampleError(f"s{n}", "why")), range(2000)))
    assert len(problems) == 2000
    with pytest.raises(
        InputError, match=r"^k: 2000 of 3000 samples cannot be used: s\d+: why; s\d+: why; \.\.\.; mend"
    ):
        problems.check("k", samples=3000)


def test_missing_sets_can_be_left_out_by_name(colour_set: Path) -> None:
    """A suite of which one set is missing could not be run, or would be run without a word on what is missing."""
    found = resolve_tasks(colour_set.parent, "colours+mnist,vtab/pets", allow_missing=True)
    assert [task.key for task, _ in found] == ["colours"]
    assert [task.key for task in found.missing] == ["mnist", "vtab/pets"]
    with pytest.raises(InputError, match="no folder for mnist, vtab/pets"):
        resolve_tasks(colour_set.parent, "mnist+vtab/pets", allow_missing=True)


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("vtab/pets", ["vtab-pets/", "0.tar", "3669 samples", "KEY.cls (a class number, 0 to 36)", "37 names", "{c}"]),
        ("flickr8k", ["dataset_type.txt", "retrieval", "KEY.txt (captions"]),
        ("voc2007_multilabel", ["multilabel", "KEY.npy (20 values", "20 names", "packaged"]),
    ],
)
def test_the_layout_of_a_missing_set_is_told(key: str, lines: list[str]) -> None:
    """Who lacks a data set would have to look for its layout in our source."""
    told = layout_needed(load_tasks()[key])
    assert all(line in told for line in lines), told
    assert ("classnames.txt" in told) == (key != "flickr8k")


def test_a_bad_key_does_not_lead_out_of_the_root(colour_set: Path) -> None:
    """A name on the command line would measure a folder that lies elsewhere."""
    for key in ("../data/colours", "/colours", "a//b"):
        with pytest.raises(InputError, match="nothing is called"):
            resolve_tasks(colour_set.parent, [key])


def test_a_pattern_leads_to_the_folders(write_folder: Callable[..., Path], picture: Callable[..., bytes]) -> None:
    """A --dataset_root of clip-benchmark would have to be rewritten, or lead to another data set."""
    root = write_folder("sets/vtab-pets/v1", [{"jpg": picture(), "cls": b"0"}], classnames="x\n" * 37)
    pattern = str(root.parents[1] / "{dataset_cleaned}" / "v1")
    [(_, folder)] = resolve_tasks(pattern, "vtab/pets")
    assert folder.root == str(root)
    with pytest.raises(InputError, match="no folder for mnist"):
        resolve_tasks(pattern, "mnist")


def test_an_empty_class_name_needs_the_benchmarks_count(
    write_folder: Callable[..., Path], picture: Callable[..., bytes]
) -> None:
    """vtab/clevr_closest_object_distance, whose fourth class has an empty name, could not be measured."""
    names = "very nearby\nnearby\nnear\n\ndistant\nvery distant\n"
    key = "vtab/clevr_closest_object_distance"
    root = write_folder(key.replace("/", "-"), [{"jpg": picture(), "cls": b"5"}], classnames=names)
    [(_, folder)] = resolve_tasks(root.parent, key)
    assert folder.class_prompts()[3] == ["a  thing.", "something "]
    with pytest.raises(InputError, match="blank line"):
        open_folder(root)


def test_the_fingerprint_follows_data_and_prompts(colour_set: Path) -> None:
    """A figure of other data or other prompts would be taken for a finished one."""
    before = fingerprint(open_folder(colour_set))
    assert fingerprint(open_folder(colour_set)) == before
    shard = colour_set / "test" / "0.tar"
    data = shard.read_bytes()
    shard.write_bytes(data + bytes(512))
    longer = fingerprint(open_folder(colour_set))
    (colour_set / "zeroshot_classification_templates.txt").write_text("one {c}\n")
    assert len({before, longer, fingerprint(open_folder(colour_set))}) == 3


def test_a_text_that_is_not_utf8_is_named(colour_set: Path) -> None:
    """A traceback would be all that tells of a file in another encoding."""
    (colour_set / "classnames.txt").write_bytes(b"red\ngr\xfcn\nblue")
    with pytest.raises(InputError, match=r"classnames\.txt: not UTF-8"):
        open_folder(colour_set)
