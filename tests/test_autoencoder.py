"""The variational autoencoder: the mathematics against closed forms, and what is made with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from alpipe.errors import DataError, TrainingError
from alpipe.learners.autoencoder import model, pretrain
from alpipe.learners.autoencoder.likelihoods import Bernoulli, Gaussian
from alpipe.learners.autoencoder.nets import ConvDecoder, ConvEncoder
from alpipe.learners.autoencoder.objective import GREY_LEVELS, fixed_noise, inside
from alpipe.learners.autoencoder.options import AutoencoderOptions
from alpipe.learners.autoencoder.vae import GRID, LOG_VARIANCE_LIMIT, VAE, bounded, divergence, reparameterise
from alpipe.learners.nets.blocks import ConvNormAct
from alpipe.learners.nets.pyramid import PyramidDetector
from alpipe.learners.training import saving, trainer
from alpipe.learners.training.data import to_input
from alpipe.protocols import LearnerContext
from alpipe.types import Item, Progress, Task

CPU = LearnerContext(Task.CLASSIFY, ("a", "b"), "cpu", "fp32")
TINY = AutoencoderOptions(image_size=16, latent=4, width=8, steps=4, batch_size=4)
SIZES = [(16, 16), (12, 16), (16, 9), (40, 30)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(folder: Path, number: int, kind: str = "stripes", size: tuple[int, int] = (16, 16)) -> Item:
    """An image of upright soft stripes at a random place, or of another kind."""
    rng = np.random.default_rng(number)
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    along = x if kind == "stripes" else y
    grey = 128 + 90 * np.sin(along * 2 * np.pi / 8 + rng.uniform(0, 2 * np.pi)) + rng.normal(0, 4, x.shape)
    path = folder / f"{kind}-{number}.png"
    Image.fromarray(np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)).save(path)
    return Item(path.stem, str(path), *size)


def pictures(folder: Path, count: int, kind: str = "stripes", first: int = 0, **options: Any) -> list[Item]:
    return [picture(folder, number, kind, **options) for number in range(first, first + count)]


class Principal:
    """Probabilistic principal component analysis (Tipping & Bishop 1999): x = W z + b + noise of scale s. With
    orthogonal columns in W the posterior is diagonal, so a linear autoencoder can have it exactly.
    """

    def __init__(self, numbers: int = 12, latent: int = 3, scale: float = 0.4) -> None:
        orthogonal = torch.linalg.qr(random(numbers, latent).double())[0]
        self.weight = orthogonal * torch.tensor([2.0, 1.0, 0.5])[:latent]
        self.bias, self.scale = random(numbers, seed=1).double(), scale
        self.precision = (self.weight.T @ self.weight).diagonal() + scale**2

    def log_density(self, x: torch.Tensor) -> torch.Tensor:
        covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(len(self.bias))
        return MultivariateNormal(self.bias, covariance).log_prob(x.flatten(1).double())

    def vae(self, error: float = 0.0) -> VAE:
        """The autoencoder with the exact posterior, or one that is off by ``error``."""
        numbers, latent = self.weight.shape
        decoder = nn.Sequential(nn.Linear(latent, numbers), nn.Unflatten(1, (3, 2, 2)))
        vae = VAE(nn.Flatten(), numbers, latent, decoder, Gaussian(self.scale))
        projection = self.weight.T / self.precision[:, None]
        variance = self.scale**2 / self.precision
        with torch.no_grad():
            vae.mean_head.weight.copy_(projection)
            vae.mean_head.bias.copy_(-projection @ self.bias + error)
            vae.log_variance_head.weight.zero_()
            raw = LOG_VARIANCE_LIMIT * torch.atanh(variance.log() / LOG_VARIANCE_LIMIT)
            vae.log_variance_head.bias.copy_(raw + error)
            decoder[0].weight.copy_(self.weight)  # type: ignore[operator]
            decoder[0].bias.copy_(self.bias)  # type: ignore[operator]
        return vae.eval()


# ── the bound ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    mean, log_variance = random(5, 7), random(5, 7, seed=1) * 3
    exact = kl_divergence(Normal(mean.double(), (log_variance.double() / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(divergence(mean, log_variance).double(), exact, rtol=1e-5, atol=1e-5)


def test_the_divergence_of_almost_equal_distributions_keeps_its_digits() -> None:
    nearly = torch.full((1, 1), 1e-3)
    assert float(divergence(torch.zeros(1, 1), nearly)) == pytest.approx(1e-6 / 4, rel=0.01)
    assert float(divergence(torch.zeros(1, 1), torch.zeros(1, 1))) == 0


@given(st.floats(width=32, allow_nan=False))
def test_sigma_is_positive_and_finite_whatever_the_head_says(raw: float) -> None:
    log_variance = bounded(torch.tensor([[raw]]))
    sigma = torch.exp(0.5 * log_variance)
    assert 0 < float(sigma) < math.inf
    assert math.isfinite(float(divergence(torch.zeros(1, 1), log_variance)))


def test_log_variances_that_training_arrives_at_are_almost_unchanged() -> None:
    values = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(bounded(values), values, rtol=0.02, atol=0)


def test_samples_are_those_of_the_posterior_and_gradients_reach_both_its_parameters() -> None:
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    drawn = reparameterise(mean.expand(100_000, 2), log_variance.expand(100_000, 2), random(100_000, 2))
    torch.testing.assert_close(drawn.mean(dim=0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(dim=0), log_variance.exp()[0], atol=0.03, rtol=0)
    mean.requires_grad_()
    log_variance.requires_grad_()
    noise = torch.tensor([[0.5, 2.0]])
    reparameterise(mean, log_variance, noise).sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(1, 2))  # dz/dmean = 1
    torch.testing.assert_close(log_variance.grad, 0.5 * (0.5 * log_variance).exp().detach() * noise)  # ½ σ ε


def test_gaussian_and_bernoulli_are_those_of_torch() -> None:
    decoded, image = random(4, 3, 5, 6), torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(2))
    gaussian = Normal(decoded, 0.3).log_prob(image).sum(dim=(1, 2, 3))
    torch.testing.assert_close(Gaussian(0.3)(decoded, image), gaussian)
    ones = image.round()
    bernoulli = TorchBernoulli(logits=decoded).log_prob(ones).sum(dim=(1, 2, 3))
    torch.testing.assert_close(Bernoulli()(decoded, ones), bernoulli)


@pytest.mark.parametrize("likelihood", [Gaussian(0.3), Gaussian(), Bernoulli()])
def test_padding_neither_costs_nor_counts(likelihood: nn.Module) -> None:
    decoded, image = random(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    counted = inside(np.array([[5, 6]]), 8, torch.device("cpu"))
    padded = likelihood(decoded, image, counted)
    torch.testing.assert_close(padded, likelihood(decoded[:, :, :5, :6], image[:, :, :5, :6], None))
    image[:, :, 5:] = 100
    torch.testing.assert_close(padded, likelihood(decoded, image, counted))


def test_the_scale_of_a_batch_is_the_one_of_the_highest_likelihood() -> None:
    decoded, image = random(4, 3, 5, 6), random(4, 3, 5, 6, seed=1)
    fitted = float(Gaussian().train()(decoded, image).sum())
    others = [float(Gaussian(scale)(decoded, image).sum()) for scale in np.linspace(0.5, 3, 101)]
    assert fitted >= max(others)
    assert fitted == pytest.approx(max(others), rel=1e-3)


def test_the_scale_stays_above_its_floor_where_the_reconstruction_is_perfect() -> None:
    image = random(2, 3, 4, 4)
    likelihood = Gaussian(floor=0.01).train()
    assert float(likelihood(image, image)[0]) == pytest.approx(-48 * math.log(0.01 * math.sqrt(2 * math.pi)), rel=1e-5)
    with pytest.raises(ValueError, match="positive"):
        Gaussian(0.0)


def test_with_the_exact_posterior_every_draw_weighs_the_exact_density() -> None:
    """log p(x | z) + log p(z) − log q(z | x) = log p(x) for each z, by Bayes' rule."""
    exact = Principal()
    vae, x = exact.vae(), random(6, 3, 2, 2, seed=3)
    with torch.inference_mode():
        mean, log_variance = vae.encode(x)
        for seed in range(4):
            z = reparameterise(mean, log_variance, random(6, 3, seed=seed))
            prior = Normal(0.0, 1.0).log_prob(z).sum(dim=1)
            posterior = Normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(dim=1)
            weight = vae.likelihood(vae.decode(z), x, None) + prior - posterior
            torch.testing.assert_close(weight.double(), exact.log_density(x), atol=2e-3, rtol=1e-4)


