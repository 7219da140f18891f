"""Diffusions on manifolds: exact scores give the law back, networks come near, files keep them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import apsgeo
from apsgeo.baselines.dps import DPS
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.riemannian.analytic import HeatMixture
from apsgeo.diffusion.riemannian.fit import start_riemannian, train_riemannian
from apsgeo.diffusion.riemannian.prior import RiemannianPrior
from apsgeo.distillation import sources
from apsgeo.distillation.sources import draws_of_prior
from apsgeo.domains import ImageDomain
from apsgeo.errors import InputError, ModelError
from apsgeo.field_prior import FieldPrior
from apsgeo.measurement.valued import fit_valued
from apsgeo.optim.training import Training
from apsgeo.values.brownian import Brownian
from apsgeo.values.catalogue import manifold_of
from apsgeo.values.manifold import Manifold
from apsgeo.values.quotient import Rotations
from apsgeo.values.sphere import Circle, Sphere
from apsgeo.values.values import Values
from tests.cases import noise, seed_weights, seeded
from tests.values.histories import around, labelled, waves

PAIR = ImageDomain(1, 2)
MANIFOLDS: list[Manifold] = [Circle(360.0), Sphere(2), Rotations(), manifold_of("torus")]
every = pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
SCALES = apsgeo.HybridScales(range_km=4000.0)
QUICK: dict[str, Any] = {
    "scales": SCALES,
    "anchor_scales": SCALES,
    "progress": False,
    "memory": False,
    "spec": apsgeo.RiemannianSpec(),
}


def mixture(manifold: Manifold) -> HeatMixture:
    """Two kernels on each of two nodes, which are more than a radian apart."""
    walk = Brownian(manifold)
    first = walk.uniform(torch.zeros(2, manifold.ambient).double(), seeded(0))
    frame = torch.cat([part.cover.frame(x)[..., 0] for part, x in _split(walk, first)], -1)
    centres = torch.stack([first, walk.exp(first, 1.2 * frame)])
    times, weights = torch.tensor([0.05, 0.3]), torch.tensor([0.4, 0.6])
    return HeatMixture(PAIR, manifold, centres, times, weights, least=1e-3)


def _split(walk: Brownian, points: Tensor) -> Any:
    return zip(walk.parts, walk.split(points), strict=True)


def drawn(law: HeatMixture, count: int, seed: int = 1) -> Tensor:
    """Draw fields (count, ambient, node) of a mixture, exactly."""
    generator, walk = seeded(seed), law.walk
    first = torch.rand(count, law.domain.num_nodes, 1, generator=generator) < law.weights[0]
    ends = [
        walk.draw(centre.expand(count, -1, -1).contiguous(), float(time), generator)
        for centre, time in zip(law.centres, law.variances, strict=True)
    ]
    return torch.where(first, ends[0], ends[1]).transpose(1, 2)


@every
def test_the_bound_of_exact_scores_is_the_density(manifold: Manifold) -> None:
    law = mixture(manifold)
    fields = drawn(law, 100)
    exact = law.log_prob(fields)
    bound = law.elbo(fields, generator=seeded(2), points=16)
    gap = exact - bound.value
    # Records have independent noise. The reconstruction leaves some least / variance a coordinate.
    error = float(gap.std()) / math.sqrt(len(gap))
    left = manifold.dim * 2 * law.least / 0.05
    assert -5.0 * error < float(gap.mean()) < 5.0 * error + left
    flow = law.ode_log_prob(fields[:3], steps=24)
    # Euler's step of the heat equation errs by the square of least / variance a coordinate; a walk
    # around a circle still knows exp(-10) of its start.
    torch.testing.assert_close(flow.value, exact[:3], rtol=0, atol=2e-3)


def test_signs_estimate_the_divergence() -> None:
    law = mixture(Sphere(2))
    fields = drawn(law, 2)
    found = law.ode_log_prob(fields, steps=24, probes=8, generator=seeded(3))
    gap = found.value - law.log_prob(fields)
    assert bool((gap.abs() < 5.0 * found.standard_error + 2e-3).all())
    assert float(found.standard_error.max()) < 1.0


@every
def test_exact_scores_draw_the_law(manifold: Manifold) -> None:
    law, count = mixture(manifold), 1000
    found = law.draw(count, steps=40, generator=seeded(4))
    expected = drawn(law, 20_000)
    for node in range(2):
        part = law.walk.parts[0]
        size = part.cover.ambient
        first = law.centres[0, node, :size]
        cosines = [(fields[:, :size, node] @ first).square() for fields in (found, expected)]
        if not isinstance(manifold, Rotations):
            cosines = [fields[:, :size, node] @ first for fields in (found, expected)]
        error = math.hypot(*(float(each.std()) / math.sqrt(len(each)) for each in cosines))
        # a fiftieth of a log-step's share of the spread is what ancestral steps are off
        assert abs(float(cosines[0].mean() - cosines[1].mean())) < 5.0 * error + 0.02


def test_on_a_circle_it_is_the_diffusion_of_numbers() -> None:
    """Where nothing reaches around: scores and steps of Gaussian mixtures, and their draws."""
    manifold, angle = Circle(), torch.tensor([[0.1, -0.2], [0.3, 0.1]]).double()
    centres = torch.stack([angle.cos(), angle.sin()], -1)
    times, weights = torch.tensor([2e-3, 5e-3]).double(), torch.tensor([0.3, 0.7]).double()
    law = HeatMixture(PAIR, manifold, centres, times, weights)
    x = (0.1 + 0.2 * noise(6, 2)).requires_grad_()
    away = (x[None] - angle[:, None]).square() / (times + 0.01)[:, None, None]
    each = weights.log()[:, None, None] - 0.5 * (away + (times + 0.01).log()[:, None, None])
    (slope,) = torch.autograd.grad(torch.logsumexp(each, 0).sum(), x)
    points = torch.stack([x.cos(), x.sin()], -1).detach()
    score = law.score(points, 0.01)
    along = (score * manifold.frame(points)[..., 0]).sum(-1)
    torch.testing.assert_close(along, slope, rtol=1e-9, atol=1e-9)


def common(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw directions (count, 2, 16) about a common one, which is anywhere, and their log p."""
    generator = seeded(seed)
    centre = 2.0 * math.pi * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    angle = centre + 0.3 * torch.randn(count, 16, generator=generator, dtype=torch.float64)
    walk = Brownian(Circle()).parts[0]
    fields = torch.stack([angle.cos(), angle.sin()], -1)
    turn = torch.arange(256, dtype=torch.float64) * (2.0 * math.pi / 256)
    turned = torch.stack([turn.cos(), turn.sin()], -1)[:, None, None]
    each = walk.log_density(turned, fields, 0.09).sum(-1)  # (turn, count)
    return fields.transpose(1, 2), torch.logsumexp(each, 0) - math.log(256)


