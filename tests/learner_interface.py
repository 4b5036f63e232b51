"""Describes what alpipe relies on in the packages of other learners; run on the real ones and on their stand-ins.

``python -m tests.learner_interface torchvision`` prints it as JSON.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import torch

from alpipe.learners.external import smp, torchvision_detector, torchvision_segmenter


def torchvision() -> dict[str, Any]:
    """Of each function the parameters, and how some of the networks answer."""
    from torchvision.models import detection, get_model_weights, segmentation

    made: dict[str, Any] = {}
    for module, names in (
        (detection, torchvision_detector.BACKBONES),
        (segmentation, torchvision_segmenter.BACKBONES),
    ):
        for name, backbone in names.items():
            made[name] = {
                "parameters": parameters(getattr(module, name), "weights", "weights_backbone", "num_classes"),
                "weights": sorted([*names_of(get_model_weights(name)), *names_of(get_model_weights(backbone))]),
                "from": [one.url[:8] for one in values_of(get_model_weights(name))],
            }
    for name in ("fasterrcnn_mobilenet_v3_large_fpn", "retinanet_resnet50_fpn_v2"):
        made[name] |= detector(getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3))
    for name in ("lraspp_mobilenet_v3_large", "deeplabv3_resnet50"):
        made[name] |= segmenter(getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3))
    return made


def segmentation_models_pytorch() -> dict[str, Any]:
    """What a model and its encoder answer."""
    import segmentation_models_pytorch as package

    made: dict[str, Any] = {}
    for name in ("Unet", "UnetPlusPlus"):
        kind = package.MODEL_ARCHITECTURES_MAPPING[name.lower()]
        net = kind(encoder_name="resnet18", encoder_weights=None, in_channels=3, classes=3)
        deepest = net.encoder(torch.zeros(2, 3, 64, 64))[-1]
        made[name] = {
            "same": kind is getattr(package, name),
            "parameters": parameters(kind, "encoder_name", "encoder_weights", "in_channels", "classes"),
            "output": list(net(torch.zeros(2, 3, 64, 96)).shape),
            "deepest": [2, deepest.shape[1] == net.encoder.out_channels[-1], *deepest.shape[2:]],
        }
    known = package.encoders.encoders["resnet18"]["pretrained_settings"]
    return made | {"weights": "imagenet" in known, "default": smp.Options().encoder in package.encoders.encoders}


def parameters(function: Any, *wanted: str) -> list[str]:
    """Those of the wanted parameters that the function has."""
    return [name for name in wanted if name in inspect.signature(function).parameters]


def names_of(weights: Any) -> list[str]:
    """Of an enumeration or a mapping."""
    return [one if isinstance(one, str) else one.name for one in weights]


def values_of(weights: Any) -> list[Any]:
    """Of an enumeration or a mapping."""
    return [weights[name] for name in names_of(weights)]


def detector(net: Any) -> dict[str, Any]:
    """Its parts, its losses, its answers."""
    image = torch.rand(3, 64, 64)
    target = {"boxes": torch.tensor([[8.0, 8, 40, 48]]), "labels": torch.tensor([1])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    resize = parameters(net.transform.resize, "image", "target")
    net.transform.resize = lambda image, target=None: (image, target)
    maps = net.backbone.body(torch.zeros(2, 3, 64, 64))
    losses = net.train()([image, image], [target, nothing])
    (found,) = net.eval()([image])
    heads = net.head if hasattr(net, "head") else net.rpn.head
    return {
        "transform": [resize, net.transform.image_mean, net.transform.image_std],
        "dense head": hasattr(net, "head"),
        "head takes maps": heads(list(net.backbone(torch.zeros(2, 3, 64, 64)).values())) is not None,
        "maps": [type(maps).__name__, [list(one.shape[2:]) for one in maps.values()][-1]],
        "losses": {name: list(loss.shape) for name, loss in losses.items()},
        "refuses": refuses(net.train(), [image]),
        "found": {name: [str(value.dtype), list(value.shape[1:])] for name, value in sorted(found.items())},
        "backbone": next(iter(net.backbone.body.state_dict())),
    }


def segmenter(net: Any) -> dict[str, Any]:
    """Its maps and its answer."""
    maps = net.backbone(torch.zeros(2, 3, 64, 64))
    return {
        "maps": [type(maps).__name__, list(maps)[-1]],
        "output": {name: list(one.shape) for name, one in net(torch.zeros(2, 3, 64, 96)).items()},
        "backbone": next(iter(net.backbone.state_dict())),
    }


def refuses(net: Any, images: Any) -> bool:
    """Whether it raises, of whatever kind, for images that it cannot take so."""
    try:
        net(images)
    except (RuntimeError, AssertionError):
        return True
    return False


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
