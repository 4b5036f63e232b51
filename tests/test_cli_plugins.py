"""`alpipe plugins`: what there is, and what one of them is and costs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest

from alpipe import plugins
from alpipe.plugins import Kind
from tests.conftest import Ran

Alpipe = Callable[..., Ran]

WITH_NETWORK = ("cnn", "detector", "sliding", "unetpp")


def test_every_plugin_is_listed_with_its_kind(alpipe: Alpipe) -> None:
    ran = alpipe("plugins", "--json")
    listed = {(row["kind"], row["name"]) for row in json.loads(ran.out)}
    assert ran.status == 0
    assert listed == {(kind.noun, name) for kind in Kind for name in plugins.available(kind)}


@pytest.mark.parametrize("name", WITH_NETWORK)
def test_a_learner_shows_its_options_and_what_its_network_costs(alpipe: Alpipe, name: str) -> None:
    ran = alpipe("plugins", "show", name, "--size", "96", "--json")
    (shown,) = json.loads(ran.out)
    options = plugins.load(Kind.LEARNER, name).Options.model_fields
    assert [row["option"] for row in shown["options"]] == list(options)
    assert shown["cost"]["input"] == "96×96 pixels, 3 classes"
    for what in ("parameters", "multiply-adds, the whole network"):
        assert int(shown["cost"][what].replace(",", "")) > 1000


def test_fewer_weights_are_shown_for_separable_convolutions(alpipe: Alpipe) -> None:
    def parameters(*options: str) -> int:
        (shown,) = json.loads(alpipe("plugins", "show", "unetpp", "--size", "64", "--json", *options).out)
        return int(shown["cost"]["parameters"].replace(",", ""))

    standard, group, separable = (parameters(), *(parameters("-o", f"conv={kind}") for kind in ("group", "separable")))
    assert separable < group < standard


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("unetp",), "unknown plug-in 'unetp'; did you mean unetpp"),
        (("unetpp", "--size", "12x"), "is not a side in pixels or WIDTHxHEIGHT"),
        (("unetpp", "-o", "conv"), "is not NAME=VALUE"),
        (("unetpp", "-o", "konv=separable"), "did you mean 'conv'"),
        (("unetpp", "-o", "conv=round"), "conv"),
        (("sliding", "--size", "8"), "takes no input of 8×8 pixels"),
        (("masks", "-o", "x=1"), "'masks' has no options"),
        (("cnn", "-o", "conv=group", "-o", "groups=5"), "groups must divide the channels of every layer, as 2 or"),
        (("cnn", "-o", "image_size=full"), "or Input should be 'auto' (given: 'full')"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(alpipe: Alpipe, arguments: tuple[Any, ...], reason: str) -> None:
    ran = alpipe("plugins", "show", *arguments)
    assert ran.status == 1
    assert reason in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_an_input_is_padded_as_the_learner_pads_it(alpipe: Alpipe) -> None:
    (wide,) = json.loads(alpipe("plugins", "show", "unetpp", "--size", "100x30", "--json").out)
    (square,) = json.loads(alpipe("plugins", "show", "cnn", "--size", "64x40", "--json").out)
    assert wide["cost"]["input"].startswith("112×32")
    assert square["cost"]["input"].startswith("64×64")


def test_a_learner_whose_package_is_absent_still_shows_its_options(alpipe: Alpipe) -> None:
    if importlib.util.find_spec("segmentation_models_pytorch"):
        pytest.skip("segmentation_models_pytorch is installed")
    ran = alpipe("plugins", "show", "smp")
    assert ran.status == 0
    assert "architecture" in ran.out
    assert 'pip install "alpipe[smp]"' in ran.out
