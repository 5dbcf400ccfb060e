"""Pages: they stand alone, show text as text, and fit on a phone; seen by a headless Chromium where there is one."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from pineco.evals.data.tasks import Task, load_tasks
from pineco.evals.report.page import comparison_page, report_page, run_page
from pineco.evals.report.page.charts import Point, curve_chart, range_chart
from pineco.evals.report.page.html import STYLE, environment, named
from pineco.evals.results.averages import averages
from pineco.evals.results.comparison import ComparedAverage, ComparedTask, Comparison, Gap
from pineco.evals.results.over_training import history
from pineco.evals.results.results import EvalReport, EvalResult

EVIL = "<script>document.title='run'</script>&\"'"
LONG = "a_" + "very_" * 12 + "long_name/without" + "x" * 60
PHONE, DESK = 390, 1280  # CSS pixels


def paper_tasks() -> list[Task]:
    return [task for task in load_tasks().values() if {"paper29", "paper2"} & set(task.tags)]


def result(task: str, value: float, chance: float = 0.1, width: float | None = 0.01) -> EvalResult:
    interval = {} if width is None else {"acc1": (max(0.0, value - width), min(1.0, value + width))}
    return EvalResult(
        task=task,
        main_metric="acc1",
        metrics={"acc1": value},
        chance={"acc1": chance},
        samples=2000,
        full_size=10000,
        seconds=1.5,
        intervals=interval,
        prompts="packaged",
    )


def report_of(results: Sequence[EvalResult], **about: Any) -> EvalReport:
    return EvalReport(model="m", identity="sha256:" + "9f" * 32, results=tuple(results), commit="c" * 40, **about)


def full_suite(checkpoint: int) -> EvalReport:
    """All 31 tasks, some of them at chance."""
    rows = [result(t.key, min(1.0, 0.02 * n + 0.03 * checkpoint)) for n, t in enumerate(paper_tasks())]
    return report_of(rows, samples_seen=4_915_200 * checkpoint, selection="paper29+paper2", hardware="cpu")


def evil_report() -> EvalReport:
    rows = [result(EVIL, 0.2), result(LONG, 0.3, width=None), result("own", 0.4, 0.0)]
    return replace(
        report_of(rows, selection=EVIL, missing=(EVIL + "m",), failed={LONG: EVIL}, hardware=EVIL, precision=EVIL),
        model=EVIL,
        versions={EVIL: EVIL},
    )


def comparison(names: Sequence[str], reports: Sequence[EvalReport]) -> Comparison:
    """Every second task is won, every third lost."""
    gaps = [Gap(0.02, 0.01, 0.03), Gap(0.0, -0.01, 0.01), Gap(-0.2, -0.3, -0.1)]
    others = len(names) - 1
    tasks = tuple(
        ComparedTask(results[0], results[1:], (gaps[number % 3],) * others)
        for number, results in enumerate(zip(*(report.results for report in reports), strict=True))
    )
    means = tuple(averages(report, {}, partial=True)[0] for report in reports)
    return Comparison(
        runs=tuple(names),
        methods=(names[0],) * 2 + tuple(names[2:]),
        reports=tuple(reports),
        tasks=tasks,
        averages=(ComparedAverage(means[0], means[1:], (gaps[0],) * others),),
        left_out={EVIL + "left": (names[0],)},
        notes=(EVIL,),
        draws=1000,
        seed=0,
    )


def pages() -> dict[str, str]:
    table = load_tasks()
    run = [full_suite(checkpoint) for checkpoint in range(1, 11)]
    run[3] = replace(run[3], results=run[3].results[:-1], missing=("mscoco_captions",))
    evil_run = history([replace(evil_report(), step=5), replace(evil_report(), step=9)])
    one = report_of([result("cifar10", 0.3)], selection="cifar10")
    return {
        "full": report_page(run[0], averages(run[0], table)),
        "one": report_page(one, averages(one, table)),
        "evil": report_page(evil_report(), averages(evil_report(), table)),
        "run": run_page(history(run), history(run).averages(table), title="Run r", details={"recipe": "r"}),
        "run of one": run_page(history([one]), history([one]).averages(table), title="Run r", details={}),
        "evil run": run_page(evil_run, evil_run.averages(table), title=EVIL, details={EVIL: EVIL}),
        "compared": comparison_page(comparison(["a", "b", "c"], run[:3])),
        "evil compared": comparison_page(comparison([EVIL, LONG], [evil_report(), evil_report()])),
    }


PAGES = pages()


class Elements(HTMLParser):
    """Names and attributes of all elements, and the text of those called style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.style = ""
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "style":
            self.style += data


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_and_runs_nothing(name: str) -> None:
    """A report that is opened would call somebody, or a name from a data set would run as a script."""
    elements = Elements(PAGES[name])
    assert not {n for n, _ in elements.found} & {"script", "link", "img", "iframe", "object", "embed", "base", "use"}
    written = {attribute for _, attributes in elements.found for attribute in attributes}
    assert not {a for a in written if a.startswith("on") or a in ("src", "href", "srcset", "action", "xlink:href")}
    assert elements.style
    assert not re.search(r"url\(|@import|image-set", elements.style)
    [policy] = [a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_heard(name: str) -> None:
    """Who does not see the pictures and tables would not learn what they are."""
    elements = Elements(PAGES[name]).found
    assert ("html", {"lang": "en"}) in elements
    for element, attributes in elements:
        if element == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if attributes.get("role") == "region":
            assert attributes["aria-label"]
            assert attributes["tabindex"] == "0"
    names = [element for element, _ in elements]
    assert names.count("h1") == 1
    assert names.count("caption") == names.count("table") > 0
    assert all(attributes.get("scope") in ("row", "col") for element, attributes in elements if element == "th")


def test_strings_are_escaped_and_markup_is_not() -> None:
    """Escaping would depend on whoever writes the next page."""
    written = environment().from_string('<p class="{{ a }}">{{ b }}{{ c }}</p>')
    assert written.render(a='"', b="<b>", c=Markup("<i>")) == '<p class="&#34;">&lt;b&gt;<i></p>'
    assert named("a/b_c<d>") == "a/<wbr>b_<wbr>c&lt;d&gt;"
    assert isinstance(named("a"), Markup)
    [box] = Elements(range_chart(0.5, None, low=0, high=1, mark=0, label='"><b>', class_='"')).found[:1]
    assert box == ("span", {"class": 'cell "'})
    [drawn] = ElementTree.fromstring(range_chart(0.5, None, low=0, high=1, mark=0, label='"><b>'))
    assert drawn.get("aria-label") == '"><b>'


def test_a_name_that_a_template_lacks_is_an_error() -> None:
    """A misspelt figure would leave an empty cell on a page."""
    for text in ("{{ nothing }}", "{{ report.nothing }}", "{% for one in nothing %}{% endfor %}"):
        with pytest.raises(UndefinedError):
            environment().from_string(text).render(report=report_of([]))


def test_the_results_are_on_the_page() -> None:
    """A column would be missing, or a figure wrong."""
    text = re.sub(r"<[^>]*>", "|", PAGES["one"])
    cells = [cell for cell in text.split("|") if cell.strip()]
    start = cells.index("acc1")
    row = ["acc1", "30.00%", "10.00%", "29.00 to 31.00", "3.0x", "2,000 of 10,000", "1.5", "packaged"]
    assert cells[start - 1 : start + 8] == ["cifar10", *row]


def test_a_refused_average_names_what_it_lacks() -> None:
    """The reader would see no average and not know why."""
    whole = full_suite(1)
    holes = replace(whole, results=whole.results[2:])
    page = report_page(holes, averages(holes, load_tasks()))
    assert page.count("refused</p>") == 1
    assert "27 of 29 tasks have a figure" in page
    assert "2 missing: imagenet1k, imagenetv2" in page
    assert "none at 19.66M: lacks mscoco_captions" in PAGES["run"]


def test_what_is_not_above_chance_is_said() -> None:
    """A best-and-worst list would sell noise as skill."""
    rows = [result("skill", 0.5), result("noise", 0.105), result("unknown", 0.3, width=None), result("below", 0.02)]
    page = re.sub(r"<[^>]*>", "", report_page(report_of(rows), []))
    worst = page[page.index("Closest to chance") :]
    assert worst.index("below") < worst.index("noise not above chance")
    assert "unknown not above chance" not in page
    assert "skill not above chance" not in page


def test_a_curve_has_its_chance_its_band_and_its_gap() -> None:
    """A picture would show another course than the figures."""
    points = [
        Point(10, 0.1, (0.05, 0.15), 0.2),
        Point(20, 0.2, (0.15, 0.3), 0.2),
        Point(30, None),
        Point(40, 0.4, (0.35, 0.4), 0.2),
    ]
    box = ElementTree.fromstring(curve_chart(points, label="l", axis="step"))
    [svg] = box.findall("svg")
    by_class = {c: [e for e in svg if e.get("class") == c] for c in ("curve", "band", "chance", "dot", "dot end")}
    assert [e.get("points") for e in by_class["curve"]] == ["25.00,75.00 50.00,50.00", "100.00,0.00"]
    assert [e.get("points") for e in by_class["band"]] == ["25.00,62.50 50.00,25.00 50.00,62.50 25.00,87.50"]
    assert [e.get("d") for e in by_class["chance"]] == ["M0,50.00H100"]
    assert [e.findtext("title") for e in by_class["dot"] + by_class["dot end"]] == [
        "10.00% at 10 step",
        "20.00% at 20 step",
        "40.00% at 40 step",
    ]
    assert [e.text for e in box.findall("span")] == ["0%", "20%", "40%", "0", "40"]


def test_a_range_stands_where_its_figure_is() -> None:
    """A loss would be drawn on the side of the wins."""
    [svg] = ElementTree.fromstring(range_chart(-0.1, (-0.2, 0.05), low=-0.2, high=0.2, mark=0, label="l"))
    drawn = {element.get("class"): element.get("d") for element in svg}
    assert drawn["chance"] == "M50.00,0V100"
    assert drawn["range"] == "M0.00,50H62.50"
    assert drawn["dot"] == "M25.00,50h0"


def test_a_comparison_shows_every_verdict_in_words() -> None:
    """Who does not tell green from red would not see who won."""
    text = re.sub(r"<[^>]*>", "", PAGES["compared"])
    assert "11 ▲ win10 = tie10 ▼ loss" in text
    assert "Left out" in text
    assert "Over seeds" in text


@pytest.mark.parametrize(("gap", "scale"), [((0.0, 0.0, 0.0), "± 1 points"), ((1.0, 1.0, 1.0), "± 100 points")])
def test_the_scale_of_differences_is_a_plain_number(gap: tuple[float, float, float], scale: str) -> None:
    """Equal models would divide by zero, and opposite ones have a scale of 1e+02."""
    reports = [report_of([result("a", 0.1), result("b", 0.2)])] * 2
    same = replace(comparison(["x", "y"], reports), averages=())
    tasks = tuple(replace(task, gaps=(Gap(*gap),)) for task in same.tasks)
    assert scale in comparison_page(replace(same, tasks=tasks))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_have_contrast(scheme: int) -> None:
    """Grey on grey: WCAG 2.1, 1.4.3 asks for 4.5 to 1."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(), flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    on = [(text, back) for text in ("text", "soft", "accent", "down") for back in ("card", "page")]
    on += [("up", "up-back"), ("down", "down-back"), ("soft", "even-back")]
    for text, back in on:
        light, dark = sorted((_luminance(colours[text]), _luminance(colours[back])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, back)


MEASURE = """
const shown = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, width = frame.clientWidth, root = page.documentElement;
  const inBox = element => element.closest(".scroll") && element.closest(".scroll") !== element;
  const all = [...page.querySelectorAll("main *")];
  const outside = all.filter(e => !inBox(e) && !e.closest("caption") && e.getBoundingClientRect().right > width + 0.5);
  const ticks = [...page.querySelectorAll(".area")].map(
    area => [...area.querySelectorAll(".tick.x")].map(e => e.getBoundingClientRect()));
  shown[frame.name] = {
    scroll: root.scrollWidth, client: root.clientWidth, outside: outside.map(e => e.className || e.tagName),
    names: [...page.querySelectorAll("th[scope=row]")].map(e => e.firstChild.parentNode.innerText),
    chance: [...page.querySelectorAll("thead th")].filter(e => e.innerText === "chance").map(
      e => e.getBoundingClientRect().right),
    boxes: [...page.querySelectorAll(".scroll")].map(e => [e.scrollWidth, e.clientWidth]),
    small: Math.min(...all.filter(e => e.innerText).map(e => parseFloat(getComputedStyle(e).fontSize))),
    flat: [...page.querySelectorAll("svg")].filter(e => e.getBoundingClientRect().width < 60).length,
    crowded: ticks.filter(row => row.some((box, i) => i && box.left < row[i - 1].right)).length,
    scripts: page.scripts.length, title: page.title,
    requests: frame.contentWindow.performance.getEntriesByType("resource").length,
  };
}
document.getElementById("out").textContent = JSON.stringify(shown);
"""


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    return found


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """What a browser makes of every page at both widths, by "NAME WIDTH". In frames, since no window is that narrow."""
    program, folder = chromium(), tmp_path_factory.mktemp("chromium")
    frames = [
        f'<iframe name="{escape(f"{name} {width}")}" width={width} height=900 style="border:0" srcdoc="{escape(text)}">'
        "</iframe>"
        for name, text in PAGES.items()
        for width in (PHONE, DESK)
    ]
    wrapper = folder / "frames.html"
    script = f"<script>addEventListener('load', () => {{{MEASURE}}})</script>"
    wrapper.write_text(f"<!doctype html><meta charset=utf-8><pre id=out></pre>{''.join(frames)}{script}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command = [program, *options, "--dump-dom", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # takes two seconds
    out = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert out, done.stderr[-2000:]
    assert out[1], done.stderr[-2000:]
    return json.loads(unescape(out[1]))


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_wide_as_the_screen(rendered: Mapping[str, dict[str, Any]], name: str, width: int) -> None:
    """On a phone every line would have to be pushed to and fro, or a figure stand outside of the screen."""
    seen = rendered[f"{name} {width}"]
    assert seen["client"] <= width
    assert seen["scroll"] == seen["client"]
    assert seen["outside"] == []
    assert seen["small"] >= 11
    assert seen["flat"] == 0
    assert seen["crowded"] == 0


def test_wide_tables_scroll_in_their_own_box(rendered: Mapping[str, dict[str, Any]]) -> None:
    """Columns would be cut off on a phone: this shows that the width test above sees tables that are too wide."""
    assert any(content > box for content, box in rendered[f"run {PHONE}"]["boxes"])
    assert all(box <= PHONE for _, box in rendered[f"run {PHONE}"]["boxes"])


@pytest.mark.parametrize("name", ["full", "run"])
def test_chance_is_seen_on_a_phone(rendered: Mapping[str, dict[str, Any]], name: str) -> None:
    """A figure would stand there without what guessing scores, until somebody pushes the table aside."""
    places = rendered[f"{name} {PHONE}"]["chance"]
    assert places
    assert max(places) <= PHONE


@pytest.mark.parametrize("name", ["evil", "evil run", "evil compared"])
def test_names_are_text_in_the_browser(rendered: Mapping[str, dict[str, Any]], name: str) -> None:
    """A data set called <script> would run in the browser of whoever reads the report."""
    seen = rendered[f"{name} {PHONE}"]
    assert seen["scripts"] == 0
    assert seen["requests"] == 0
    assert seen["title"] != "run"
    assert any(row.startswith(EVIL) for row in seen["names"])