def test_the_bound_is_the_log_density_for_the_exact_posterior_and_below_it_for_another() -> None:
    exact, x = Principal(), random(6, 3, 2, 2, seed=3)
    noise = torch.from_numpy(fixed_noise(4000, 3))
    with torch.inference_mode():
        bounds = {}
        for error in (0.0, 0.3):
            vae = exact.vae(error)
            draws = [vae(x[at : at + 1].expand(4000, -1, -1, -1), noise=noise).value().mean() for at in range(6)]
            bounds[error] = torch.stack(draws).double()
    truth = exact.log_density(x)
    torch.testing.assert_close(bounds[0.0], truth, atol=0.05, rtol=0)
    assert (bounds[0.3] < truth - 0.1).all()


def test_beta_weighs_the_divergence() -> None:
    elbo = Principal().vae()(random(2, 3, 2, 2), noise=torch.zeros(2, 3))
    torch.testing.assert_close(elbo.value(1.0) - elbo.value(3.0), 2 * elbo.divergence)
    assert elbo.dimensions.tolist() == [12, 12]


def test_training_finds_the_principal_components() -> None:
    """What a linear autoencoder learns comes close to the best bound there is, that of the exact model."""
    exact = Principal()
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(512, 3, generator=generator), torch.randn(512, 12, generator=generator)
    x = (z.double() @ exact.weight.T + exact.bias + exact.scale * noise).float().view(-1, 3, 2, 2)

    class Points:
        def batch(self, rng: np.random.Generator) -> torch.Tensor:
            return x[rng.integers(len(x), size=64)]

        def loss(self, net: nn.Module, batch: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(-net(batch).value().mean() / 12)

        def validation_loss(self, net: nn.Module) -> float | None:
            return None

    def make() -> VAE:
        decoder = nn.Sequential(nn.Linear(3, 12), nn.Unflatten(1, (3, 2, 2)))
        return VAE(nn.Flatten(), 12, 3, decoder, Gaussian(exact.scale))

    recipe = trainer.Recipe(400, 64, 0.05, 0.0)
    vae = trainer.train(
        make, Points(), recipe, model.resolve(CPU), seed=0, identity="", progress=lambda _: None, resume_from=None
    ).net
    with torch.inference_mode():
        learnt = float(vae(x, noise=random(512, 3, seed=9)).value().mean())
    assert learnt == pytest.approx(float(exact.log_density(x).mean()), abs=0.25)


# ── networks and what they see ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("side", [16, 32, 48, 64, 80, 96, 112, 128])
def test_encoder_and_decoder_meet_at_a_small_map(side: int) -> None:
    deepest = ConvEncoder(side, 4)(torch.zeros(2, 3, side, side))
    assert 4 <= deepest.shape[-1] <= 7
    assert ConvDecoder(side, 4, 5)(torch.zeros(2, 5)).shape == (2, 3, side, side)


def test_a_grey_level_is_what_it_is_taken_for() -> None:
    values = to_input(np.array([0, 64, 255], np.uint8).reshape(1, 1, 3, 1).repeat(3, axis=3), torch.device("cpu"))
    torch.testing.assert_close(values[0, 0, 0].diff() * GREY_LEVELS, torch.tensor([64.0, 191.0]))


def test_the_fixed_noise_has_no_mean() -> None:
    noise = fixed_noise(6, 5)
    assert noise.shape == (6, 5)
    np.testing.assert_array_equal(noise[::2], -noise[1::2])
    assert fixed_noise(3, 5).shape == (3, 5)
    assert noise.std() > 0.5


# ── novelty and embeddings ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> model.Autoencoder:
    folder = tmp_path_factory.mktemp("stripes")
    options = AutoencoderOptions(image_size=16, latent=4, width=8, steps=80, batch_size=16)
    return model.fit(pictures(folder, 40), options, CPU, seed=0)


def test_images_of_another_kind_are_more_novel(fitted: model.Autoencoder, tmp_path: Path) -> None:
    same = list(fitted.novelty(pictures(tmp_path, 10, first=100)))
    other = list(fitted.novelty(pictures(tmp_path, 10, "lying", first=100)))
    assert max(same) < min(other)


def test_the_bound_is_in_nats_of_grey_levels(fitted: model.Autoencoder, tmp_path: Path) -> None:
    """The noise of the images has a scale of 4 grey levels: none can be described in less than its entropy."""
    least = math.log(4 * math.sqrt(2 * math.pi * math.e)) - 0.1
    # A third of it, since the channels are alike; but the density knows of no such ties.
    assert all(least < value < math.log(256) for value in fitted.novelty(pictures(tmp_path, 10, first=100)))


def test_a_value_depends_on_the_image_alone(fitted: model.Autoencoder, tmp_path: Path) -> None:
    items = pictures(tmp_path, 9)
    together = list(fitted.predict(iter(items)))
    alone = [next(iter(fitted.predict([item]))) for item in items]
    assert [fit.item_key for fit in together] == [item.key for item in items]
    np.testing.assert_allclose([fit.nats for fit in together], [fit.nats for fit in alone], atol=1e-4)
    assert [fit.nats for fit in fitted.predict(items)] == [fit.nats for fit in together]


def test_embeddings_are_the_posterior_means_in_order(fitted: model.Autoencoder, tmp_path: Path) -> None:
    items = pictures(tmp_path, 5)
    rows = fitted.embed(items)
    assert rows.shape == (5, 4)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(fitted.embed(items[::-1]), rows[::-1], atol=1e-5)
    assert len(np.unique(rows.round(3), axis=0)) == 5
    assert fitted.embed([]).shape == (0, 4)
    assert list(fitted.novelty([])) == []


def test_the_same_seed_gives_the_same_autoencoder(tmp_path: Path) -> None:
    items = pictures(tmp_path, 12)
    one, same, other = (list(model.fit(items, TINY, CPU, seed=seed).novelty(items)) for seed in (0, 0, 1))
    assert one == same != other


def test_saving_and_loading_changes_nothing(fitted: model.Autoencoder, tmp_path: Path) -> None:
    items = pictures(tmp_path, 4)
    fitted.save(tmp_path / "saved")
    loaded = model.load(tmp_path / "saved", CPU)
    assert list(loaded.novelty(items)) == list(fitted.novelty(items))
    np.testing.assert_array_equal(loaded.embed(items), fitted.embed(items))
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="train again"):
        model.load(tmp_path / "saved", CPU)


