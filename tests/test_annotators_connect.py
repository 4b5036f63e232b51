"""Which server, which project, which labels, which images: against a real Label Studio."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from alpipe import rle
from alpipe.annotators import labelstudio, robot
from alpipe.annotators.labelstudio import LabelStudioAnnotator
from alpipe.annotators.studio import client, config
from alpipe.annotators.studio.server import Server
from alpipe.errors import AnnotatorError
from alpipe.shapes import brush
from alpipe.types import Boxes, Masks, Task
from tests.studio_server import CLASSES, HEIGHT, WIDTH, Case, make_case

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:The `parse_obj` method:DeprecationWarning"),  # the SDK's, as it takes a token
]

FRAME = {"from_name": "label", "to_name": "image", "original_width": WIDTH, "original_height": HEIGHT}
SIDES = {"x": 10, "y": 10, "width": 40, "height": 20}


Make = Callable[..., tuple[Case, LabelStudioAnnotator]]


@pytest.fixture
def make(studio_server: Server, tmp_path: Path) -> Make:
    def made(task: Task = Task.DETECT, count: int = 3, **options: Any) -> tuple[Case, LabelStudioAnnotator]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        case = make_case(folder, task, count, f"c{tmp_path.name[-9:]}".replace("_", ""))
        options = {"home": studio_server.home} | options
        return case, labelstudio.build(labelstudio.Options(**options), case.context)

    return made


def tasks(annotator: LabelStudioAnnotator) -> list[dict[str, Any]]:
    with annotator.studio() as studio:
        return studio.tasks(annotator.choice.number or annotator.choice.known()["project"], include=client.OPEN)


def submit(api: httpx.Client, task: int, *result: dict[str, Any]) -> None:
    answer = api.post(f"/api/tasks/{task}/annotations/", json={"result": list(result), "lead_time": 1})
    assert answer.status_code == httpx.codes.CREATED, answer.text


def region(kind: str, label: str, at: int = 0, **value: Any) -> dict[str, Any]:
    return FRAME | {"id": f"r{at}", "type": kind, "value": value | {kind: [label]}}


def with_classes(case: Case, annotator: LabelStudioAnnotator, *classes: str, **options: Any) -> LabelStudioAnnotator:
    """The same project after its configuration was changed."""
    values = dict(annotator.options) | options
    return labelstudio.build(labelstudio.Options(**values), dataclasses.replace(case.context, classes=classes))


# ── the server and the token ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def personal_token(api: httpx.Client) -> Iterator[str]:
    made = api.post("/api/token/")
    assert made.status_code == httpx.codes.CREATED, made.text
    yield made.json()["token"]
    api.post("/api/token/blacklist/", json={"refresh": made.json()["token"]})


def test_a_personal_access_token_does_all_that_the_legacy_one_does(
    make: Make, api: httpx.Client, studio_server: Server, personal_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for token in (studio_server.token, personal_token):
        monkeypatch.setenv("LABEL_STUDIO_URL", studio_server.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
        case, annotator = make(Task.DETECT)
        annotator.push(case.requests)
        rows = tasks(annotator)
        assert all(row["data"]["image"].startswith("/data/upload/") for row in rows)
        for row in rows:
            assert api.get(row["data"]["image"]).content == case.items[row["data"]["alpipe_key"]].path.read_bytes()
            submit(api, row["id"], region("rectanglelabels", CLASSES[0], **SIDES))
        said.append([answer.labels for answer in annotator.pull(None).annotations])
    assert said[0] == said[1]
    assert len(said[0]) == 3


@pytest.mark.parametrize("kind", ["garbage", "spoilt", "expired", "withdrawn"])
def test_a_token_that_does_not_hold_is_one_line_that_does_not_show_it(
    kind: str, make: Make, api: httpx.Client, studio_server: Server, personal_token: str, monkeypatch: Any
) -> None:
    header, _, signature = personal_token.split(".")
    expired = "eyJleHAiOjEsInRva2VuX3R5cGUiOiJyZWZyZXNoIn0"  # {"exp":1,"token_type":"refresh"}
    token = {
        "garbage": "0123456789abcdef",
        "spoilt": personal_token[:-6] + "AAAAAA",
        "expired": f"{header}.{expired}.{signature}",
        "withdrawn": personal_token,
    }[kind]
    if kind == "withdrawn":
        api.post("/api/token/blacklist/", json={"refresh": personal_token})
    monkeypatch.setenv("LABEL_STUDIO_URL", studio_server.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    case, annotator = make()
    with pytest.raises(AnnotatorError, match=r"refuses the token.*check LABEL_STUDIO_API_KEY") as refusal:
        annotator.push(case.requests)
    assert ("it has expired" in str(refusal.value)) == (kind == "expired")
    assert "\n" not in str(refusal.value)
    assert token not in str(refusal.value)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class _SendsOn(_Quiet):
    def do_GET(self) -> None:
        self.send_response(httpx.codes.MOVED_PERMANENTLY)
        self.send_header("Location", f"https://elsewhere.example{self.path}")
        self.end_headers()


def test_an_address_that_sends_us_on_is_named_with_the_right_one(make: Make, monkeypatch: Any) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _SendsOn) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("LABEL_STUDIO_URL", f"http://127.0.0.1:{other.server_address[1]}")
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
        _, annotator = make(project_id=1)
        with pytest.raises(AnnotatorError, match=r"sends us on to https://elsewhere\.example: set LABEL_STUDIO_URL"):
            annotator.pull(None)
        other.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["nothing there", "another web server", "a page of the server"])
def test_a_wrong_address_is_one_line(kind: str, make: Make, studio_server: Server, monkeypatch: Any) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        port = other.server_address[1]
        if kind == "nothing there":
            other.shutdown()
            other.server_close()
        url = f"{studio_server.url}/projects/1" if kind == "a page of the server" else f"http://127.0.0.1:{port}"
        monkeypatch.setenv("LABEL_STUDIO_URL", url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio_server.token)
        case, annotator = make()
        with pytest.raises(AnnotatorError, match=r"no Label Studio|is it a Label Studio") as refusal:
            annotator.push(case.requests)
        other.shutdown()
        thread.join()
    assert "\n" not in str(refusal.value)
    assert studio_server.token not in str(refusal.value)


def test_strangers_cannot_sign_up(studio_server: Server) -> None:
    form = {"email": "stranger@example.org", "password": "long enough"}
    answer = httpx.post(f"{studio_server.url}/user/signup/", data=form, trust_env=False)
    assert answer.status_code == httpx.codes.FORBIDDEN


def test_a_project_without_its_mark_is_ours_only_if_it_was_made_when_ours_was(make: Make, api: httpx.Client) -> None:
    case, annotator = make()
    case.note(annotator.push(case.requests))
    known = annotator.choice.known()
    assert api.patch(f"/api/projects/{known['project']}/", json={"description": "mine"}).is_success
    assert annotator.pull(None).gone == ()
    annotator.choice.note(known | {"created": "another time"})  # a server set up anew gives the numbers again
    with pytest.raises(AnnotatorError, match=r"is not on .* its description held the mark"):
        with_classes(case, annotator, *case.context.classes, "cow").pull(None)
    assert "cow" not in api.get(f"/api/projects/{known['project']}/").json()["label_config"]


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_labels_are_pushed_by_their_names_there_and_pulled_by_ours(make: Make, api: httpx.Client) -> None:
    case, annotator = make(label_names={CLASSES[0]: "Felis <catus>"})
    annotator.push(case.requests)
    rows = tasks(annotator)
    proposed = [one for row in rows for p in row["predictions"] for one in p["result"]]
    assert {one["value"]["rectanglelabels"][0] for one in proposed} == {"Felis <catus>", CLASSES[1]}
    submit(api, rows[0]["id"], *(region("rectanglelabels", name, i, **SIDES)
                                 for i, name in enumerate(("Felis <catus>", CLASSES[1]))))  # fmt: skip
    submit(api, rows[1]["id"], region("rectanglelabels", CLASSES[0], **SIDES))
    pulled = annotator.pull(None)
    assert [answer.labels.names for answer in pulled.annotations] == [CLASSES]  # type: ignore[union-attr]
    assert "unknown label 'cat'; the labels are Felis <catus>" in pulled.refused[0].reason


def test_a_new_label_is_added_and_what_people_changed_in_the_project_stays(make: Make, api: httpx.Client) -> None:
    case, annotator = make()
    annotator.push(case.requests)
    number = annotator.choice.known()["project"]
    theirs = api.get(f"/api/projects/{number}/").json()["label_config"].replace('size="6"', 'size="3"')
    theirs = theirs.replace("</View>", '<!-- ours --><EllipseLabels name="round" toName="image"/></View>')
    assert api.patch(f"/api/projects/{number}/", json={"label_config": theirs}).is_success
    more = with_classes(case, annotator, *CLASSES, "bird")
    assert more.pull(None).annotations == ()
    now = api.get(f"/api/projects/{number}/").json()["label_config"]
    assert now.replace('    <Label value="bird" background="#009E73"/>\n', "") == theirs


def test_a_label_that_was_renamed_in_the_project_is_not_added_again(make: Make, api: httpx.Client) -> None:
    case, annotator = make()
    annotator.push(case.requests)
    number = annotator.choice.known()["project"]
    theirs = api.get(f"/api/projects/{number}/").json()["label_config"].replace('value="cat"', 'value="kitten"')
    api.patch(f"/api/projects/{number}/", json={"label_config": theirs})
    for call in (lambda: annotator.push(case.requests), lambda: annotator.pull(None)):
        with pytest.raises(AnnotatorError, match=r"does not offer 'cat' any more.*offers 'kitten'.*label_names"):
            call()
    assert api.get(f"/api/projects/{number}/").json()["label_config"] == theirs
    mapped = with_classes(case, annotator, *CLASSES, label_names={"cat": "kitten"})
    mapped.push(case.requests)
    assert api.get(f"/api/projects/{number}/").json()["label_config"] == theirs


def test_a_label_that_was_renamed_in_our_configuration_is_not_lost_where_people_used_it(
    make: Make, api: httpx.Client
) -> None:
    case, annotator = make()
    annotator.push(case.requests)
    submit(api, tasks(annotator)[0]["id"], region("rectanglelabels", "cat", **SIDES))
    renamed = with_classes(case, annotator, "kitten", CLASSES[1])
    with pytest.raises(AnnotatorError, match=r"people have used 'cat' \(in 1 answers\).*label_names"):
        renamed.pull(None)
    mapped = with_classes(case, annotator, "kitten", CLASSES[1], label_names={"kitten": "cat"})
    assert mapped.pull(None).annotations[0].labels.names == ("kitten",)  # type: ignore[union-attr]
    unused = with_classes(case, annotator, "cat", "wolf")
    assert len(unused.pull(None).annotations) == 1, "nobody used the other one, so it may go"


# ── shapes and adopted projects ─────────────────────────────────────────────────────────────────────────────────────


def adopted(api: httpx.Client, *tags: str, extra: str = "", **settings: Any) -> int:
    labels = "".join(f"<Label value={config.quoteattr(name)}/>" for name in CLASSES)
    controls = "".join(f'<{tag} name="{tag}" toName="image">{labels}</{tag}>' for tag in tags)
    xml = f'<View>{controls}<Image name="image" value="$photo"/>{extra}</View>'
    made = api.post("/api/projects/", json={"title": "theirs", "label_config": xml, **settings})
    assert made.status_code == httpx.codes.CREATED, made.text
    return int(made.json()["id"])


def drawn() -> list[dict[str, Any]]:
    """One object in each shape; the rectangle is turned by 90° about its top left corner."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:9, 7:20] = 1
    return [
        region("ellipselabels", "cat", 1, x=50, y=50, radiusX=20, radiusY=10, rotation=0),
        region("polygonlabels", "cat", 2, points=[[10, 10], [20, 10], [20, 30]], closed=True),
        region("brushlabels", "cat", 3, format="rle", rle=brush.encode(mask)),
    ]


