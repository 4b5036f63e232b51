"""Learners of other packages: what is asked of the packages, and what becomes of their answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from alpipe import plugins
from alpipe.errors import ConfigError, DataError, PluginError, TrainingError
from alpipe.learners.detection.labelled import gather
from alpipe.learners.external import (
    detection,
    packages,
    pixels,
    segmentation,
    smp,
    torchvision_detector,
    torchvision_segmenter,
)
from alpipe.learners.nets.cost import cost
from alpipe.learners.training.augment import Augmentation
from alpipe.learners.training.data import Frame, to_input
from alpipe.learners.training.learner import Setting
from alpipe.plugins import Kind
from alpipe.protocols import LearnerContext, no_progress
from alpipe.types import Boxes, Example, Item, Masks, Negative, Progress, Task
from tests import learner_interface
from tests.conftest import Ran
from tests.learner_packages import STANDINS, absent, provided

DETECTOR, SEGMENTER, SMP = "torchvision-detector", "torchvision-segmenter", "smp"
PACKAGES = {DETECTOR: "torchvision", SEGMENTER: "torchvision", SMP: "segmentation_models_pytorch"}
SMALL = {
    torchvision_detector: {"architecture": "fasterrcnn_mobilenet_v3_large_fpn"},
    torchvision_segmenter: {"architecture": "lraspp_mobilenet_v3_large"},
    smp: {"encoder": "resnet18"},
}


@pytest.fixture
def available() -> Iterator[None]:
    with provided(DETECTOR, SMP):
        yield


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where neither package is installed."""
    found = plugins.importlib.util.find_spec
    lacking = set(PACKAGES.values())
    monkeypatch.setattr(
        plugins.importlib.util, "find_spec", lambda name, *more: None if name in lacking else found(name, *more)
    )


def setting(module: Any, **values: Any) -> Setting[Any]:
    return Setting(module.Options(**SMALL[module], **values), ("red", "blue"), 64)


# ── packages that are not there ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_choosing_one_whose_package_is_missing_says_how_to_install_it(name: str, package: str) -> None:
    with pytest.raises(PluginError) as caught:
        plugins.load(Kind.LEARNER, name)
    extra = "smp" if name == SMP else "torchvision"
    assert str(caught.value) == (
        f'learner {name!r} needs {package}, which is not installed: pip install "alpipe[{extra}]"'
    )


@pytest.mark.usefixtures("missing")
def test_one_whose_package_is_missing_is_listed_with_its_task_and_the_reason(alpipe: Callable[..., Ran]) -> None:
    rows = {row["name"]: row for row in json.loads(alpipe("plugins", "--json").out)}
    assert rows[DETECTOR]["tasks"] == "detect"
    assert rows[SMP]["tasks"] == "segment"
    assert 'pip install "alpipe[torchvision]"' in rows[SEGMENTER]["about"]


@pytest.mark.usefixtures("missing")
def test_one_whose_package_is_missing_is_not_advised_for_a_task() -> None:
    with pytest.raises(PluginError, match="is for classify, not for detect") as caught:
        plugins.load(Kind.LEARNER, "cnn", Task.DETECT)
    assert DETECTOR not in str(caught.value)


@pytest.mark.usefixtures("missing")
def test_a_run_with_one_whose_package_is_missing_stops_before_anything(
    alpipe: Callable[..., Ran], tmp_path: Path
) -> None:
    assert alpipe("init", tmp_path / "p", "--task", "detect", "--labels", "a", "--annotator", "oracle").status == 0
    config = tmp_path / "p" / "alpipe.yaml"
    config.write_text(config.read_text().replace("learner: detector", f"learner: {DETECTOR}"))
    ran = alpipe("-C", tmp_path / "p", "run")
    assert ran.status == 1
    assert ran.err.count("\n") == 1
    assert 'pip install "alpipe[torchvision]"' in ran.err