def test_images_of_any_size_go_in(tmp_path: Path) -> None:
    items = [picture(tmp_path, number, size=SIZES[number % 4]) for number in range(8)]
    fitted = model.fit(items, TINY, CPU, seed=0)
    assert all(math.isfinite(value) for value in fitted.novelty(items))
    augmented = AutoencoderOptions(**TINY.model_dump() | {"flip": "both", "scale": 1.3})
    assert model.fit(items, augmented, CPU, seed=0).embed(items).shape == (8, 4)


@pytest.mark.parametrize(("count", "share"), [(1, 0.1), (1, 0.9), (3, 0.1), (5, 0.9)])
def test_a_few_images_are_enough_and_none_is_too_few(tmp_path: Path, count: int, share: float) -> None:
    options = AutoencoderOptions(**TINY.model_dump() | {"held_back": share})
    items = pictures(tmp_path, count)
    assert len(list(model.fit(items, options, CPU, seed=0).novelty(items))) == count
    train, held_back = model.split(items, share, 0)
    assert train
    assert sorted(item.key for item in train + held_back) == sorted(item.key for item in items)
    with pytest.raises(TrainingError, match="no image"):
        model.fit([], options, CPU, seed=0)


def test_a_killed_fit_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    items = pictures(tmp_path, 12)

    class Killed(Exception):  # noqa: N818 - it is no error
        pass

    def kill(progress: Progress) -> None:
        if progress.done == TINY.steps:
            raise Killed

    with pytest.raises(Killed):
        model.fit(items, TINY, CPU, seed=0, progress=kill, resume_from=tmp_path / "run")
    said: list[str] = []
    resumed = model.fit(
        items, TINY, CPU, seed=0, progress=lambda progress: said.append(progress.detail), resume_from=tmp_path / "run"
    )
    assert said == ["going on from a checkpoint"]
    assert list(resumed.novelty(items)) == list(model.fit(items, TINY, CPU, seed=0).novelty(items))


