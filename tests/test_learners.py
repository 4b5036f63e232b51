"""What every learner must do, whoever wrote it: found by name, run on every task it says it is for."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alpipe import plugins, rle
from alpipe.errors import ConfigError, DataError, TrainingError
from alpipe.learners.training import trainer
from alpipe.plugins import Kind
from alpipe.protocols import Learner, LearnerContext, Model
from alpipe.types import (
    Boxes,
    BoxPrediction,
    ClassPrediction,
    Example,
    ImageClass,
    Item,
    MapPrediction,
    Masks,
    Negative,
    Prediction,
    Progress,
    Task,
)
from tests.learner_packages import absent, provided

TINY: dict[str, dict[str, Any]] = {
    "detector": {"steps": 4, "batch_size": 2, "image_size": 64, "width": 16},
    "unetpp": {"steps": 4, "batch_size": 2, "image_size": 48, "crop_size": 32, "features": (8, 8, 8)},
    "torchvision-detector": {
        "steps": 4,
        "batch_size": 2,
        "image_size": 64,
        "architecture": "fasterrcnn_mobilenet_v3_large_fpn",
        "weights": "none",
    },
    "torchvision-segmenter": {
        "steps": 4,
        "batch_size": 2,
        "image_size": 48,
        "crop_size": 32,
        "architecture": "lraspp_mobilenet_v3_large",
        "weights": "none",
    },
    "smp": {"steps": 4, "batch_size": 2, "image_size": 48, "crop_size": 32, "encoder": "resnet18", "weights": "none"},
    "cnn": {"steps": 4, "batch_size": 2, "image_size": 32, "features": (8, 8), "hidden": (8,)},
    "sliding": {
        "steps": 4,
        "batch_size": 4,
        "window": 22,
        "features": (4, 4),
        "convs": 1,
        "hidden": (8,),
        "windows": 2,
    },
}
"""Options that make a learner quick to fit; one that is not named here is tested with its defaults."""

CLASSES = ("red", "blue")
COLOURS = {"red": (220, 40, 30), "blue": (30, 60, 220)}
SIZES = [(64, 48), (40, 64), (96, 80), (33, 57)]


def learners_and_tasks() -> Iterator[Any]:
    for name in plugins.available(Kind.LEARNER):
        for task in sorted(plugins.find(Kind.LEARNER, name).TASKS):
            yield pytest.param((name, task), id=f"{name}-{task}" + ("-standin" if absent(name) else ""))


@dataclass
class Bench:
    """One learner on one task, with images to use it on."""

    name: str
    task: Task
    folder: Path

    def learner(self, classes: tuple[str, ...] = CLASSES, **options: Any) -> Learner:
        module = plugins.load(Kind.LEARNER, self.name, self.task)
        values = TINY.get(self.name, {}) | options
        learner: Learner = module.build(plugins.options(Kind.LEARNER, self.name, module, values), self.context(classes))
        return learner

    def load(self, folder: Path) -> Model:
        model: Model = plugins.load(Kind.LEARNER, self.name, self.task).load(folder, self.context())
        return model

    def context(self, classes: tuple[str, ...] = CLASSES) -> LearnerContext:
        return LearnerContext(self.task, classes, "cpu", "fp32")

    def examples(self, count: int, size: tuple[int, int] | None = None) -> list[Example]:
        return [self.example(number, CLASSES[number % 2], size or SIZES[number % 4]) for number in range(count)]

    def example(self, number: int, colour: str | None, size: tuple[int, int] = (64, 48)) -> Example:
        """A rectangle of a colour on a noisy grey image, or (None) only the image."""
        rng = np.random.default_rng(number)
        width, height = size
        pixels = rng.integers(100, 150, (height, width, 3), dtype=np.uint8)
        x, y = int(rng.integers(4, width // 2)), int(rng.integers(4, height // 2))
        box = (x, y, x + width // 3, y + height // 3)
        inside = np.zeros((height, width), bool)
        if colour:
            inside[box[1] : box[3], box[0] : box[2]] = True
            pixels[inside] = COLOURS[colour]
        path = self.folder / f"{number}-{colour}-{width}x{height}.png"
        Image.fromarray(pixels).save(path)
        item = Item(f"{number}-{colour}-{width}x{height}"[:20], str(path), width, height)
        match self.task:
            case Task.DETECT if colour:
                return Example(item, Boxes(np.array([box], np.float32), (colour,)))
            case Task.DETECT:
                return Example(item, Boxes.none())
            case Task.SEGMENT:
                return Example(item, Masks({colour: rle.encode(inside)} if colour else {}))
            case _:
                return Example(item, ImageClass(colour or CLASSES[0]))


@pytest.fixture(params=list(learners_and_tasks()))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    name, task = request.param
    with provided(name):
        yield Bench(name, task, tmp_path)


def arrays(prediction: Prediction) -> list[np.ndarray[Any, Any]]:
    match prediction:
        case BoxPrediction(xyxy=xyxy, scores=scores, probs=probs, class_index=index):
            return [xyxy, scores, probs, index]
        case _:
            return [prediction.probs, *(member.probs for member in prediction.members)]


def assert_same(first: Model, second: Model, items: list[Item]) -> None:
    for a, b in zip(first.predict(items), second.predict(items), strict=True):
        assert a.item_key == b.item_key
        for left, right in zip(arrays(a), arrays(b), strict=True):
            np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(first.embed(items), second.embed(items))


def assert_sound(model: Model, examples: list[Example]) -> None:
    """Predictions come in the order of the items, are of the task's kind, and lie within their ranges."""
    items = [example.item for example in examples]
    for seen in (model.predict, model.scan):
        assert_predictions_sound(model, items, list(seen(iter(items))))
    rows = model.embed(items)
    assert rows.dtype == np.float32
    assert len(rows) == len(items)
    assert np.isfinite(rows).all()


