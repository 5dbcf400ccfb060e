"""The toy world: its bytes, its layouts, the truth of its labels."""

import csv
import io
import json
import math
import multiprocessing
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_pipeline import toy_world
from data_pipeline.errors import InputError
from data_pipeline.toy_captions import LAYOUT_PHRASES, NUMBERS, captions, perceptual_distance
from data_pipeline.toy_scene import (
    BACKDROPS,
    BACKGROUND_HSV,
    COLOURS,
    DISTANCE,
    LAYOUTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Background,
    Light,
    Scene,
    Shape,
    ToyObject,
    render,
    sample_scene,
)
from data_pipeline.toy_world import TINY, ZERO_SHOT_SETS, ToyWorldSettings, make_toy_world, triplet_scenes

SIDE = TINY.image_size


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_world(tmp_path_factory.mktemp("toy") / "world", TINY, workers=2)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, extension -> content) in the order of the archive."""
    grouped: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, extension = member.name.split(".", 1)
            stream = archive.extractfile(member)
            assert stream is not None
            grouped.setdefault(key, {})[extension] = stream.read()
    yield from grouped.items()


def scenes(count: int, **constraints: Any) -> list[Scene]:
    rng = np.random.default_rng(7)
    return [sample_scene(rng, **constraints) for _ in range(count)]


# --- the folder as a whole ---------------------------------------------------------------------------------


def test_number_of_workers_changes_no_byte(world: Path, tmp_path: Path) -> None:
    """If it fails, results depend on the machine that made the data, and world.json's sha256 mean nothing."""
    alone = make_toy_world(tmp_path / "alone", TINY, workers=1)
    assert contents(alone) == contents(world)


def test_seed_changes_every_image(world: Path, tmp_path: Path) -> None:
    """If it fails, runs with different seeds train on the same pictures."""
    other = contents(make_toy_world(tmp_path / "other", replace(TINY, seed=1), workers=2))
    same = {path for path, content in contents(world).items() if other[path] == content}
    assert same.isdisjoint(path for path in contents(world) if path.endswith((".jpg", ".tar")))


def test_world_json_lists_every_file_with_its_hash(world: Path) -> None:
    """If it fails, a damaged or foreign file goes unnoticed."""
    record = json.loads((world / "world.json").read_bytes())
    assert record["settings"] == asdict(TINY)
    present = contents(world)
    del present["world.json"]
    assert {path: size for path, (size, _) in record["files"].items()} == {
        path: len(content) for path, content in present.items()
    }
    assert not (world / ".partial").exists()


def test_second_call_reuses_and_rewrites_nothing(world: Path) -> None:
    """If it fails, every run renders its data again, under the feet of another run that reads it."""
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert make_toy_world(world, TINY) == world
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


def test_other_settings_are_refused_by_name(world: Path) -> None:
    """If it fails, a run silently trains on a world that its recipe does not describe."""
    with pytest.raises(InputError, match=r"triplets=60, not 70.*delete"):
        make_toy_world(world, replace(TINY, triplets=70))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "dense/classes.txt").unlink(), "dense/classes.txt is missing or was changed"),
        (lambda root: (root / "triplets/data.csv").write_text("id"), "data.csv is missing or was changed"),
        (lambda root: (root / "world.json").write_text("{}"), "not the record of a toy world"),
        (
            lambda root: (root / "world.json").write_text('{"schema": 0, "settings": {}, "files": {}}'),
            "version 0",
        ),
    ],
    ids=["missing", "changed", "no-record", "old-version"],
)
def test_damaged_world_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    """If it fails, training crashes hours later, or on other bytes than the record says."""
    root = make_toy_world(tmp_path / "world", replace(TINY, train_pairs=8, test_images=8), workers=1)
    damage(root)
    with pytest.raises(InputError, match=message):
        make_toy_world(root, replace(TINY, train_pairs=8, test_images=8))