def test_all_shapes_that_a_project_offers_are_read(make: Make, api: httpx.Client) -> None:
    number = adopted(api, "RectangleLabels", "EllipseLabels", "PolygonLabels", "BrushLabels")
    case, annotator = make(Task.DETECT, project_id=number)
    annotator.push(case.requests)
    turned = region("rectanglelabels", "cat", 0, x=50, y=10, width=20, height=20, rotation=30)
    submit(api, tasks(annotator)[0]["id"], turned, *drawn())
    (answer,) = annotator.pull(None).annotations
    assert isinstance(answer.labels, Boxes)
    assert answer.labels.rotated.tolist() == [True, False, False, False]
    ellipse = [WIDTH * 0.3, HEIGHT * 0.4, WIDTH * 0.7, HEIGHT * 0.6]
    polygon = [WIDTH * 0.1, HEIGHT * 0.1, WIDTH * 0.2, HEIGHT * 0.3]
    np.testing.assert_allclose(answer.labels.xyxy[1:], [ellipse, polygon, [7, 5, 20, 9]], atol=1e-3)

    case, annotator = make(Task.SEGMENT, project_id=number)
    annotator.push(case.requests)
    ours = next(row for row in tasks(annotator) if row["data"]["alpipe_key"] == case.requests[0].item.key)
    assert "photo" in ours["data"]


