"""Real sets: what is taken and what is refused, by the counts that their descriptions state."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from alpipe import plugins, rle
from alpipe.errors import DataError
from alpipe.formats.masks import read_colours
from alpipe.plugins import Kind
from alpipe.protocols import LabelledFile, ReadRequest
from alpipe.types import Boxes, ImageClass, Masks, Refusal, Task

DATA = Path(__file__).parents[1].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data sets in ../shared/data")

DUBAI = (
    ("water", (0xE2, 0xA9, 0x29)),
    ("land", (0x84, 0x29, 0xF6)),
    ("road", (0x6E, 0xC1, 0xE4)),
    ("building", (0x3C, 0x10, 0x98)),
    ("vegetation", (0xFE, 0xDD, 0x3A)),
    ("unlabelled", (0x9B, 0x9B, 0x9B)),
)
DUBAI_CLASSES = tuple(name for name, _ in DUBAI[:5])


def read(name: str, path: str, request: ReadRequest) -> tuple[list[LabelledFile], list[Refusal]]:
    if not (DATA / path).exists():
        pytest.skip(f"needs ../shared/data/{path}")
    results = list(plugins.load(Kind.FORMAT, name, request.task).read(DATA / path, request))
    files = [result for result in results if isinstance(result, LabelledFile)]
    assert len({file.image for file in files}) == len(files)
    assert all(file.image.is_file() for file in files)
    return files, [result for result in results if isinstance(result, Refusal)]


def names(files: list[LabelledFile]) -> Counter[str]:
    return Counter(name for file in files if isinstance(file.labels, Boxes) for name in file.labels.names)


@pytest.mark.parametrize(
    ("subset", "images"), [(None, 364), ("train", 205), ("val", 87), ("trainval", 292), ("test", 72)]
)
def test_bccd(subset: str | None, images: int) -> None:
    files, refused = read("voc", "bccd", ReadRequest(Task.DETECT, ("RBC", "WBC", "Platelets"), subset))
    assert len(files) == images
    assert all(file.labels is not None and file.size == (640, 480) for file in files)
    if subset is None:
        assert names(files) == {"RBC": 4155 - 2, "WBC": 372, "Platelets": 361}
        assert {refusal.source.partition(".")[0] for refusal in refused} == {
            "Annotations/BloodImage_00338",
            "Annotations/BloodImage_00343",
        }
        assert all("no area" in refusal.reason for refusal in refused)


def test_aerial_cars() -> None:
    files, refused = read("yolo", "aerial_cars", ReadRequest(Task.DETECT, ("car",)))
    assert len(files) == 65
    assert refused == []
    assert names(files) == {"car": 2546, "bus": 25, "minibus": 22}


@pytest.mark.slow
def test_nuclei() -> None:
    files, refused = read("masks", "nuclei", ReadRequest(Task.SEGMENT, ("nucleus",)))
    assert len(files) == 664
    assert refused == []
    assert all(isinstance(file.labels, Masks) and rle.area(file.labels.by_name["nucleus"]) for file in files)


@pytest.mark.slow
def test_dubai_with_its_real_colours_needs_black_as_well() -> None:
    files, refused = read("masks", "dubai", ReadRequest(Task.SEGMENT, DUBAI_CLASSES, colours=DUBAI))
    assert len(files) == 72
    assert len(refused) == 9
    assert all("#000000" in refusal.reason for refusal in refused)
    assert sum(file.labels is None for file in files) == 9
    colours = (*DUBAI, ("background", (0, 0, 0)))
    files, refused = read("masks", "dubai", ReadRequest(Task.SEGMENT, DUBAI_CLASSES, colours=colours))
    assert refused == []
    pixels: Counter[str] = Counter()
    for file in files:
        assert isinstance(file.labels, Masks)
        pixels.update({name: rle.area(mask) for name, mask in file.labels.by_name.items()})
    assert set(pixels) == set(DUBAI_CLASSES)
    assert sum(file.image.parts[-3] in ("Tile_2", "Tile_4") for file in files) == 18


@pytest.mark.slow
def test_dubai_without_colours_or_with_wrong_ones_is_refused_whole() -> None:
    for colours in ((), read_colours(DATA / "dubai/classes.json")):
        files, refused = read("masks", "dubai", ReadRequest(Task.SEGMENT, DUBAI_CLASSES, colours=colours))
        assert len(files) == len(refused) == 72
        assert all(file.labels is None for file in files)


def test_sign_digits() -> None:
    files, refused = read("folders", "sign_digits", ReadRequest(Task.CLASSIFY, tuple("0123456789")))
    assert len(files) == 2062
    assert refused == []
    assert {file.labels for file in files} == {ImageClass(name) for name in "0123456789"}


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize(
    ("name", "tasks"), [("coco_case", 1), ("data", 2), ("data_keypoints", 1), ("data_obb", 3), ("data_polygons", 1)]
)
def test_labelstudio_exports_have_no_images(name: str, tasks: int, task: Task) -> None:
    files, refused = read("labelstudio", f"labelstudio_exports/{name}.json", ReadRequest(task, ("a",)))
    assert files == []
    assert len(refused) == tasks
    assert all("not in the set" in refusal.reason for refusal in refused)


@pytest.mark.parametrize(
    ("name", "image", "size", "task", "expected", "refusals"),
    [
        ("coco_case", "test_image1.jpg", (500, 320), Task.DETECT, {"rectangle_label": 1, "polygon_label": 1}, 2),
        ("coco_case", "test_image1.jpg", (500, 320), Task.SEGMENT, {"polygon_label": 1}, 3),
        ("data_keypoints", "image1.jpg", (216, 174), Task.DETECT, {"person": 1}, 8),
        ("data", "image1", (2800, 2800), Task.DETECT, {"parasites": 1, "white": 1}, 2),
        ("data_obb", "image1", (597, 768), Task.DETECT, {"Butterfly": 23}, 2),
    ],
)
def test_labelstudio_exports_with_images_put_beside_them(
    name: str, image: str, size: tuple[int, int], task: Task, expected: dict[str, int], refusals: int, tmp_path: Path
) -> None:
    source = DATA / f"labelstudio_exports/{name}.json"
    if not source.exists():
        pytest.skip(f"needs {source}")
    (tmp_path / "export.json").write_bytes(source.read_bytes())
    Image.new("RGB", size).save(tmp_path / image, format="png")
    results = list(plugins.load(Kind.FORMAT, "labelstudio").read(tmp_path, ReadRequest(task, ("a",))))
    files = [result for result in results if isinstance(result, LabelledFile)]
    found = [list(file.labels.by_name) if isinstance(file.labels, Masks) else file.labels.names for file in files]  # type: ignore[union-attr]
    assert Counter(label for labels in found for label in labels) == expected
    assert len(results) - len(files) == refusals


@pytest.mark.parametrize(
    ("name", "task", "images", "regions", "taken", "turned", "refused"),
    [
        ("data", Task.DETECT, 2, 6, 4, 0, {"another answer to the same task": 1}),  # which holds two regions
        ("data_obb", Task.DETECT, 3, 25, 25, 25, {}),
        ("data_polygons", Task.DETECT, 1, 1, 1, 0, {}),
        ("data_polygons", Task.SEGMENT, 1, 1, 1, 0, {}),
        ("data_keypoints", Task.DETECT, 1, 9, 1, 0, {"'keypointlabels' is no": 3, "'relation' is no": 5}),
        ("coco_case", Task.DETECT, 1, 4, 2, 0, {"'keypointlabels' is no": 2}),
        ("coco_case", Task.SEGMENT, 1, 4, 1, 0, {"'keypointlabels' is no": 2, "a rectangle is no outline": 1}),
    ],
)
def test_every_labelstudio_export_imports_and_all_is_accounted_for(
    name: str, task: Task, images: int, regions: int, taken: int, turned: int, refused: dict[str, int], tmp_path: Path
) -> None:
    source = DATA / f"labelstudio_exports/{name}.json"
    if not source.exists():
        pytest.skip(f"needs {source}")
    tasks = json.loads(source.read_text())
    (tmp_path / "export.json").write_bytes(source.read_bytes())
    results = [region for entry in tasks for answer in entry["annotations"] for region in answer["result"]]
    assert len(results) == regions
    for entry in tasks:
        size = next((r["original_width"], r["original_height"]) for r in entry["annotations"][0]["result"])
        Image.new("RGB", size).save(tmp_path / Path(entry["data"]["image"]).name, format="png")
    found = list(plugins.load(Kind.FORMAT, "labelstudio").read(tmp_path, ReadRequest(task, ("a",))))
    labels = [entry.labels for entry in found if isinstance(entry, LabelledFile)]
    assert len(labels) == images
    assert sum(len(one.names if isinstance(one, Boxes) else one.by_name) for one in labels) == taken  # type: ignore[union-attr]
    assert sum(int(one.rotated.sum()) for one in labels if isinstance(one, Boxes)) == turned
    reasons = [entry.reason for entry in found if isinstance(entry, Refusal)]
    assert {text: sum(text in reason for reason in reasons) for text in refused} == refused
    assert len(reasons) == sum(refused.values())


@pytest.mark.parametrize("name", plugins.available(Kind.FORMAT))
@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("bccd", "voc"),
        ("aerial_cars", "yolo"),
        ("nuclei", "masks"),
        ("dubai", "masks"),
        ("sign_digits", "folders"),
        ("labelstudio_exports", "labelstudio"),
        ("nas_bench_macro", ""),
    ],
)
def test_a_real_set_read_as_another_format_is_told_apart(name: str, path: str, right: str) -> None:
    if name == right:
        return
    plugin = plugins.load(Kind.FORMAT, name)
    with pytest.raises(DataError) as error:
        read(name, path, ReadRequest(min(plugin.TASKS), ("a",)))
    assert str(error.value).startswith(str(DATA / path))
    if right and name not in ("labelstudio",):
        assert f"alpipe import {right}" in str(error.value)
