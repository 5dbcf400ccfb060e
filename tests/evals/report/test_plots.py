"""Still pictures: what they show, that their texts can be read, and that they can be had again."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from pineco.evals.report.plots import (
    Agreement,
    JudgedSplit,
    draw_curves,
    draw_probe,
    draw_triplets,
    svg,
    write_png,
)
from pineco.evals.results.over_training import Curve

CURVES = [
    Curve("a<b & $c$", ((0, 0.0), (50, 0.25), (100, 0.5)), 0.1),
    Curve("low", ((100, 0.3),), 0.2),
    Curve("x" * 60, ((0, 0.2), (100, 0.4)), 0.2),
]


def many_curves() -> Figure:
    curves = [Curve(f"vtab/clevr_closest_object_{i:08d}", ((10**9, i / 40),), 0.02) for i in range(40)]
    return draw_curves(curves, title="t" * 200, x_label="samples seen")


def one_split(number: int, two_afc: float, model: str = "runs/" + "long/" * 60) -> JudgedSplit:
    shares = tuple(Agreement(s, two_afc, (two_afc - 0.1, two_afc + 0.1)) for s in (0.6, 0.8, 1.0))
    return JudgedSplit(number, model, "test", two_afc, (two_afc - 0.1, two_afc + 0.1), 0.95, 0.85, shares)


def triplets() -> Figure:
    rows = [one_split(0, 0.8), one_split(1, 0.35, "b"), one_split(0, 0.7), one_split(1, 0.6)]
    return draw_triplets("t" * 200, rows, chance=0.5)


def probe(count: int) -> Figure:
    """Some figures are not known, and some are below 0."""
    square = [[None if i + j == 1 else (i - j) / 12 for i in range(count)] for j in range(count)]
    table = {"values": square, "low": square, "high": square, "images": 5}
    curve = {"of_first": [0, 1, 2], "cka": [0.2, -0.3, None], "low": [0.1, -0.4, None], "high": [0.3, 0.0, None]}
    models = [{"label": f"{'long/' * 60}{number}"} for number in range(count)]
    layers = {"tokens": "cls", "curves": {str(n): curve for n in range(1, count)}}
    return draw_probe({"models": models, "images": 5, "data": "x" * 500, "cka": table, "rsa": table, "layers": layers})


PICTURES = {
    "curves": lambda: draw_curves(CURVES, title="<t>", x_label="samples seen"),
    "many curves": many_curves,
    "triplets": triplets,
    "probe of 2": lambda: probe(2),
    "probe of 12": lambda: probe(12),
}


def xy(line: Line2D) -> list[list[float]]:
    """Its points."""
    return np.asarray(line.get_xydata()).tolist()


def segments(axes: Axes) -> list[np.ndarray]:
    """(2, 2) ends of each line that is on its own."""
    found = [part for part in axes.collections if isinstance(part, LineCollection)]
    return [np.asarray(segment) for part in found for segment in part.get_segments()]


def texts(figure: Figure) -> Iterator[Text]:
    figure.draw_without_rendering()
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible():
            yield text


@pytest.mark.parametrize("name", PICTURES)
def test_texts_do_not_overlap_or_leave_the_picture(name: str) -> None:
    """Names, numbers, the legend or the ticks of a full suite could not be read."""
    figure = PICTURES[name]()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    assert len(boxes) > 10
    for number, (text, box) in enumerate(boxes):
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
        for other, other_box in boxes[:number]:
            apart = box.x1 <= other_box.x0 or other_box.x1 <= box.x0
            assert apart or box.y1 <= other_box.y0 + 2 or other_box.y1 <= box.y0 + 2, (text, other)


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_at_the_edge(name: str, tmp_path: Path) -> None:
    """A line or a name would be cut off."""
    write_png(tmp_path / "p.png", PICTURES[name]())
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (edge == 255).all()
    assert (pixels < 255).any()
    assert pixels.shape[1] > 1600


def test_a_picture_does_not_depend_on_time_or_on_settings_of_the_user() -> None:
    """A run's folder would change where nothing did, and a picture look otherwise on another machine."""
    first = svg(PICTURES["curves"](), "t")
    with matplotlib.rc_context(
        {"svg.hashsalt": None, "font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}
    ):
        assert svg(PICTURES["curves"](), "t") == first
    assert "<dc:date>" not in first


def test_curves_are_one_line_a_task_with_its_chance() -> None:
    """A task would be missing from the picture, or its line stand at wrong values."""
    [axes] = PICTURES["curves"]().axes
    lines = {line.get_label(): line for line in axes.lines}
    names = ["a<b & $c$", "x" * 60, "low"]  # by last value
    assert list(lines) == [label for name in names for label in (f"chance of {name}", name)]
    assert xy(lines["a<b & $c$"]) == [[0, 0], [50, 0.25], [100, 0.5]]
    assert xy(lines["low"]) == [[100, 0.3]]
    assert xy(lines["chance of low"])[0][1] == 0.2
    assert all(lines[f"chance of {name}"].is_dashed() for name in names)
    assert lines["chance of a<b & $c$"].get_color() == lines["a<b & $c$"].get_color(), "the only one at 10 %"
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 100), (0, 0.5))
    assert axes.get_xlabel() == "samples seen"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0%", "10%", "20%", "30%", "40%", "50%"]