def test_what_people_say_with_other_controls_does_not_cost_the_boxes(make: Make, api: httpx.Client) -> None:
    extra = (
        '<Choices name="quality" toName="image"><Choice value="sharp"/></Choices><Rating name="stars" toName="image"/>'
        '<TextArea name="note" toName="image" perRegion="true"/>'
    )
    case, annotator = make(Task.DETECT, project_id=adopted(api, "RectangleLabels", extra=extra))
    annotator.push(case.requests)
    box = region("rectanglelabels", "cat", **SIDES)
    said = [
        FRAME | {"id": "q", "type": "choices", "from_name": "quality", "value": {"choices": ["sharp"]}},
        FRAME | {"id": "s", "type": "rating", "from_name": "stars", "value": {"rating": 4}},
        FRAME | {"id": "r0", "type": "textarea", "from_name": "note", "value": {**SIDES, "text": ["a tail"]}},
    ]
    submit(api, tasks(annotator)[0]["id"], box, *said)
    pulled = annotator.pull(None)
    assert [answer.labels.names for answer in pulled.annotations] == [("cat",)]  # type: ignore[union-attr]
    assert [
        "3 results of other controls (note, quality, stars) in 1 answers" in one.reason for one in pulled.refused
    ] == [True]


def test_another_project_of_the_adopted_number_is_refused_and_no_answer_lost(make: Make, api: httpx.Client) -> None:
    case, annotator = make(project_id=adopted(api, "RectangleLabels"))
    case.note(annotator.push(case.requests))
    submit(api, tasks(annotator)[0]["id"], region("rectanglelabels", "cat", **SIDES))
    case.take(annotator.pull(None))
    known = annotator.choice.known()
    annotator.choice.note(known | {"url": "http://moved"})
    assert annotator.pull(None).gone == (), "the same project at another address"
    assert annotator.choice.known() == known
    annotator.choice.note(known | {"url": "http://other", "created": "another time"})
    with pytest.raises(
        AnnotatorError, match=r"is another one, made at .* was made on http://other at another time: use"
    ):
        annotator.pull(None)
    annotator.choice.state.unlink()
    assert annotator.pull(None).gone == ()