def assert_predictions_sound(model: Model, items: list[Item], predictions: list[Prediction]) -> None:
    assert [prediction.item_key for prediction in predictions] == [item.key for item in items]
    for item, prediction in zip(items, predictions, strict=True):
        match prediction:
            case ClassPrediction(probs=probs):
                assert model.task is Task.CLASSIFY
                assert probs.shape == (len(model.classes),)
                assert probs.sum() == pytest.approx(1, abs=1e-5)
            case BoxPrediction(xyxy=xyxy, scores=scores, probs=probs, class_index=index):
                assert model.task is Task.DETECT
                assert probs.shape[1] == len(model.classes)
                assert (xyxy >= 0).all()
                assert (xyxy <= [item.width, item.height, item.width, item.height]).all()
                assert (xyxy[:, 2:] > xyxy[:, :2]).all()
                assert (np.diff(scores) <= 0).all()
                np.testing.assert_array_equal(scores, probs[np.arange(len(index)), index])
            case MapPrediction(probs=probs, size=size):
                assert model.task is Task.SEGMENT
                assert size == (item.width, item.height)
                assert probs.shape[0] == 1 + len(model.classes)
                assert probs.shape[2] / probs.shape[1] == pytest.approx(item.width / item.height, rel=0.1)
                np.testing.assert_allclose(probs.astype(np.float32).sum(axis=0), 1, atol=2e-3)


def test_learns_from_one_image(bench: Bench) -> None:
    examples = bench.examples(1)
    assert_sound(bench.learner().fit(examples, [], [], seed=0), examples)


def test_learns_from_images_of_different_sizes(bench: Bench) -> None:
    examples = bench.examples(5)
    assert_sound(bench.learner().fit(examples[:3], examples[3:], [], seed=0), examples)


def test_learns_from_images_without_an_object(bench: Bench) -> None:
    examples = [bench.example(number, None) for number in range(2)]
    assert_sound(bench.learner().fit(examples, examples[:1], [], seed=0), examples)


def test_learns_a_single_class(bench: Bench) -> None:
    examples = [bench.example(number, "red") for number in range(3)]
    model = bench.learner(classes=("red",)).fit(examples, [], [], seed=0)
    assert model.classes == ("red",)
    assert_sound(model, examples)


def test_predicts_images_much_larger_or_smaller_than_those_it_learnt_from(bench: Bench) -> None:
    model = bench.learner().fit(bench.examples(2), [], [], seed=0)
    assert_sound(model, [bench.example(7, "red", (300, 20)), bench.example(8, "blue", (12, 12))])


def test_predicts_nothing_for_no_item(bench: Bench) -> None:
    model = bench.learner().fit(bench.examples(1), [], [], seed=0)
    assert list(model.predict([])) == []
    assert model.embed([]).shape == (0, model.embed([bench.example(0, "red").item]).shape[1])


def test_a_prediction_does_not_depend_on_its_neighbours(bench: Bench) -> None:
    examples = bench.examples(6)
    model = bench.learner().fit(examples, [], [], seed=0)
    together = list(model.predict([example.item for example in examples]))
    for example, expected in zip(examples, together, strict=True):
        (alone,) = model.predict([example.item])
        for left, right in zip(arrays(alone), arrays(expected), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-4)


def test_a_saved_model_predicts_the_same_to_the_bit(bench: Bench, tmp_path: Path) -> None:
    examples = bench.examples(4)
    model = bench.learner().fit(examples, [], [], seed=0)
    model.save(tmp_path / "model")
    loaded = bench.load(tmp_path / "model")
    assert (loaded.task, loaded.classes) == (bench.task, CLASSES)
    assert_same(model, loaded, [example.item for example in examples])


