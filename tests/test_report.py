"""The report: one safe, self-contained file, whatever the project went through."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alpipe import images, rle
from alpipe.config import Config
from alpipe.errors import DataError
from alpipe.pool.store import NewItem
from alpipe.project import Project
from alpipe.report import draw
from alpipe.report.curve import Measured, learning_curve, ticks
from alpipe.report.page import (
    ClassRow,
    CostRow,
    Costs,
    Gallery,
    Picture,
    Report,
    RoundRow,
    contact_sheet,
    curve_of,
    duration,
    number,
    render,
    sort_details,
)
from alpipe.steps.reporting import write_gallery, write_report
from alpipe.types import (
    Annotation,
    AnswerState,
    Boxes,
    BoxPrediction,
    ImageClass,
    Item,
    ItemState,
    Masks,
    Negative,
    Receipt,
    Refusal,
    Split,
    Task,
)

NOW = datetime(2025, 3, 1, 12, 30, tzinfo=UTC)
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&{{7*7}}"
VOID = {"meta", "link", "img", "br", "hr", "input", "image", "rect", "line", "circle", "polyline"}


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, the text, and whether the tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def assert_self_contained(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in {"src", "href", "srcset", "xlink:href", "action", "data", "poster"}:
                assert (value or "").startswith("data:image/jpeg;base64,"), f"{tag} {name}={value}"
    (style,) = [text for text in page.texts if "--accent" in text]
    assert "url(" not in style
    assert "@import" not in style
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))


def a_report(**changes: object) -> Report:
    report = Report(
        name="cells",
        task="detect",
        classes=(ClassRow("RBC", "#e69f00", 3, 40),),
        made_at=NOW,
        states={"pool": {"unlabelled": 5, "labelled": 3}, "holdout": {"unlabelled": 0, "labelled": 2}},
    )
    return replace(report, **changes)  # type: ignore[arg-type]


def a_round(number: int, value: float | None, **changes: object) -> RoundRow:
    row = RoundRow(number, labelled=20 * number, metric="mAP50", value=value, model=f"r{number}", holdout_hash="h")
    return replace(row, **changes)  # type: ignore[arg-type]


def a_picture(text: str = "a.jpg") -> Picture:
    image = np.zeros((40, 60, 3), np.uint8)
    labels = Boxes(np.array([[5, 5, 30, 30]], np.float32), (text,))
    return Picture(
        text,
        draw.thumbnail(image, labels, [text], (0.5,)),
        key=text,
        state=text,
        chips=draw.chips(labels, [text]),
        lines=(text,),
    )


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_project_without_a_round_says_what_is_missing() -> None:
    page = Page(render(a_report(waiting_for="images: the pool is empty")))
    assert_self_contained(page)
    assert "Waits for images: the pool is empty" in page.text
    assert "Nothing has been measured yet" in page.text
    assert "No round has begun" in page.text
    assert not page.all("circle")


@pytest.mark.parametrize("count", [1, 2, 10])
def test_each_measured_round_is_a_point_and_a_line_of_the_ledger(count: int) -> None:
    rounds = tuple(a_round(n, 0.5 + 0.03 * n, model_hash="abcdef0123456789") for n in range(count))
    page = Page(render(a_report(rounds=rounds)))
    assert_self_contained(page)
    assert len(page.all("circle")) == count
    for row in rounds:
        assert f"r{row.number} abcdef01" in page.text
    assert "0123456789" not in page.text


def test_everything_from_outside_is_escaped() -> None:
    gallery = Gallery(EVIL, (a_picture(EVIL), Picture(EVIL, problem=EVIL)), note=EVIL, total=9)
    row = CostRow(EVIL, EVIL, 1, suggested=2, accepted=1)
    report = a_report(
        name=EVIL,
        costs=Costs((row,), (row,), {EVIL: (row,)}, (EVIL, EVIL)),
        task=EVIL,
        classes=(ClassRow(EVIL, "#123456"),),
        rounds=(a_round(1, 0.5, metric=EVIL, model=EVIL, model_hash=EVIL, step=EVIL, timings={EVIL: 1.0}),),
        waiting_for=EVIL,
        details={f"AP50/{EVIL}": 0.5, EVIL: 0.25},
        batch=gallery,
        negatives=(gallery,),
        quarantined=((EVIL, EVIL),),
        quarantined_total=1,
        provenance=((EVIL, EVIL),),
        config=EVIL,
    )
    for html in (render(report), contact_sheet(EVIL, gallery, NOW)):
        page = Page(html)
        assert_self_contained(page)
        assert not page.all("img")
        assert EVIL in page.text
        assert "49" not in page.text.replace(EVIL, "")


def test_the_hold_out_that_changed_breaks_the_line_and_is_explained() -> None:
    rounds = (a_round(1, 0.9, holdout_hash="other"), a_round(2, 0.5), a_round(3, 0.6))
    page = Page(render(a_report(rounds=rounds)))
    assert [circle["class"] for circle in page.all("circle")] == ["other", "same", "same"]
    assert len((page.all("polyline")[0]["points"] or "").split()) == 2
    assert "another hold-out" in page.text
    assert "+0.100 since round 2" in page.text


def test_a_model_that_was_not_trained_again_is_one_point() -> None:
    curve = curve_of([a_round(1, 0.5), a_round(2, 0.6), a_round(3, 0.6, model="r2", labelled=40)])
    assert curve is not None
    assert [point.measured.round for point in curve.points] == [1, 2]


def test_figures_of_a_class_stand_beside_it() -> None:
    details = sort_details({"AP50/a/b": 0.5, "AP50/c": 0.25, "recall": 0.75, "x/unknown": 1.0}, ["a/b", "c"])
    assert details.by_class == {"AP50": {"a/b": 0.5, "c": 0.25}}
    assert details.single == {"recall": 0.75, "x/unknown": 1.0}


def test_what_labelling_cost_stands_with_its_shares_beside_the_blind() -> None:
    with_one = CostRow("1", "suggestion", 18, 1, 11.4, 4.25, 80, 60, 10, 2, 8, 5, 0.71)
    blind = CostRow("1", "blind", 2, 0, 24.0, 4.5, added=9)
    page = Page(render(a_report(costs=Costs((with_one, blind), (), {}, ("Pre-annotations saved 12.6 s",)))))
    assert_self_contained(page)
    assert "1 pre-annotated 18 1 11 s 4.25 80 60 75 % 10 12 % 0.71 2 2 % 8 10 % 5" in page.text
    assert "1 blind by lot 2 0 24 s 4.50 – – – – – – 9" in page.text
    assert "Pre-annotations saved 12.6 s" in page.text
    assert "What labelling cost" not in Page(render(a_report())).text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.44, "0.4 s"),
        (12.4, "12 s"),
        (9.99, "10 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_in_words(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_in_few_characters() -> None:
    assert [number(v) for v in (None, float("nan"), 0.12345, 3, 12345)] == ["–", "–", "0.123", "3", "12\u202f345"]


# ── the curve ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 1)), min_size=1, max_size=12))
def test_points_stand_in_the_order_of_what_they_show(values: list[tuple[int, float]]) -> None:
    curve = learning_curve([Measured(i, labelled, value) for i, (labelled, value) in enumerate(values)])
    assert curve is not None
    for one in curve.points:
        assert curve.left <= one.x <= curve.right
        assert curve.top <= one.y <= curve.bottom
        for other in curve.points:
            if one.measured.labelled < other.measured.labelled:
                assert one.x < other.x
            if one.measured.value < other.measured.value:
                assert one.y >= other.y
    written = [point.x for point in curve.points if point.written]
    assert written[-1] == curve.points[-1].x
    assert all(after - before >= 40 for before, after in pairwise(written))


def test_values_that_are_not_finite_are_no_points() -> None:
    assert learning_curve([]) is None
    assert learning_curve([Measured(0, 10, float("nan"))]) is None


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_enclose_the_range_in_equal_steps(low: float, span: float) -> None:
    found = ticks(low, low + span)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= low + span - 1e-6 * step
    assert 2 <= len(found) <= 8
    assert np.allclose(np.diff(found), step)


def test_noise_does_not_fill_the_axis() -> None:
    curve = learning_curve([Measured(0, 10, 0.900), Measured(1, 20, 0.901)])
    assert curve is not None
    assert abs(curve.points[0].y - curve.points[1].y) < 0.02 * (curve.bottom - curve.top)


# ── the pictures ────────────────────────────────────────────────────────────────────────────────────────────────────


def decoded(thumbnail: draw.Thumbnail) -> np.ndarray:
    data = base64.b64decode(thumbnail.uri.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@given(st.integers(1, 900), st.integers(1, 900))
def test_thumbnails_are_small_and_keep_their_shape(height: int, width: int) -> None:
    labels = Boxes(np.array([[0, 0, width, height]], np.float32), ("a",))
    thumbnail = draw.thumbnail(np.zeros((height, width, 3), np.uint8), labels, ["a"])
    scale = min(1, draw.LARGEST_SIDE / max(height, width))
    assert abs(thumbnail.width - max(1, width * scale)) <= 0.5
    assert abs(thumbnail.height - max(1, height * scale)) <= 0.5
    (mark,) = thumbnail.marks
    assert (mark.width, mark.height) == (thumbnail.width, thumbnail.height)


def test_a_mask_tints_its_pixels_and_no_others() -> None:
    image = np.full((100, 200, 3), 128, np.uint8)
    mask = np.zeros((100, 200), np.uint8)
    mask[:, :100] = 1
    drawn = draw.overlay(image, Masks({"sky": rle.encode(mask)}), ["sky"])
    assert (drawn[:, 100:] == 128).all()
    colour = np.array([0xE6, 0x9F, 0x00])
    assert np.abs(drawn[1:-1, 1:99] - (0.6 * 128 + 0.4 * colour)).max() <= 1
    assert (drawn[:, 99] == colour).all()


def test_a_damaged_mask_is_a_stated_failure() -> None:
    with pytest.raises(DataError, match="damaged"):
        draw.thumbnail(np.zeros((4, 4, 3), np.uint8), Masks({"a": rle.Rle(4, 4, "zz")}), ["a"])


@given(st.floats(-20, 110), st.floats(-20, 110), st.floats(0.5, 150), st.floats(0.5, 150))
def test_a_crop_shows_its_region_even_at_the_edge(x: float, y: float, width: float, height: float) -> None:
    image = np.zeros((90, 100, 3), np.uint8)
    crop = draw.crop(image, (x, y, x + width, y + height), "a", 0.9, ["a"])
    assert max(crop.width, crop.height) == draw.CROP_SIDE
    (mark,) = crop.marks
    assert mark.score == 0.9


def test_what_is_in_a_crop_lies_in_its_mark() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[60:80, 120:150] = 255
    crop = draw.crop(image, (120, 60, 150, 80), "a", 0.5, ["a"])
    (mark,) = crop.marks
    ys, xs = np.nonzero(decoded(crop)[..., 0] > 128)
    assert np.allclose([xs.min(), xs.max() + 1], [mark.x, mark.x + mark.width], atol=2)
    assert np.allclose([ys.min(), ys.max() + 1], [mark.y, mark.y + mark.height], atol=2)


def test_classes_have_colours_of_their_own() -> None:
    classes = [f"c{i}" for i in range(20)]
    assert len({draw.colour_of(name, classes) for name in classes}) == 20
    assert draw.colour_of("of yesterday", classes) == draw.UNKNOWN_COLOUR


def test_chips_say_how_many_how_sure_and_how_much() -> None:
    boxes = Boxes(np.array([[0, 0, 1, 1]] * 3, np.float32), ("b", "a", "b"))
    assert [(c.name, c.detail) for c in draw.chips(boxes, ["a", "b"])] == [("b", "× 2"), ("a", "× 1")]
    assert draw.chips(ImageClass("a"), ["a"], (0.912,))[0].detail == "0.91"
    assert draw.chips(Masks({"a": rle.encode(np.eye(4, dtype=np.uint8))}), ["a"])[0].detail == "25 %"
    assert draw.chips(None, ["a"]) == ()


# ── from a project ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project after one round: ten images, the seventh of which has vanished, and a broken file."""
    (tmp_path / ".alpipe").mkdir()
    config = Config(
        name="cells", task="detect", labels=("RBC", "WBC"), learner="detector", annotator={"name": "oracle"}
    )  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    with Project(tmp_path, config) as opened:
        store = opened.store
        for i in range(10):
            path = tmp_path / f"im{i}<i>.png"
            Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(path)
            split = Split.HOLDOUT if i > 7 else Split.POOL
            store.items.add([NewItem(f"{i:020d}", str(path), 80, 60, split=split)])
        store.items.add([NewItem("b" * 20, str(tmp_path / "broken.jpg"), 1, 1)])
        store.items.quarantine([Refusal("b" * 20, "cut off in the middle")])
        (tmp_path / "im7<i>.png").unlink()
        yield opened