def test_names_are_text_in_the_document() -> None:
    """A name with a bracket would break the picture, one with dollars become a formula, and no search would find it."""
    root = ElementTree.fromstring(svg(PICTURES["curves"](), "<t>"))
    svg_name = "{http://www.w3.org/2000/svg}"
    written = [element.text for element in root.iter(f"{svg_name}text")]
    assert {"<t>", "a<b & $c$", "low", "50.0%", "20%", "samples seen", "main metric"} <= set(written)
    assert written.index("a<b & $c$") < written.index("low"), "the legend is sorted by last value"
    assert root.findtext(f"{svg_name}title") == "<t>"


def test_more_curves_than_colours_can_be_told_apart() -> None:
    """Two tasks would have one look."""
    [axes] = many_curves().axes
    looks = [(line.get_color(), line.get_marker()) for line in axes.lines if not line.is_dashed()]
    assert len(set(looks[:32])) == 32


def test_a_dot_stands_between_chance_and_what_people_can_reach() -> None:
    """A score would be read without what guessing scores and what these votes allow."""
    scores, agreement = triplets().axes
    dashed = [xy(line)[0][0] for line in scores.lines if line.is_dashed()]
    assert dashed == [0.5]
    assert [xy(line) for line in scores.lines if line.get_marker() == "o"] == [
        [[value, row]] for row, value in enumerate((0.8, 0.35, 0.7, 0.6))
    ]
    across = [segment[:, 0].tolist() for segment in segments(scores) if segment[0][1] == segment[1][1]]
    assert across == [pytest.approx([value - 0.1, value + 0.1]) for value in (0.8, 0.35, 0.7, 0.6)]
    upright = {segment[0][0] for segment in segments(scores) if segment[0][0] == segment[1][0]}
    assert upright == {0.95, 0.85}
    assert scores.get_xlim()[0] < 0.25, "no interval is cut off"
    drawn = [xy(line) for line in agreement.lines if line.get_marker() == "o"]
    assert drawn[0] == [[0.6, 0.8], [0.8, 0.8], [1.0, 0.8]]
    assert "one voter" in [line.get_label() for line in agreement.lines]
    assert agreement.get_xlabel() == "share of people in the majority"


def test_a_heat_map_has_its_numbers_and_layers_their_intervals() -> None:
    """A cell would hold the figure of another pair, or a missing figure end in a traceback."""
    cka, rsa, layers = probe(2).axes
    for axes in (cka, rsa):
        shown = {(text.get_position()[0], round(text.get_position()[1])): text.get_text() for text in axes.texts}
        assert shown == {(0, 0): "0.00", (1, 0): "-", (0, 1): "-", (1, 1): "0.00"}
    [line] = layers.lines
    assert xy(line) == [[1, 0.2], [2, -0.3]], "a figure that is not known is a gap"
    assert [bar[:, 1].tolist() for bar in segments(layers)] == [[0.1, 0.3], [-0.4, 0.0]]
    assert layers.get_ylim() == (-0.4, 1)