def test_finding_them_imports_no_package() -> None:
    code = (
        "import sys; from alpipe import plugins\n"
        f"for name in {list(PACKAGES)}: plugins.missing(plugins.find(plugins.Kind.LEARNER, name))\n"
        f"print([name for name in {sorted(set(PACKAGES.values()))} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_package_that_does_not_work_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unfit.py").write_text("raise RuntimeError('operator unfit::nms does not exist\\nand more')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"unfit cannot be imported \(operator unfit::nms does not exist\); install"):
        packages.package("unfit", "alpipe[torchvision]")


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Weights:
    """Of a network of torchvision's that somebody trained."""

    url = "https://nowhere.invalid/weights.pth"

    def __init__(self, net: nn.Module, prefix: str = "") -> None:
        self._state = {f"{prefix}{name}": torch.rand(one.shape) for name, one in net.state_dict().items()}

    def get_state_dict(self, **_: Any) -> dict[str, torch.Tensor]:
        return self._state | {"fc.weight": torch.zeros(1000, 8)}


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize(
    ("module", "weights"),
    [(torchvision_detector, "COCO_V1"), (torchvision_segmenter, "COCO_WITH_VOC_LABELS_V1")],
)
def test_weights_of_the_whole_network_fill_all_but_the_layers_of_classes(
    module: Any, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = setting(module, weights=weights)
    theirs = Weights(module.network(asked.options, 90, 64).model)
    import torchvision

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: {weights: theirs})
    net = module.network(asked.options, 2, 64)
    before = {name: one.clone() for name, one in net.model.state_dict().items()}
    said: list[Progress] = []
    module.start(net, asked, said.append)
    state, kept = theirs.get_state_dict(), []
    for name, one in net.model.state_dict().items():
        if one.shape != state[name].shape:
            kept.append(name)
            assert torch.equal(one, before[name])
        elif one.is_floating_point():
            assert torch.equal(one, state[name])
    assert 0 < len(kept) <= 4
    assert not [name for name in kept if "backbone" in name]
    assert weights in said[0].detail
    assert "download" in said[0].detail


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize("module", [torchvision_detector, torchvision_segmenter])
def test_weights_of_imagenet_fill_the_backbone_and_nothing_else(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = setting(module, weights="IMAGENET1K_V1")
    net = module.network(asked.options, 2, 64)
    backbone = net.model.backbone.body if module is torchvision_detector else net.model.backbone
    theirs = Weights(backbone, "features.")
    import torchvision

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: {"IMAGENET1K_V1": theirs})
    inside = {name.removeprefix("features.") for name in theirs.get_state_dict()}
    before = {name: one.clone() for name, one in net.model.state_dict().items()}
    module.start(net, asked, no_progress)
    for name, one in net.model.state_dict().items():
        own = name.removeprefix("backbone.body.").removeprefix("backbone.")
        if own in inside and name != own:
            if one.is_floating_point():
                assert torch.equal(one, theirs.get_state_dict()[f"features.{own}"])
        else:
            assert torch.equal(one, before[name])


@pytest.mark.usefixtures("available")
def test_weights_of_an_encoder_come_with_the_pixels_that_they_were_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_models_pytorch as package

    asked = setting(smp)
    net, theirs = (smp.network(asked.options, 2, 64) for _ in range(2))
    found = {"input_space": "RGB", "input_range": [0, 255], "mean": [51.0] * 3, "std": [25.5] * 3}
    monkeypatch.setattr(smp, "_model", lambda *_: theirs.model)
    monkeypatch.setattr(package.encoders, "get_preprocessing_params", lambda *_: found)
    smp.start(net, asked, no_progress)
    for name, one in net.encoder.state_dict().items():
        assert torch.equal(one, theirs.encoder.state_dict()[name])
    white = to_input(np.full((1, 2, 2, 3), 255, np.uint8), torch.device("cpu"))
    np.testing.assert_allclose(pixels.normalised(white, net.mean, net.std), (1 - 0.2) / 0.1, rtol=1e-5)
    found["input_space"] = "BGR"
    with pytest.raises(ConfigError, match="want BGR images"):
        smp.start(net, asked, no_progress)


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize("module", [torchvision_detector, torchvision_segmenter])
def test_weights_that_do_not_fit_are_refused(module: Any) -> None:
    net = module.network(setting(module).options, 2, 64)
    with pytest.raises(TrainingError, match=r"weights X do not fit the network: \S+ and \d+ more are not in them"):
        packages.fill(net, {}, "weights X")


def test_a_download_that_fails_is_told_in_one_line() -> None:
    with pytest.raises(TrainingError) as caught, packages.fetching("weights X"):
        raise OSError("no route\nto host")
    assert str(caught.value).startswith("weights X cannot be loaded (no route); ")
    with pytest.raises(DataError, match="another"), packages.fetching("weights X"):
        raise DataError("another")


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize("module", [torchvision_detector, torchvision_segmenter, smp])
def test_a_training_whose_weights_cannot_be_downloaded_stops_in_one_line(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("no route to host")

    net = module.network(setting(module).options, 2, 64)
    if module is smp:
        monkeypatch.setattr(smp, "_model", unreachable)
    else:
        import torchvision

        theirs = Weights(net)
        theirs.get_state_dict = unreachable  # type: ignore[method-assign]
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: defaultdict(lambda: theirs))
    with pytest.raises(TrainingError, match=r"^\S.* cannot be loaded \(no route to host\); .* weights: none"):
        module.start(net, setting(module), no_progress)


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"architecture": "Unett"}, "unknown architecture 'Unett'; did you mean Unet"),
        ({"encoder": "resnet33"}, "unknown encoder 'resnet33'; did you mean resnet"),
        ({"weights": "imagenets"}, "unknown weights 'imagenets'; did you mean imagenet"),
    ],
)
def test_names_that_smp_does_not_know_are_refused_before_training(values: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        smp.build(smp.Options(**values), LearnerContext(Task.SEGMENT, ("a",), "cpu"))


# ── detectors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    return {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "scores": np.array(scores), "labels": np.array(labels)}


FRAME = Frame(np.zeros((50, 100, 3), np.uint8), (0.5, 0.5), (200, 100))
"""An image of 200×100 pixels, seen at half its size."""


def test_boxes_come_in_pixels_of_the_image_and_within_it() -> None:
    said = found([[10, 5, 30, 25], [90, 40, 120, 60], [101, 0, 128, 20]], [0.9, 0.8, 0.7], [2, 1, 1])
    made = detection.prediction("key", said, FRAME, 2)
    np.testing.assert_array_equal(made.xyxy, [[20, 10, 60, 50], [180, 80, 200, 100]])  # the third lies in the padding
    np.testing.assert_array_equal(made.class_index, [1, 0])


def test_the_background_is_no_object() -> None:
    made = detection.prediction("key", found([[0, 0, 9, 9], [0, 0, 9, 9]], [0.9, 0.8], [0, 1]), FRAME, 1)
    np.testing.assert_array_equal(made.class_index, [0])


def test_a_class_has_the_best_score_that_its_boxes_have_at_the_place() -> None:
    said = found([[0, 0, 20, 20], [0, 0, 20, 18], [0, 0, 21, 20], [50, 0, 70, 20]], [0.9, 0.6, 0.5, 0.4], [1, 2, 3, 2])
    made = detection.prediction("key", said, FRAME, 3)
    np.testing.assert_allclose(made.probs, [[0.9, 0.6, 0.5]] * 1 + [[0.9, 0.6, 0.5]] * 2 + [[0, 0.4, 0]])


@given(st.integers(0, 10_000), st.integers(0, 12), st.integers(1, 4))
def test_the_score_of_a_box_is_the_probability_of_its_class(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 30, (count, 2))], axis=1)
    scores = np.sort(rng.uniform(0, 1, count))[::-1]
    made = detection.prediction(
        "key", found(boxes.tolist(), scores.tolist(), rng.integers(0, classes + 1, count).tolist()), FRAME, classes
    )
    np.testing.assert_array_equal(made.probs[np.arange(len(made.scores)), made.class_index], made.scores)