def one_round(project: Project) -> None:
    store, keys = project.store, [f"{i:020d}" for i in range(8)]
    store.rounds.open(0, "train", seed=3, config={}, versions={"torch": "9.9.9"})

    def finish(step: str, then: str | None, **facts: object) -> None:
        assert store.rounds.claim(0, step, "me", 60)
        assert store.rounds.finish(0, step, then, "me", seconds=1.5, **facts)

    finish("train", "evaluate", model="r000-cafe", model_hash="feed" * 16, data_hash="da7a" * 16, labelled=4)
    facts = {"metric": "mAP50", "value": 0.625, "metrics": {"AP50/WBC": 0.75}, "holdout_count": 2, "holdout_hash": "h"}
    finish("evaluate", "mine", **facts)
    store.negatives.replace(0, "r000-cafe", [Negative(key, (1, 1, 20, 20), "RBC", 0.8, 0.1) for key in keys[6:]])
    finish("mine", "select", counts={"mined": 2})
    store.rounds.select_items(0, keys[4:], dict.fromkeys(keys[4:], "entropy 0.9, rank <1>"))
    finish("select", "collect")
    store.tasks.put([Receipt(key, key) for key in keys[4:]], "oracle", 0, "r000-cafe")
    labels = Boxes(np.array([[5, 5, 30, 30]], np.float32), ("RBC",))
    store.annotations.upsert(
        [
            Annotation(keys[4], AnswerState.LABELLED, labels, "labelstudio:3", "a", lead_time=12.0),
            Annotation(keys[5], AnswerState.EMPTY, Boxes.none(), "labelstudio:3", "b", lead_time=6.0),
            Annotation(keys[6], AnswerState.SKIPPED, None, "labelstudio:3", "c"),
        ]
    )
    store.negatives.replace(0, "r000-cafe", [Negative(key, (1, 1, 20, 20), "RBC", 0.8, 0.1) for key in keys[6:]])