# ── pretraining ─────────────────────────────────────────────────────────────────────────────────────────────────────


def small_encoder() -> nn.Module:
    return nn.Sequential(ConvNormAct(3, 8, stride=2), ConvNormAct(8, 12, stride=2))


def encoders() -> list[Any]:
    torch.manual_seed(0)
    return [
        pytest.param(small_encoder(), 12, id="map"),
        pytest.param(PyramidDetector(2, 8, 1).encoder, 24, id="pyramid"),
    ]


@pytest.mark.parametrize(("encoder", "channels"), encoders())
def test_pretraining_changes_the_encoder_and_returns_all_of_it(
    encoder: nn.Module, channels: int, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    items = [picture(tmp_path, number, size=(40, 30)) for number in range(6)]
    made = [pretrain.pretrain(encoder, channels, items, TINY, CPU, image_size=32, seed=0) for _ in range(2)]
    assert made[0].keys() == before.keys()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])  # the one that was given stays as it is
        assert torch.equal(made[0][name], made[1][name])
        assert made[0][name].shape == tensor.shape
    weights = [name for name in before if name.endswith("weight") and before[name].ndim == 4]
    assert not any(torch.equal(made[0][name], before[name]) for name in weights)
    encoder.load_state_dict(made[0])


def test_pretrained_weights_are_kept_to_the_bit(tmp_path: Path) -> None:
    encoder, other = small_encoder(), small_encoder()
    pretrain.save(encoder.state_dict(), tmp_path / "new" / "encoder.safetensors")
    saving.restore_file(tmp_path / "new" / "encoder.safetensors", other)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name])


