"""The page of a comparison of two or more models. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pineco.evals.report.formats import NONE, origin, percent, point_interval, points
from pineco.evals.report.page.charts import range_chart
from pineco.evals.report.page.html import Html, document, heads, named, number, scrolling, section, tag
from pineco.evals.report.page.sections import FEW, header, notes, plain_table
from pineco.evals.results.comparison import ComparedAverage, ComparedTask, Comparison, Gap, Spread, Verdict

_SIGNS: dict[Verdict, str] = {"win": "▲ win", "tie": "= tie", "loss": "▼ loss"}


def comparison_page(c: Comparison) -> str:
    """A whole HTML document."""
    title = f"{', '.join(c.others)} against {c.runs[0]}"
    many = f"{len(c.tasks)} common task{'s' * (len(c.tasks) != 1)}"
    images = "images that could not all be checked to be the same" if c.unchecked else "the same images"
    return document(
        title,
        header(title, f"Zero-shot, {many}, measured on {images} and compared image by image"),
        _totals(c),
        _figures_table(c, "Averages", "over", c.averages, _over(c)) if c.averages else Html(""),
        _figures_table(c, "Tasks", "task", c.tasks, "Main metric; 0 in the small picture is the baseline, dashed."),
        _best_and_worst(c),
        _seeds(c),
        _left_out(c),
        notes(c.notes),
        section("Origin", tag("div", [_origin(c, place) for place in range(len(c.runs))], class_="two")),
    )


def _totals(c: Comparison) -> Html:
    note = (
        f"Differences in percentage points; 95 % intervals of a paired bootstrap over images ({c.draws:,} draws). "
        "A tie: the interval holds 0. Of tasks without any difference, about 1 in 20 is still called a win or a loss."
    )
    return section(
        "Wins, ties, losses", tag("div", [_card(c, place) for place in range(len(c.others))], class_="two"), note=note
    )


def _card(c: Comparison, other: int) -> Html:
    totals = c.totals(other)
    tags = [
        tag("span", f"{count} {sign}", class_=f"tag {verdict}")
        for (verdict, sign), count in zip(_SIGNS.items(), totals, strict=True)
    ]
    lines = [tag("p", _in_card(a, other), class_="under") for a in c.averages if a.others[other] is not None]
    return tag("div", tag("h3", named(c.others[other])), tag("p", tags, class_="tags"), lines, class_="card")


def _in_card(a: ComparedAverage, other: int) -> str:
    gap = a.gaps[other]
    return a.label if gap is None else f"{a.label}: {points(gap.value)} ({point_interval((gap.low, gap.high))})"


def _over(c: Comparison) -> str:
    """What the averages lack, in words."""
    given = [a for a in c.averages if a.missing and a.first.value is not None]
    lacking = [f"{a.label}, without {', '.join(a.missing)}" for a in given]
    named_ones = f" Not whole: {'; '.join(lacking)}." if lacking else ""
    return f"Means over the tasks that run and baseline have.{named_ones} Their intervals take tasks as independent."


def _figures_table(
    c: Comparison, title: str, first: str, rows: Sequence[ComparedTask | ComparedAverage], note: str
) -> Html:
    known = [gap for row in rows for gap in row.gaps if gap is not None]
    widest = max((max(abs(gap.low), abs(gap.high), abs(gap.value)) for gap in known), default=0.0) or 0.01
    columns = [first]
    for name in c.others:
        columns += [f"{name}: difference", f"± {100 * widest:.3g} points", name]
    body = [_row(row, widest) for row in rows]
    return section(title, scrolling(title, heads(*columns, c.runs[0]), body, class_="compared"), note=note)


def _row(figures: ComparedTask | ComparedAverage, widest: float) -> Html:
    """Differences come first: they are what a narrow screen shows."""
    cells = []
    for value, gap in zip(figures.values[1:], figures.gaps, strict=True):
        if gap is None:
            cells += [number(NONE), number(NONE), number(percent(value))]
            continue
        limits = tag("span", point_interval((gap.low, gap.high)), class_="how")
        difference = tag("span", points(gap.value), class_="value")
        cells += [number(difference, " ", _verdict(gap), limits), number(_picture(gap, widest)), number(percent(value))]
    if isinstance(figures, ComparedAverage):
        name = tag("th", named(figures.label), scope="row")
    else:
        metric = tag("span", named(figures.first.main_metric), class_="how")
        name = tag("th", named(figures.task), metric, scope="row")
    return tag("tr", name, cells, number(percent(figures.values[0])))


def _verdict(gap: Gap) -> Html:
    return tag("span", _SIGNS[gap.verdict], class_=f"tag {gap.verdict}")


def _picture(gap: Gap, widest: float) -> Html:
    spoken = f"{gap.verdict}, {points(gap.value)} points, 95 % interval {point_interval((gap.low, gap.high))}"
    return range_chart(
        gap.value, (gap.low, gap.high), low=-widest, high=widest, mark=0, label=spoken, class_=gap.verdict
    )


def _best_and_worst(c: Comparison) -> Html:
    """Where each run gains and loses most; nothing where there are too few tasks."""
    if len(c.tasks) < 2:
        return Html("")
    cards = []
    for other, name in enumerate(c.others):
        known = [(task.task, gap) for task in c.tasks if (gap := task.gaps[other]) is not None]
        ranked = sorted(known, key=lambda pair: -pair[1].value)
        gained = [(task, gap) for task, gap in ranked if gap.value > 0]
        lost = [(task, gap) for task, gap in reversed(ranked) if gap.value < 0]
        cards += [_list(f"{name}: most gained", gained[:FEW]), _list(f"{name}: most lost", lost[:FEW])]
    note = f"Difference to {c.runs[0]} in percentage points."
    return section("Best and worst", tag("div", cards, class_="two"), note=note)


def _list(title: str, tasks: Sequence[tuple[str, Gap]]) -> Html:
    rows = [
        tag(
            "li",
            tag("span", named(task), class_="name"),
            tag("span", tag("span", points(gap.value), class_="value"), " ", _verdict(gap), class_="figure"),
        )
        for task, gap in tasks
    ]
    body = tag("ol", rows, class_="rank") if rows else tag("p", "no task", class_="under")
    return tag("div", tag("h3", named(title)), body, class_="card")


def _seeds(c: Comparison) -> Html:
    if not c.has_seeds:
        return Html("")
    methods = list(dict.fromkeys(c.methods))
    rows = []
    both: list[ComparedAverage | ComparedTask] = [*c.averages, *c.tasks]
    for figures in both:
        found = c.over_seeds(figures.values)
        cells = [number(_spread(found.get(method))) for method in methods]
        rows.append(tag("tr", tag("th", named(figures.label), scope="row"), cells))
    note = "Mean ± sample standard deviation over the runs of a method, whose number stands in brackets."
    return section("Over seeds", scrolling("Over seeds", heads("", *methods), rows), note=note)


def _spread(found: Spread | None) -> Html:
    if found is None:
        return tag("span", NONE)
    width = [] if found.deviation is None else [f" ± {100 * found.deviation:.2f}"]
    return tag(
        "span", tag("span", percent(found.mean), class_="value"), width, tag("span", f" ({found.runs})", class_="soft")
    )


def _left_out(c: Comparison) -> Html:
    rows = [(task, f"no figure in {', '.join(lacking)}") for task, lacking in c.left_out.items()]
    note = "Tasks that not every run has; a run that lacks one has it in no total and no average."
    return section("Left out", plain_table("Tasks left out", rows), note=note) if rows else Html("")


def _origin(c: Comparison, place: int) -> Html:
    rows = {"model": c.reports[place].model} | origin(c.reports[place])
    name = c.runs[place]
    return tag("div", tag("h3", named(name)), plain_table(f"Where the figures of {name} come from", rows.items()))