def test_a_project_that_shows_no_pre_annotations_gets_none_unseen(make: Make, api: httpx.Client) -> None:
    number = adopted(api, "RectangleLabels", show_collab_predictions=False)
    case, annotator = make(project_id=number)
    with pytest.raises(
        AnnotatorError, match=r"does not show pre-annotations, and \d are to be sent: turn on 'Use pred"
    ):
        annotator.push(case.requests)
    assert tasks(annotator) == []
    blind = [dataclasses.replace(request, blind=True) for request in case.requests]
    assert len(annotator.push(blind)) == len(blind)


def test_masks_are_the_union_of_strokes_outlines_and_ellipses(make: Make, api: httpx.Client) -> None:
    case, annotator = make(Task.SEGMENT, project_id=adopted(api, "EllipseLabels", "PolygonLabels", "BrushLabels"))
    annotator.push(case.requests)
    submit(api, tasks(annotator)[0]["id"], *drawn())
    (answer,) = annotator.pull(None).annotations
    assert isinstance(answer.labels, Masks)
    pixels = rle.decode(answer.labels.by_name["cat"])
    areas = np.pi * WIDTH * 0.2 * HEIGHT * 0.1 + WIDTH * 0.1 * HEIGHT * 0.2 / 2 + 13 * 4
    assert abs(pixels.sum() - areas) < 30  # the triangle and the stroke share a little


@pytest.mark.parametrize("task", list(Task))
def test_outlines_and_turned_boxes_are_shown_and_corrected(make: Make, task: Task) -> None:
    case, annotator = make(task, 6, shape="polygon", rotate=True, polygon_tolerance=0)
    machine = robot.build(robot.Options(**dict(annotator.options), skip_share=0, tolerance=(1, 1)), case.context)
    machine.push(case.requests)
    kinds = {one["type"] for row in tasks(annotator) for p in row["predictions"] for one in p["result"]}
    assert kinds == {{"classify": "choices", "detect": "rectanglelabels", "segment": "polygonlabels"}[task]}
    pulled = machine.pull(None)
    assert pulled.refused == ()
    assert len(pulled.annotations) == 6
    for answer in pulled.annotations:
        truth = case.truth[answer.item_key]
        if isinstance(truth, Boxes):
            assert isinstance(answer.labels, Boxes)
            assert sorted(answer.labels.names) == sorted(truth.names)
        else:
            assert answer.labels == truth