@pytest.fixture(scope="module")
def trained() -> RiemannianPrior:
    fields, _ = common(400, 5)
    season = torch.zeros(len(fields), dtype=torch.long)
    normals = fit_valued(Values(Circle()), fields.float(), season, 1)
    prior = start_riemannian(ImageDomain(4, 4), normals, fields, season)
    training = Training(
        steps=90, batch=16, lr=4e-3, ema_decay=0.9, validate_every=90, progress=False
    )
    held = common(40, 6)[0]
    learned = prior.relative(fields, season)
    judged = prior.relative(held, torch.zeros(len(held)).long())
    log = train_riemannian(prior, learned, judged, training)
    assert all(row["mse"] <= row["mse_anchor"] * (1.0 + 1e-9) for row in log if "mse" in row)
    return prior.eval()


def test_training_brings_the_bound_nearer(trained: RiemannianPrior) -> None:
    fields, exact = common(60, 7)
    relative = trained.relative(fields, torch.zeros(60).long())
    with torch.no_grad():
        bound = trained.elbo(relative, generator=seeded(8))
        factors = trained.shrinkage.clone()
        trained.shrinkage.fill_(0.0)
        untrained = trained.elbo(relative, generator=seeded(8))
        trained.shrinkage.copy_(factors)
    gain, gap = bound.value - untrained.value, exact - bound.value  # gain: on the same noise
    assert float(gap.mean()) > -5.0 * float(gap.std()) / math.sqrt(len(gap))  # a bound is below
    # Independent nodes know nothing of the common direction; ninety steps find some of it.
    assert float(gain.mean()) > 5.0 * float(gain.std()) / math.sqrt(len(gain))
    assert float(gain.mean()) > 0.5