@pytest.fixture
def net(available: None) -> detection.DetectionNet:  # the packages come first
    torch.manual_seed(0)
    made = torchvision_detector.network(setting(torchvision_detector, weights="COCO_V1").options, 2, 64)
    assert isinstance(made, detection.DetectionNet)
    return made


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in net.state_dict().items()}


@pytest.mark.parametrize("weights", ["none", "COCO_V1"])
def test_norms_keep_the_statistics_of_weights_that_others_trained(available: None, weights: str) -> None:
    net = torchvision_detector.network(setting(torchvision_detector, weights=weights).options, 2, 64).train()
    before = state(net.model.backbone.body)
    net.loss(torch.rand(2, 3, 64, 64), [np.zeros((0, 4), np.float32)] * 2, [np.zeros(0, np.int64)] * 2)
    same = [torch.equal(one, before[name]) for name, one in net.model.backbone.body.state_dict().items()]
    assert all(same) == (weights != "none")


def test_measuring_the_validation_loss_changes_nothing_and_repeats(net: detection.DetectionNet, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    example = Example(
        Item("a", str(tmp_path / "a.png"), 64, 64), Boxes(np.array([[8, 8, 40, 40]], np.float32), ("red",))
    )
    objective = torchvision_detector.DESIGN.objective(
        setting(torchvision_detector), [example], [example], [], 2, torch.device("cpu")
    )
    net.eval()
    before, random = state(net), torch.get_rng_state()
    with torch.inference_mode():
        losses = {objective.validation_loss(net) for _ in range(2)}
    assert len(losses) == 1
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not net.training


def test_the_classes_are_labels_from_one_on_in_training(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(tmp_path / "a.png")
    boxes = Boxes(np.array([[0, 0, 20, 10], [30, 5, 60, 30]], np.float32), ("blue", "red"))
    labelled = gather([Example(Item("a", str(tmp_path / "a.png"), 64, 32), boxes)], [], ("red", "blue"), 64)
    losses = detection.OwnLosses(labelled, gather([], [], ("red",), 64), Augmentation(), 2, torch.device("cpu"))
    batch = losses.batch(np.random.default_rng(0))
    for xyxy, labels in zip(batch.boxes, batch.labels, strict=True):
        np.testing.assert_array_equal(xyxy, boxes.xyxy)
        np.testing.assert_array_equal(labels, [2, 1])


def test_images_with_hard_negatives_are_drawn_more_often(tmp_path: Path) -> None:
    examples = []
    for number, grey in enumerate((0, 255)):
        Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(tmp_path / f"{number}.png")
        examples.append(Example(Item(str(number), str(tmp_path / f"{number}.png"), 32, 32), Boxes.none()))
    labelled = gather(examples, [Negative("1", (0, 0, 9, 9), "red", 0.9, 0.0)], ("red",), 32)
    none = gather([], [], ("red",), 32)
    losses = detection.OwnLosses(labelled, none, Augmentation(), 600, torch.device("cpu"))
    white = (losses.batch(np.random.default_rng(0)).pixels.mean(axis=(1, 2, 3)) > 128).mean()
    assert white == pytest.approx(2 / 3, abs=0.06)


# ── segmenters ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize("module", [torchvision_segmenter, smp])
def test_images_larger_than_a_tile_are_predicted_in_tiles(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "TILE", 64)
    monkeypatch.setattr(segmentation, "SHARED", 16)
    pixels_seen: list[int] = []
    forward = segmentation.MapNet.forward

    def watched(net: Any, images: torch.Tensor) -> list[torch.Tensor]:
        pixels_seen.append(images.shape[2] * images.shape[3])
        return forward(net, images)

    Image.fromarray(np.full((70, 150, 3), 90, np.uint8)).save(tmp_path / "a.png")
    item = Item("a", str(tmp_path / "a.png"), 150, 70)
    options = module.Options(**SMALL[module], weights="none", steps=1, batch_size=2, image_size=150, crop_size=32)
    learner = module.build(options, LearnerContext(Task.SEGMENT, ("red",), "cpu", "fp32"))
    model = learner.fit([Example(item, Masks({}))], [], [], seed=0)
    monkeypatch.setattr(segmentation.MapNet, "forward", watched)
    (prediction,) = model.predict([item])
    assert prediction.probs.shape == (2, 70, 150)
    assert len(model.embed([item])) == 1
    assert max(pixels_seen) <= 64 * 64


# ── the packages themselves ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize("module", [torchvision_detector, torchvision_segmenter])
def test_every_architecture_has_maps_and_a_cost(module: Any) -> None:
    for name in module.BACKBONES:
        net = module.network(module.Options(architecture=name, weights="none"), 2, 64).eval()
        assert net.embed(torch.zeros(2, 3, 64, 64)).shape == (2, net.features)
        assert cost(net, 64, 64).multiply_adds > 0


@pytest.mark.parametrize("name", [DETECTOR, SMP])
def test_the_stand_in_answers_as_the_real_package(name: str) -> None:
    package = PACKAGES[name]
    if absent(name):
        pytest.skip(f"{package} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.learner_interface", package],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(STANDINS), str(STANDINS.parent.parent)])},
        capture_output=True,
        text=True,
        check=True,
    )
    real = json.loads(json.dumps(getattr(learner_interface, package)()))
    assert json.loads(done.stdout) == real