def test_interrupted_generation_starts_over(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, Ctrl-C leaves a folder that passes for a world, or one that no later call can use."""
    root = tmp_path / "world"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toy_world, "_texts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_toy_world(root, TINY, workers=1)
    assert not (root / "world.json").exists()
    (root / "pairs/train/99999.tar").write_bytes(b"half a shard")
    make_toy_world(root, TINY, workers=2)
    assert contents(root) == contents(world)


@pytest.mark.parametrize("names", [["notes.txt"], ["pairs/train/00000.tar"], [".partial", "notes.txt"]])
def test_foreign_folder_is_refused_and_kept(tmp_path: Path, names: list[str]) -> None:
    """If it fails, the generator deletes data that it did not write (pairs/ alone may be somebody's own)."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match="no toy world"):
        make_toy_world(tmp_path, TINY)
    assert contents(tmp_path) == dict.fromkeys(names, b"precious")


def test_processes_that_ask_at_once_share_one_world(world: Path, tmp_path: Path) -> None:
    """If it fails, the ranks of one node overwrite each other's files while they start."""
    root = tmp_path / "world"
    ranks = [multiprocessing.Process(target=make_toy_world, args=(root, TINY)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=60)
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    assert contents(root) == contents(world)


# --- settings and command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"image_size": 8}, {"triplets": 5}, {"jpeg_quality": 101}, {"shard_size": 10_001}]
)
def test_settings_out_of_range_are_named(wrong: dict[str, int]) -> None:
    """If it fails, a wrong number surfaces as a traceback from the renderer or as bad data."""
    with pytest.raises(InputError, match=next(iter(wrong))):
        ToyWorldSettings(**wrong)


@pytest.mark.parametrize("value", [2.0, True, "64", None])
def test_settings_must_be_integers(value: Any) -> None:
    """If it fails, image_size=64.0 from a YAML file makes a second world that equals the first."""
    with pytest.raises(InputError, match="image_size must be an integer"):
        ToyWorldSettings(image_size=value)


def test_workers_must_be_positive(tmp_path: Path) -> None:
    """If it fails, workers=0 ends in a traceback of the standard library."""
    with pytest.raises(InputError, match="workers"):
        make_toy_world(tmp_path, TINY, workers=0)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, the command of the README does not work, or user errors print a traceback."""
    small = [f"--{f.name.replace('_', '-')}=10" for f in fields(ToyWorldSettings) if "_size" not in f.name]
    sheet = tmp_path / "sheet.png"
    assert toy_world.main([str(tmp_path / "w"), *small, "--workers=1", f"--contact-sheet={sheet}"]) == 0
    assert "train_pairs=10" in capsys.readouterr().out
    assert Image.open(sheet).width > 4 * SIDE
    assert toy_world.main([str(tmp_path / "w"), *small, "--seed=11"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pineco: ")
    assert error.count("\n") == 1


def test_settings_import_neither_torch_nor_webdataset() -> None:
    """If it fails, checking a recipe on a login node takes seconds instead of tenths."""
    heavy = {"torch", "webdataset", "rich", "PIL"}
    code = f"import sys, data_pipeline.toy_world; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- layouts of the files ----------------------------------------------------------------------------------


def test_pairs_have_the_layout_of_img2dataset(world: Path) -> None:
    """If it fails, the loader of real image-text data does not read the toy pairs."""
    shards = sorted((world / "pairs/train").iterdir())
    assert [path.name for path in shards] == ["00000.tar", "00001.tar"]
    found = [item for shard in shards for item in samples(shard)]
    assert [key for key, _ in found] == [f"{shard:05d}{i:04d}" for shard in range(2) for i in range(64)]
    for key, sample in found:
        record = json.loads(sample["json"])
        assert set(sample) == {"jpg", "json", "txt"}
        assert (record["key"], record["caption"]) == (key, sample["txt"].decode())
        assert record["captions"][0] == record["caption"]
        assert len(set(record["captions"])) == 5
        assert simplejpeg.decode_jpeg(sample["jpg"]).shape == (record["height"], record["width"], 3)


def test_tar_headers_are_fixed(world: Path) -> None:
    """If it fails, archives differ by the user or the hour that made them."""
    with tarfile.open(world / "pairs/val/00000.tar") as archive:
        heads = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in archive}
    assert heads == {(0, 0, 0, "", "", 0o444)}


@pytest.mark.parametrize("name", ZERO_SHOT_SETS)
def test_zero_shot_sets_have_the_layout_of_clip_benchmark(world: Path, name: str) -> None:
    """If it fails, evaluators of published sets do not read the toy sets, or their first N are unbalanced."""
    folder = world / "wds" / name
    classnames = (folder / "classnames.txt").read_text().splitlines()
    templates = (folder / "zeroshot_classification_templates.txt").read_text().splitlines()
    shards = [folder / f"test/{i}.tar" for i in range(int((folder / "test/nshards.txt").read_text()))]
    found = [item for shard in shards for item in samples(shard)]
    assert [key for key, _ in found] == [f"s{i:07d}" for i in range(TINY.test_images)]
    assert [int(sample["cls"]) for _, sample in found] == [
        i % len(classnames) for i in range(TINY.test_images)
    ]
    assert all("{c}" in template for template in templates)
    assert len(set(classnames)) == len(classnames)


def test_retrieval_set_has_five_captions_that_tell_images_apart(world: Path) -> None:
    """If it fails, retrieval scores are limited by captions that fit many images."""
    folder = world / "wds/toy_retrieval"
    assert (folder / "dataset_type.txt").read_text() == "retrieval"
    texts = [sample["txt"].decode().splitlines() for _, sample in samples(folder / "test/0.tar")]
    assert {len(set(lines)) for lines in texts} == {5}
    everything = [text for lines in texts for text in lines]
    assert len(set(everything)) == len(everything)


def test_shards_are_cut_at_five_hundred() -> None:
    """If it fails, the number in nshards.txt and the tars disagree for sets over 500 images."""
    jobs = [job for job in toy_world._jobs(ToyWorldSettings()) if job.split == "wds/toy_shapes"]
    assert [(job.path, job.first, job.samples) for job in jobs] == [
        ("wds/toy_shapes/test/0.tar", 0, 500),
        ("wds/toy_shapes/test/1.tar", 500, 460),
    ]


def test_webdataset_reads_the_pairs(world: Path) -> None:
    """If it fails, keys or extensions are not grouped as webdataset groups them."""
    import webdataset

    dataset = webdataset.WebDataset(str(world / "dense/train/00000.tar"), shardshuffle=False)
    first = next(iter(dataset))
    assert first["__key__"] == "000000000"
    assert {"jpg", "json", "seg.png", "depth.png"} <= set(first)


# --- triplets ----------------------------------------------------------------------------------------------


def test_triplets_have_the_layout_of_nights(world: Path) -> None:
    """If it fails, the reader of NIGHTS does not read the toy triplets."""
    with (world / "triplets/data.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,prompt,is_imagenet,split"
    assert list(rows[0]) == columns.split(",")
    assert [int(row["id"]) for row in rows] == list(range(TINY.triplets))
    splits = [row["split"] for row in rows]
    assert [splits.count(name) for name in ("train", "val", "test")] == [48, 6, 6]
    for row in rows:
        share, votes = float(row["right_vote"]), int(row["votes"])
        assert 6 <= votes <= 10
        assert float(row["left_vote"]) + share == pytest.approx(1)
        assert share * votes == pytest.approx(round(share * votes))
        for side in ("ref", "left", "right"):
            image = simplejpeg.decode_jpeg((world / "triplets" / row[f"{side}_path"]).read_bytes())
            assert image.shape == (SIDE, SIDE, 3)


def test_votes_follow_the_perceptual_model() -> None:
    """If it fails, there is nothing to learn from the triplets. The majority agrees on 97 % (bound 85 %)."""
    settings = replace(TINY, image_size=16)
    margins, shares = np.empty(800), np.empty(800)
    for index in range(800):
        reference, left, right = triplet_scenes(settings, index)
        margins[index] = perceptual_distance(reference, left) - perceptual_distance(reference, right)
        shares[index] = toy_world._triplet(settings, index)[1][2]
    decided = shares != 0.5
    assert np.mean((margins > 0) == (shares > 0.5), where=decided) > 0.85
    fifths = np.array_split(shares[np.argsort(margins)], 5)
    assert np.all(np.diff([part.mean() for part in fifths]) > 0)
    assert abs(shares.mean() - 0.5) < 0.04  # no side is favoured


def solid(shape: Any = "circle", **changes: Any) -> Scene:
    """One object on plain black under an even light."""
    thing = ToyObject(shape, "red", (1.0, 1.0, 1.0), (0.5, 0, 0), "solid", "large", 0.5, 0.5, 0.25, 0.0, 1.0)
    even = Light(gain=(1.0, 1.0, 1.0), slope=0.0, angle=0.0, noise=0.0, seed=0)
    return Scene(
        (replace(thing, **changes),), "middle", Background("plain", "black", (0.0, 0.0, 0.0), 0.0), even
    )


def test_perceptual_distance_is_a_symmetric_dissimilarity() -> None:
    """If it fails, votes depend on the order of the arguments or prefer a change to none."""
    pairs = zip(scenes(100), scenes(200)[100:], strict=True)
    for a, b in pairs:
        assert perceptual_distance(a, a) == 0
        assert perceptual_distance(a, b) == pytest.approx(perceptual_distance(b, a))
        assert 0 <= perceptual_distance(a, b) <= 5.9


@pytest.mark.parametrize(
    ("shape", "near", "far"),
    [
        ("circle", {"x": 0.52}, {"x": 0.6}),
        ("arrow", {"rotation": 10.0}, {"rotation": 60.0}),
        ("circle", {"rgb": (1.0, 0.9, 0.9)}, {"rgb": (1.0, 0.2, 0.2)}),
        ("circle", {"radius": 0.24}, {"radius": 0.15}),
        ("circle", {}, {"texture": "dotted"}),
        ("circle", {}, {"shape": "star"}),
    ],
    ids=["layout", "pose", "colour", "size", "texture", "shape"],
)
def test_perceptual_distance_grows_along(shape: str, near: dict[str, Any], far: dict[str, Any]) -> None:
    """If it fails, that axis of the stated model has no influence or the wrong sign."""
    here = solid(shape)
    to_near, to_far = (perceptual_distance(here, solid(**{"shape": shape, **there})) for there in (near, far))
    assert to_near < to_far


def test_perceptual_distance_counts_and_ignores_what_it_says() -> None:
    """If it fails, the model's docstring is wrong about counts, symmetric turns or light."""
    one, square = solid(), solid("square")
    assert perceptual_distance(one, replace(one, objects=one.objects * 2)) == pytest.approx(0.4)
    assert perceptual_distance(square, solid("square", rotation=90.0)) == 0
    assert perceptual_distance(one, replace(one, light=replace(one.light, slope=0.2))) == 0


# --- captions ----------------------------------------------------------------------------------------------

_KIND = re.compile(
    rf"\b(?P<number>an?|some|{'|'.join(NUMBERS)}) (?:(?P<size>{'|'.join(SIZES)}) )?"
    rf"(?:(?P<texture>{'|'.join(TEXTURES)}) )?(?:(?P<colour>{'|'.join(COLOURS)}) )?"
    rf"(?P<noun>shape|{'|'.join(SHAPES)})(?P<plural>s|es)?\b"
)
_BEHIND = re.compile(
    rf"\bon an? (?:(?P<kind>{'|'.join(BACKDROPS)}) ?)?(?P<colour>{'|'.join(BACKGROUND_HSV)})? ?background"
)


def check_caption(text: str, scene: Scene) -> str:
    """Assert that what the text says is true; returns the words that were not understood."""
    behind = _BEHIND.search(text)
    if behind:
        assert behind["kind"] in (None, scene.background.kind), text
        assert behind["colour"] in (None, scene.background.colour), text
        text = text.replace(behind[0], "")
    mentioned = 0
    for kind in _KIND.finditer(text):
        said = {name: kind[name] for name in ("size", "texture", "colour") if kind[name]}
        said |= {"shape": kind["noun"]} if kind["noun"] != "shape" else {}
        matching = [
            t for t in scene.objects if all(getattr(t, name) == value for name, value in said.items())
        ]
        expected = {"a": 1, "an": 1}.get(kind["number"], len(matching))
        expected = NUMBERS.index(kind["number"]) + 1 if kind["number"] in NUMBERS else expected
        assert len(matching) == expected, text
        assert bool(kind["plural"]) == (expected > 1), text
        mentioned += len(matching)
    assert mentioned == len(scene.objects), text
    text = _KIND.sub("", text)
    for phrase in sorted(LAYOUT_PHRASES[scene.layout], key=len, reverse=True):
        text = text.replace(phrase, "")
    return re.sub(
        r"a picture of|an image of|there (is|are)|a drawing with|this shows|\band\b|,", "", text
    ).strip()


def test_every_word_of_a_caption_is_true() -> None:
    """If it fails, the pairs teach wrong words; the parser knows the grammar only, not how it is written."""
    rng = np.random.default_rng(0)
    for scene in scenes(600):
        for thoroughness in (0.3, 0.65, 1.0):
            for text in captions(scene, rng, 3, thoroughness):
                assert check_caption(text, scene) == "", text


def test_the_caption_parser_catches_lies() -> None:
    """If it fails, the test above proves nothing."""
    scene = solid()
    assert check_caption("a large solid red circle in the middle on a plain black background", scene) == ""
    assert check_caption("a red circle on the left", scene) == "on the left"
    for lie in ("a blue circle", "a red star", "two red circles", "a striped circle", "a red circles"):
        with pytest.raises(AssertionError):
            check_caption(lie, scene)


def test_articles_fit_the_next_word() -> None:
    """If it fails, captions read 'a orange arrow'."""
    rng = np.random.default_rng(0)
    texts = [text for scene in scenes(300) for text in captions(scene, rng, 5, 0.4)]
    assert not [text for text in texts if re.search(r"\ba [aeiou]|\ban [^aeiou]", text)]
    assert any(" an orange" in text or text.startswith("an orange") for text in texts)


def test_captions_are_varied_and_use_every_class_name() -> None:
    """If it fails, a text tower sees too few sentences, or zero-shot asks with words it never saw."""
    rng = np.random.default_rng(0)
    texts = [text for scene in scenes(3000) for text in captions(scene, rng)]
    assert len(set(texts)) > 0.9 * len(texts)  # measured: 0.98
    everything = "\n".join(texts)
    for kind in ZERO_SHOT_SETS.values():
        assert [name for name in kind.classnames if name not in everything] == []


# --- pictures ----------------------------------------------------------------------------------------------


def statistics(jpeg: bytes) -> dict[str, float]:
    """Scalars of one picture that a lazy classifier could use."""
    image = simplejpeg.decode_jpeg(jpeg).astype(np.float32) / 255
    red, green, blue = (float(v) for v in image.mean((0, 1)))
    grey, top = image @ np.array([0.299, 0.587, 0.114], np.float32), image.max(2)
    chroma = top - image.min(2)
    return {
        "red": red,
        "green": green,
        "blue": blue,
        "hue": math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue),
        "luminance": float(grey.mean()),
        "std": float(grey.std()),
        "saturation": float((chroma / (top + 1e-3)).mean()),
        "vivid": float(np.partition(chroma, chroma.size * 95 // 100, axis=None)[chroma.size * 95 // 100]),
        "edges": float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()),
        "bytes": float(len(jpeg)),
    }


def bins_accuracy(values: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """The best class of each quantile bin, fitted on one half and scored on the other."""
    half, bins = len(values) // 2, max(8, classes // 4)
    edges = np.quantile(values[:half], np.linspace(0, 1, bins + 1)[1:-1])
    found = np.searchsorted(edges, values)
    table = np.zeros((bins, classes))
    np.add.at(table, (found[:half], labels[:half]), 1)
    return float((table.argmax(1)[found[half:]] == labels[half:]).mean())


@pytest.mark.parametrize("name", ZERO_SHOT_SETS)
def test_no_single_statistic_gives_the_class_away(name: str) -> None:
    """If it fails, a model scores on the zero-shot set without seeing shapes.

    Bound: twice the chance level. Measured on 4800 images, the best statistic reaches 1.2 times chance on
    shapes, 1.5 on objects (vivid), 1.7 on counts (vivid), 1.8 on textures (vivid) and 1.6 on layouts (vivid).
    """
    classes, count = len(ZERO_SHOT_SETS[name].classnames), 1440 if name == "toy_objects" else 900
    made = [toy_world._zero_shot(TINY, f"wds/{name}", index)[1] for index in range(count)]
    order = np.random.default_rng(0).permutation(count)
    labels = np.array([int(sample["cls"]) for sample in made])[order]
    rows = [statistics(made[index]["jpg"]) for index in order]
    scores = {key: bins_accuracy(np.array([row[key] for row in rows]), labels, classes) for key in rows[0]}
    assert max(scores.values()) < 2 / classes, scores


def test_masks_depth_and_counts_agree() -> None:
    """If it fails, segmentation, depth and counting are scored against wrong labels."""
    for scene in scenes(300):
        _, mask, depth = render(scene, SIDE)
        present = {SHAPES[value - 1] for value in np.unique(mask) if value}
        assert present == set(scene.counts())
        assert sum(scene.counts().values()) == len(scene.objects)
        for thing in scene.objects:
            alone = render(replace(scene, objects=(thing,)), SIDE)
            there = alone.mask > 0
            seen = there & (mask == alone.mask) & (depth == alone.depth)
            assert seen.sum() > 0.4 * there.sum()  # nothing that is counted hides
            assert (depth[there] <= alone.depth[there]).all()  # what hides it is nearer
        assert depth.min() > 0
        assert depth[mask > 0].max() < depth[mask == 0].min(initial=5000)


def test_objects_change_the_image_where_the_mask_says() -> None:
    """If it fails, masks are shifted against the picture, or objects drown in the background.

    Four pixels of margin: over so many do the horns of a crescent fade out beyond the mask.
    """
    for scene in scenes(200):
        image, mask, _ = render(scene, SIDE)
        change = np.abs(image.astype(int) - render(replace(scene, objects=()), SIDE).image).max(2)
        near = np.pad(mask > 0, 4)
        near = np.logical_or.reduce([near[i : i + SIDE, j : j + SIDE] for i in range(9) for j in range(9)])
        assert not change[~near].any()
        assert (change[mask > 0] > 8).mean() > 0.6


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_anti_aliased(shape: Shape) -> None:
    """If it fails, edges are stairs: small shapes flicker between neighbouring positions.

    The grey levels must sum to the area of the outline, which a mask of whole pixels misses.
    """
    scene = solid(shape, x=0.503, y=0.498, rotation=17.0)
    grey = render(scene, SIDE).image[:, :, 0] / 255
    axis = np.linspace(-1.3, 1.3, 1000, dtype=np.float32)
    area = float((DISTANCE[shape](axis[None, :], axis[:, None]) < 0).mean()) * 2.6**2
    assert grey.sum() == pytest.approx(area * (0.25 * SIDE) ** 2, rel=0.015)
    assert ((grey > 0.05) & (grey < 0.95)).sum() > 20
    assert 1.35 < area < 1.95  # all shapes fill the picture about alike


@pytest.mark.parametrize("size", [16, 65, 224])
def test_any_image_size_renders(size: int) -> None:
    """If it fails, image_size works for 64 only."""
    for scene in scenes(20):
        image, mask, depth = render(scene, size)
        assert (image.shape, mask.shape, depth.shape) == ((size, size, 3), (size, size), (size, size))


def test_dense_files_hold_what_was_rendered(world: Path) -> None:
    """If it fails, PNG encoding changes labels (a palette, eight bits of depth)."""
    names = (world / "dense/classes.txt").read_text().splitlines()
    assert names == ["background", *SHAPES]
    for _, sample in samples(world / "dense/test/00000.tar"):
        mask, depth = (Image.open(io.BytesIO(sample[name])) for name in ("seg.png", "depth.png"))
        classes = np.unique(np.asarray(mask))
        counts = json.loads(sample["json"])
        assert (mask.mode, depth.mode) == ("L", "I;16")
        assert {names[value] for value in classes if value} == {n for n, k in counts["counts"].items() if k}
        assert sum(counts["counts"].values()) == counts["total"]
        assert 500 < np.asarray(depth).min() < np.asarray(depth).max() <= 5000


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_what_their_names_say(layout: str) -> None:
    """If it fails, the classes of toy_layouts and the captions are wrong."""
    for scene in scenes(100, layout=layout):
        x, y = (np.array([getattr(thing, axis) for thing in scene.objects]) for axis in ("x", "y"))
        true = {
            "left": x.max() < 0.45,
            "right": x.min() > 0.55,
            "top": y.max() < 0.45,
            "bottom": y.min() > 0.55,
            "middle": np.hypot(x - 0.5, y - 0.5).max() < 0.1,
            "row": np.ptp(y) < 0.05 < np.ptp(x),
            "column": np.ptp(x) < 0.05 < np.ptp(y),
            "diagonal": len(x) > 2 and abs(np.corrcoef(x, y)[0, 1]) > 0.99,
            "grid": len(x) in (4, 6, 9) and len(np.unique(x.round(5))) * len(np.unique(y.round(5))) == len(x),
            "scattered": len(x) > 1,
        }
        assert true[layout]
        assert all(0 < value < 1 for value in (*x, *y))


def test_impossible_constraints_are_refused() -> None:
    """If it fails, the sampler loops for ever or breaks its promise about size."""
    with pytest.raises(InputError, match="count=9"):
        sample_scene(np.random.default_rng(0), count=9, size="large")