def test_a_seed_repeats_and_another_differs(bench: Bench) -> None:
    examples = bench.examples(4)
    items = [example.item for example in examples]
    first, again, other = (bench.learner().fit(examples, [], [], seed=seed) for seed in (3, 3, 4))
    assert_same(first, again, items)
    assert not np.array_equal(first.embed(items), other.embed(items))


def test_nothing_global_is_changed(bench: Bench) -> None:
    def state() -> list[Any]:
        return [
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
            random.getstate(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ]

    before = state()
    model = bench.learner().fit(bench.examples(2), [], [], seed=0)
    list(model.predict([bench.example(0, "red").item]))
    assert state() == before


def test_a_training_that_was_killed_goes_on_to_the_same_model(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(at: int) -> Callable[[Progress], None]:
        def callback(progress: Progress) -> None:
            if progress.done == at:
                raise Killed

        return callback

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(trainer, "SHOW_SECONDS", 0)
    examples = bench.examples(4)
    through = bench.learner().fit(examples[:3], examples[3:], [], seed=0)
    with pytest.raises(Killed):
        bench.learner().fit(
            examples[:3], examples[3:], [], seed=0, progress=kill(2), resume_from=tmp_path / "checkpoints"
        )
    seen: list[Progress] = []
    resumed = bench.learner().fit(
        examples[:3], examples[3:], [], seed=0, progress=seen.append, resume_from=tmp_path / "checkpoints"
    )
    assert seen[0].done == 2
    assert_same(through, resumed, [example.item for example in examples])


@pytest.mark.parametrize("damage", ["another training", "damaged"])
def test_a_checkpoint_that_does_not_fit_is_left_aside(bench: Bench, tmp_path: Path, damage: str) -> None:
    examples = bench.examples(3)
    expected = bench.learner().fit(examples, [], [], seed=0)
    bench.learner().fit(examples, [], [], seed=1, resume_from=tmp_path / "checkpoints")
    if damage == "damaged":
        for path in (tmp_path / "checkpoints").iterdir():
            path.write_bytes(path.read_bytes()[:100])
    fitted = bench.learner().fit(examples, [], [], seed=0, resume_from=tmp_path / "checkpoints")
    assert_same(expected, fitted, [example.item for example in examples])


def test_a_checkpoint_of_another_precision_is_left_aside(bench: Bench, tmp_path: Path) -> None:
    module = plugins.load(Kind.LEARNER, bench.name)
    options, examples = module.Options(**TINY.get(bench.name, {})), bench.examples(3)

    def fitted(precision: str, folder: Path | None) -> Model:
        context = LearnerContext(bench.task, CLASSES, "cpu", precision)
        model: Model = module.build(options, context).fit(examples, [], [], seed=0, resume_from=folder)
        return model

    expected = fitted("fp32", None)
    fitted("bf16", tmp_path)
    assert_same(expected, fitted("fp32", tmp_path), [example.item for example in examples])


def test_progress_is_shown_to_the_end(bench: Bench) -> None:
    seen: list[Progress] = []
    bench.learner().fit(bench.examples(2), [], [], seed=0, progress=seen.append)
    assert seen[-1].done == seen[-1].total > 0
    assert "loss" in seen[-1].detail


def test_negatives_are_taken(bench: Bench) -> None:
    examples = bench.examples(2)
    negatives = [Negative(examples[0].item.key, (1, 1, 20, 15), "red", 0.8, 0.1)]
    with_them = bench.learner().fit(examples, [], negatives, seed=0)
    assert_sound(with_them, examples)
    if bench.task is not Task.CLASSIFY:  # to a classifier, regions say nothing
        without = bench.learner().fit(examples, [], [], seed=0)
        items = [example.item for example in examples]
        assert not np.array_equal(with_them.embed(items), without.embed(items))


def test_nothing_to_learn_from_is_refused(bench: Bench) -> None:
    with pytest.raises(TrainingError, match="no labelled image"):
        bench.learner().fit([], [], [], seed=0)


def test_labels_of_another_task_are_refused(bench: Bench) -> None:
    example = bench.example(0, "red")
    wrong = Example(example.item, Boxes.none() if bench.task is not Task.DETECT else ImageClass("red"))
    with pytest.raises(TrainingError, match=example.item.key):
        bench.learner().fit([wrong], [], [], seed=0)


def test_an_unknown_class_is_refused(bench: Bench) -> None:
    with pytest.raises(TrainingError, match="blue"):
        bench.learner(classes=("red",)).fit([bench.example(1, "blue")], [], [], seed=0)


def test_an_image_that_cannot_be_read_stops_the_training_and_is_named(bench: Bench, tmp_path: Path) -> None:
    example = bench.example(0, "red")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        bench.learner().fit([replace(example, item=replace(example.item, uri=str(broken)))], [], [], seed=0)


def test_an_unknown_device_is_refused(bench: Bench) -> None:
    module = plugins.load(Kind.LEARNER, bench.name)
    learner = module.build(module.Options(**TINY.get(bench.name, {})), LearnerContext(bench.task, CLASSES, "cpux"))
    with pytest.raises(ConfigError, match="cpux"):
        learner.fit(bench.examples(1), [], [], seed=0)


def test_damaged_files_of_a_model_are_named(bench: Bench, tmp_path: Path) -> None:
    bench.learner().fit(bench.examples(1), [], [], seed=0).save(tmp_path / "model")
    with pytest.raises(DataError, match="nowhere"):
        bench.load(tmp_path / "nowhere")
    for path in sorted((tmp_path / "model").iterdir()):
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b""):
            path.write_bytes(content)
            with pytest.raises(DataError, match=path.name):
                bench.load(tmp_path / "model")
        path.write_bytes(whole)
    description = tmp_path / "model" / "model.json"
    values = json.loads(description.read_text())
    description.write_text(json.dumps(values | {"classes": [*values["classes"], "green"]}))
    with pytest.raises(DataError, match="do not fit"):
        bench.load(tmp_path / "model")


def test_dropout_samples_are_the_members_of_a_scan(bench: Bench) -> None:
    if "samples" not in plugins.load(Kind.LEARNER, bench.name).Options.model_fields:
        pytest.skip("this learner draws no dropout samples")
    examples = bench.examples(3)
    model = bench.learner(samples=5, dropout=0.5).fit(examples, [], [], seed=0)
    items = [example.item for example in examples]
    for prediction, again in zip(model.scan(items), model.scan(items), strict=True):
        assert len(prediction.members) == 5
        shapes = {member.probs.shape for member in prediction.members}
        assert shapes == {prediction.probs.shape}
        for left, right in zip(prediction.members, again.members, strict=True):
            np.testing.assert_array_equal(left.probs, right.probs)
    assert all(not prediction.members for prediction in model.predict(items))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_learns_and_predicts_as_the_cpu_does(bench: Bench, tmp_path: Path) -> None:
    module = plugins.load(Kind.LEARNER, bench.name)
    examples = bench.examples(3)
    on_gpu = LearnerContext(bench.task, CLASSES, "cuda", "fp32")
    model = module.build(module.Options(**TINY.get(bench.name, {})), on_gpu).fit(examples, [], [], seed=0)
    assert_sound(model, examples)
    model.save(tmp_path / "model")
    on_cpu = bench.load(tmp_path / "model")
    items = [example.item for example in examples]
    np.testing.assert_allclose(model.embed(items), on_cpu.embed(items), atol=1e-2)


def test_what_a_model_was_made_of_is_kept_with_it(bench: Bench, tmp_path: Path) -> None:
    examples = bench.examples(3)
    bench.learner().fit(examples[:2], examples[2:], [], seed=7).save(tmp_path / "model")
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["learner"] == bench.name
    facts = described["facts"]
    assert (facts["seed"], facts["images"], facts["validation_images"]) == (7, 2, 1)
    assert torch.__version__.startswith(facts["versions"]["torch"].partition("+")[0])
    assert facts["steps"] > 0


def test_length_is_a_factor_on_the_steps_that_grow_with_the_training_set(tmp_path: Path) -> None:
    bench = Bench("cnn", Task.CLASSIFY, tmp_path)
    steps = {}
    for count in (2, 30):
        learner = bench.learner(steps="auto", length=0.001)
        learner.fit(bench.examples(count), [], [], seed=0).save(tmp_path / f"{count}")
        steps[count] = json.loads((tmp_path / f"{count}" / "model.json").read_text())["facts"]["steps"]
    assert steps == {count: round(0.001 * (8_000 + 40 * count) / 2) for count in (2, 30)}, "batches of 2"


def test_curves_are_written_where_a_folder_is_given(bench: Bench, tmp_path: Path) -> None:
    context = replace(bench.context(), logs=tmp_path / "runs")
    module = plugins.load(Kind.LEARNER, bench.name)
    module.build(module.Options(**TINY.get(bench.name, {})), context).fit(bench.examples(2), [], [], seed=0)
    assert list((tmp_path / "runs").glob("events.out.tfevents.*"))


def test_every_option_is_documented(bench: Bench) -> None:
    fields = plugins.load(Kind.LEARNER, bench.name).Options.model_fields
    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_low_precision_gives_sound_predictions(bench: Bench, precision: str) -> None:
    module = plugins.load(Kind.LEARNER, bench.name)
    context = LearnerContext(bench.task, CLASSES, "cpu", precision)
    examples = bench.examples(2)
    model = module.build(module.Options(**TINY.get(bench.name, {})), context).fit(examples, [], [], seed=0)
    assert_sound(model, examples)