def test_untrained_nodes_are_on_their_own_exactly() -> None:
    generator = seeded(1)
    for manifold in (Sphere(2), manifold_of("axes")):
        walk = Brownian(manifold)
        centre = walk.uniform(torch.zeros(4, manifold.ambient).double(), generator)
        fields = walk.draw(centre.expand(60, -1, -1).contiguous(), 0.05, generator)
        season = torch.zeros(60, dtype=torch.long)
        values = Values(manifold, chart="tangent")
        domain = ImageDomain(2, 2)
        normals = fit_valued(values, fields.transpose(1, 2), season, 1)
        prior = start_riemannian(domain, normals, fields.transpose(1, 2), season)
        relative = prior.relative(fields.transpose(1, 2), season)
        bound = prior.elbo(relative, generator=generator).value.detach()
        (part,) = walk.parts
        origin = walk.origin.expand(60, 4, -1)
        log_density, _ = part.folded(origin, relative.transpose(1, 2), prior.variance[0])
        gap = log_density.sum(-1) + 4 * part.log_measure - bound
        error = float(gap.detach().std()) / math.sqrt(60)
        assert -5.0 * error < float(gap.mean()) < 5.0 * error + 0.1
        torch.testing.assert_close(prior.variance, prior.variance.clamp(0.02, 0.12))


def test_outputs_are_tangent_and_the_same_for_the_same_points() -> None:
    for manifold in (Sphere(2), manifold_of("axes"), Rotations("cubic"), manifold_of("torus")):
        walk, generator = Brownian(manifold), seeded(2)
        seed_weights(1)
        eye = torch.eye(manifold.ambient).double().expand(1, 16, -1, -1)
        variance = torch.full((len(walk.parts), 16), 0.2)
        prior = RiemannianPrior(ImageDomain(4, 4), manifold, eye, variance)
        for weight in prior.network.head.parameters():
            torch.nn.init.normal_(weight)
        points = walk.uniform(torch.zeros(2, 16, manifold.ambient).double(), generator)
        score = prior.eval().score(points, 0.3).detach()
        frames = prior._frames(points)
        along = torch.einsum("bnad,bna->bnd", frames, score)
        torch.testing.assert_close(torch.einsum("bnad,bnd->bna", frames, along), score)
        assert float(along.abs().mean()) > 0.1
        if len(walk.parts) == 1:
            image = walk.parts[0].images[-1]
            there = prior.score(points @ image.T, 0.3).detach()
            torch.testing.assert_close(there, score @ image.T, rtol=1e-4, atol=1e-4)


def histories(name: str) -> tuple[Any, Any]:
    if name == "angle":
        values = (350.0 + 30.0 * waves(1)[..., 0]) % 360.0
        return labelled(values, units="degree", standard_name="wind_from_direction"), None
    centre = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    if name == "unit vectors":
        return labelled(around(Sphere(2), centre, 0.4), "component", manifold="sphere"), None
    unit = Rotations().project(torch.tensor([1.0, 2.0, 0.5, 0.1], dtype=torch.float64))
    points = around(Rotations("cubic"), unit, 0.12)
    given = labelled(points, "component").assign_coords(component=list("wxyz"))
    return given, "rotations/cubic"