def test_a_new_project_has_a_report(project: Project, tmp_path: Path) -> None:
    path = write_report(project, tmp_path / "report.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert_self_contained(page)
    assert "broken.jpg cut off in the middle" in page.text
    assert str(tmp_path) not in page.text


def test_the_report_tells_the_round_and_shows_its_images(project: Project, tmp_path: Path) -> None:
    one_round(project)
    page = Page(write_report(project, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert_self_contained(page)
    for text in (
        "0.625 mAP50 on the hold-out",
        "Waits for answers to 1 of 4 tasks of round 0",
        "labelled by labelstudio:3 in 12 s",
        "reviewed, holds no object, by labelstudio:3 in 6 s",
        "skipped by labelstudio:3",
        "entropy 0.9, rank <1>",
        "r000-cafe, SHA-256 " + "feed" * 16,
        "torch 9.9.9",
        "18 s spent on 2 answers",
    ):
        assert text in page.text
    assert page.text.count("cannot be shown: there is no such file") == 2  # in the batch, and among the negatives
    assert len(page.all("image")) == 4


def test_a_model_that_is_gone_costs_the_suggestions_only(project: Project, tmp_path: Path) -> None:
    one_round(project)
    vanished = tmp_path / "im7<i>.png"
    Image.new("RGB", (80, 60)).save(vanished)
    page = Page(write_report(project, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "The model's suggestions cannot be drawn: no model 'r000-cafe'" in page.text
    assert len(page.all("image")) == 6


class Sure:
    """A model that sees the same RBC in each image; it has read them, as real ones do."""

    task, classes = Task.DETECT, ("RBC", "WBC")

    def predict(self, items: Iterable[Item]) -> Iterator[BoxPrediction]:
        for item in items:
            images.read(item.path)
            score = np.array([0.87], np.float32)
            box = np.array([[8, 6, 40, 30]], np.float32)
            yield BoxPrediction(item.key, box, score, np.array([[0.87, 0.1]], np.float32), np.zeros(1, np.int64))


def test_open_images_show_what_the_model_suggests(project: Project, tmp_path: Path) -> None:
    one_round(project)
    held_out = f"{8:020d}"
    project.store.rounds.select_items(0, [held_out], {held_out: "hold-out: to judge the models on"})
    project._model = ("r000-cafe", Sure())  # type: ignore[assignment]
    html = write_report(project, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "suggested by" not in html  # one open image has vanished, the other is held out and so blind
    Image.new("RGB", (80, 60)).save(tmp_path / "im7<i>.png")
    page = Page(write_report(project, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.text.count("suggested by r000-cafe") == 1
    assert "RBC 0.87" in page.text
    dashed = [box for box in page.all("rect") if box.get("stroke-dasharray")]
    assert next((box["x"], box["y"], box["width"], box["height"]) for box in dashed) == ("8.0", "6.0", "32.0", "24.0")
    assert "hold-out: to judge the models on" in page.text


def test_the_gallery_shows_items_with_their_answers(project: Project, tmp_path: Path) -> None:
    one_round(project)
    items = project.store.items.list(split=Split.POOL)
    page = Page(write_gallery(project, tmp_path / "gallery.html", items).read_text(encoding="utf-8"))
    assert_self_contained(page)
    assert len(page.all("figure")) == len(items) == 9
    assert all(item.key in page.text for item in items)
    assert "im4<i>.png" in page.text
    assert [item.state for item in items if item.key == "b" * 20] == [ItemState.QUARANTINED]
    assert "No image fits" in Page(write_gallery(project, tmp_path / "none.html", []).read_text(encoding="utf-8")).text


def test_secrets_in_options_stay_out(tmp_path: Path) -> None:
    annotator = {
        "name": "other",
        "api_token": "s3cr3t",
        "url": "https://me:pa55@host/x",
        "more": [{"password": "hush"}],
    }
    config = Config(name="cells", task="detect", labels=("a",), annotator=annotator)  # type: ignore[arg-type]
    (tmp_path / ".alpipe").mkdir()
    with Project(tmp_path, config) as project:
        html = write_report(project, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "https://host/x" in html
    assert not any(secret in html for secret in ("s3cr3t", "pa55", "hush"))


def test_a_report_is_written_whole_or_not_at_all(project: Project, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none/report.html cannot be written: no such file"):
        write_report(project, tmp_path / "none" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_report(project, tmp_path / "taken")
    assert not list(tmp_path.glob(".taken*"))


def test_a_file_name_that_is_not_unicode_does_not_break_the_report(project: Project, tmp_path: Path) -> None:
    sheet = contact_sheet("x", Gallery("y", (Picture("caf\udce9.jpg", problem="gone"),)), NOW)
    assert "\udce9" in sheet
    project.store.items.quarantine([Refusal("0" * 20, "named caf\\udce9.jpg")])
    assert "caf" in write_report(project, tmp_path / "report.html").read_text(encoding="utf-8")