def test_a_project_that_does_not_fit_is_refused_with_all_that_is_wrong(make: Make, api: httpx.Client) -> None:
    number = adopted(api, "PolygonLabels", "BrushLabels")
    case, annotator = make(Task.DETECT, project_id=number)
    with pytest.raises(AnnotatorError, match=r"needs a <RectangleLabels> on the image, but .*<PolygonLabels name="):
        annotator.push(case.requests)
    case, annotator = make(Task.SEGMENT, project_id=number)
    missing = with_classes(case, annotator, *CLASSES, "bird", "Cat")
    with pytest.raises(AnnotatorError, match=r"\(1\).*'bird'.*\(2\).*offers 'cat' for 'Cat'"):
        missing.push(case.requests)
    assert tasks(annotator) == []


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_images_with_an_address_are_sent_by_it_and_nothing_is_copied(make: Make, studio_server: Server) -> None:
    case, _ = make()
    folder = case.requests[0].item.path.parent
    by_folder = {folder.parent: "https://images.example.org/all/", folder: "s3://bucket/some where"}
    values = {"home": studio_server.home, "uri_prefix": by_folder}
    annotator = labelstudio.build(labelstudio.Options(**values), case.context)
    annotator.push(case.requests)
    assert {row["data"]["image"] for row in tasks(annotator)} == {f"s3://bucket/some where/{i}.png" for i in range(3)}
    assert not list(studio_server.files_root.rglob(f"{case.requests[0].item.key}*"))


def test_images_without_an_address_are_copied_or_refused_as_was_asked(make: Make, tmp_path: Path) -> None:
    elsewhere = {tmp_path / "elsewhere": "https://images.example.org"}
    case, annotator = make(uri_prefix=elsewhere)
    annotator.push(case.requests)
    assert all(row["data"]["image"].startswith("/data/local-files/") for row in tasks(annotator))
    case, annotator = make(uri_prefix=elsewhere, images="uri")
    with pytest.raises(AnnotatorError, match=r"0\.png has no address .*uri_prefix"):
        annotator.push(case.requests)
    assert tasks(annotator) == []


def test_images_are_uploaded_where_that_is_asked_for(make: Make, api: httpx.Client) -> None:
    case, annotator = make(images="upload")
    annotator.push(case.requests)
    for row in tasks(annotator):
        assert row["data"]["image"].startswith("/data/upload/")
        assert api.get(row["data"]["image"]).content == case.items[row["data"]["alpipe_key"]].path.read_bytes()


def test_local_files_need_a_folder_that_the_server_serves(
    make: Make, studio_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", studio_server.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio_server.token)
    case, annotator = make(images="local")
    with pytest.raises(AnnotatorError, match=r"images: local needs the folder that .* serves: give it by files_root"):
        annotator.push(case.requests)
    case, annotator = make(images="local", files_root=studio_server.files_root)
    annotator.push(case.requests)
    assert all(row["data"]["image"].startswith("/data/local-files/") for row in tasks(annotator))


def test_no_link_leads_out_of_the_served_folder(make: Make, studio_server: Server, tmp_path: Path) -> None:
    case, annotator = make()
    outside = tmp_path / "outside"
    outside.mkdir()
    served = studio_server.files_root / labelstudio.projects.slug(case.context.project)
    served.symlink_to(outside)
    with pytest.raises(AnnotatorError, match="is a link that leads out of the served folder: remove it"):
        annotator.push(case.requests)
    served.unlink()
    assert list(outside.iterdir()) == []
    served.mkdir()
    name = f"{case.requests[0].item.key}.png"
    (served / name).symlink_to("/etc/passwd")
    annotator.push(case.requests)
    assert not (served / name).is_symlink()
    assert Path("/etc/passwd").is_file()


@pytest.mark.parametrize(
    "name", ['<img src=x onerror="alert(1)">.png', "a b&c?d#e%20.png", "日本 ../é.png", "x\ny.png"]
)
def test_no_file_name_does_harm(name: str, make: Make, api: httpx.Client, tmp_path: Path) -> None:
    case, annotator = make(count=2)
    renamed = case.requests[0].item.path.parent / name.replace("/", "_")
    case.requests[0].item.path.rename(renamed)
    item = dataclasses.replace(case.requests[0].item, uri=str(renamed))
    annotator.push([dataclasses.replace(case.requests[0], item=item)])
    (row,) = tasks(annotator)
    assert api.get(row["data"]["image"]).content == renamed.read_bytes()
    assert "<" not in json.dumps(row["data"])
    assert annotator.pull(None).annotations == ()