@pytest.mark.parametrize("name", ["angle", "quaternions"])
def test_it_goes_through_the_three_calls(name: str, tmp_path: Path) -> None:
    history, manifold = histories(name)
    prior = apsgeo.fit_prior(history, manifold=manifold, steps=3, batch=2, **QUICK)
    assert isinstance(prior.diffusion, RiemannianPrior)
    assert len(prior.denoising["mse"]) == len(prior.diffusion.shrinkage)
    prior.diffusion.shrinkage.fill_(0.5)
    again = FieldPrior.load(prior.save(tmp_path / "prior"))
    assert isinstance(again.diffusion, RiemannianPrior)
    season = torch.zeros(3, dtype=torch.long)
    fields = prior.diffusion.sample(season, seeded(1), steps=3)
    assert float(prior.diffusion.manifold.off(fields.transpose(1, 2)).max()) < 1e-5
    repeated = again.diffusion.sample(season, seeded(1), steps=3)
    torch.testing.assert_close(repeated, fields, rtol=0, atol=1e-5)
    anomalies = draws_of_prior(prior, "diffusion", season, seeded(2))
    assert anomalies.shape == (3, prior.normals.channels, prior.domain.num_nodes)
    with pytest.raises(InputError, match="walks among numbers"):
        DPS.of(prior)
    with pytest.raises(ModelError, match="no Gaussian anchor"):
        RiemannianPrior.from_state({}, {}, prior.domain, prior.gaussian.annual)


def test_its_draws_teach_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    history, manifold = histories("angle")
    prior = apsgeo.fit_prior(history, manifold=manifold, steps=1, batch=2, **QUICK)
    monkeypatch.setattr(sources, "_PRIOR_DRAWS", 12)
    posterior = apsgeo.distill(
        prior, apsgeo.Mask(), noise_std=5.0, teacher="diffusion", rounds=1, steps=1, progress=False
    )
    gappy = history[:1].where(history[:1].lat > 0)
    members = apsgeo.impute(gappy, posterior, members=2)
    assert members.sizes["member"] == 2
    assert float(members.min()) >= 0.0


def test_bounds_of_anomalies_have_gradients() -> None:
    history, manifold = histories("unit vectors")
    prior = apsgeo.fit_prior(history, manifold=manifold, steps=1, batch=2, **QUICK)
    assert prior.diffusion is not None
    fields = prior.encode(history[:2]).double().requires_grad_()
    season = torch.zeros(2, dtype=torch.long)

    def bound(fields: Tensor) -> Tensor:
        assert prior.diffusion is not None
        return prior.diffusion.log_density(
            prior.normals, fields, season, generator=seeded(3), points=4
        )

    (slope,) = torch.autograd.grad(bound(fields).sum(), fields)
    step = 1e-5 * noise(*fields.shape)
    change = (bound(fields.detach() + step) - bound(fields.detach() - step)).sum() / 2.0
    assert float(change.detach()) == pytest.approx(float((slope * step).sum()), rel=1e-3)


def test_on_numbers_it_is_the_diffusion_of_numbers() -> None:
    history = labelled(waves(1)[..., 0])
    options = QUICK | {"steps": 2, "batch": 2}
    own = apsgeo.fit_prior(history, manifold="euclidean", **options)
    plain = apsgeo.fit_prior(history, **options | {"spec": None})
    assert isinstance(own.diffusion, DiffusionPrior)
    assert isinstance(plain.diffusion, DiffusionPrior)
    for name, value in plain.diffusion.state_dict().items():
        torch.testing.assert_close(own.diffusion.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_what_has_no_heat_kernel_is_told_at_once() -> None:
    spec = apsgeo.RiemannianSpec()
    with pytest.raises(InputError, match="no Brownian motion"):
        spec.on(Values(manifold_of("hyperbolic")))
    with pytest.raises(InputError, match="leave them out"):
        spec.on(Values(Circle(), chart="projected"))
    with pytest.raises(InputError, match="give one of tiny"):
        apsgeo.RiemannianSpec("giant")  # type: ignore[arg-type]
    law = mixture(Sphere(2))
    with pytest.raises(InputError, match="expected \\(batch, ambient, node\\)"):
        law.elbo(torch.zeros(2, 2, 2))
    with pytest.raises(InputError, match="at least 2"):
        law.ode_log_prob(torch.zeros(1, 3, 2), probes=1)