def test_a_vector_will_do_for_an_encoder() -> None:
    vae = VAE(nn.Flatten(), 12, 2, nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (3, 2, 2))), Gaussian())
    assert vae(torch.zeros(5, 3, 2, 2)).value().shape == (5,)
    maps = VAE(
        nn.Conv2d(3, 4, 1), 4 * GRID**2, 2, nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (3, 2, 2))), Gaussian()
    )
    assert maps.encode(torch.zeros(5, 3, 9, 7))[0].shape == (5, 2)


def test_an_encoder_that_takes_no_small_image_is_pretrained_on_larger_ones(tmp_path: Path) -> None:
    class Wide(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 4, 15), nn.MaxPool2d(2), nn.Conv2d(4, 4, 9))

    items = [picture(tmp_path, number, size=(40, 30)) for number in range(3)]
    assert pretrain.pretrain(Wide(), 4, items, TINY, CPU, image_size=16, seed=0).keys() == Wide().state_dict().keys()
    with pytest.raises(TrainingError, match="set pretrain: false"):
        pretrain.pretrain(nn.Conv2d(3, 4, 1000), 4, items, TINY, CPU, image_size=16, seed=0)


def test_pretraining_without_images_is_refused() -> None:
    with pytest.raises(TrainingError, match="no image"):
        pretrain.pretrain(nn.Conv2d(3, 4, 1), 4, [], TINY, CPU, image_size=32, seed=0)
