"""A flow on the coefficients of the prior's patterns, for posteriors with several modes.

The leading coefficient goes first, through a spline that can split a mode. The others, and the part
that no pattern describes, follow by affine maps that depend on it: within a regime a field is about
Gaussian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from apsgeo.errors import InputError
from apsgeo.flows.attention import ObservationEncoder
from apsgeo.flows.elementwise import Affine, Spline
from apsgeo.flows.flow import Conditioning, Flow, log_share
from apsgeo.flows.start import Known, Start
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.regimes import LowRankMixturePrior
from apsgeo.gaussian.seasonal import SeasonalPrior

__all__ = ["SpectralConditioning", "SpectralFlow"]

_TOKEN_PATTERNS = 64  # patterns that tell an observation's place
_POOLED = 32
_STEPS = 8  # soft steps by which networks tell the leading coefficient's regimes
_REPRESENTER = 0.3
_LEAST_SIZE = 1e-6  # least size of a pattern, as a share of the first's
_KNOWN_PATTERNS = 8  # patterns that known fields are projected on
_LEAST_VARIANCE = 1e-6
_LEAST_LOG_WEIGHT = -15.0


@dataclass(frozen=True)
class SpectralConditioning(Conditioning):
    """The part of a batch of measurements that the maps of patterns see.

    Attributes:
        leading_std: Standard deviation (batch,) of the leading coefficient under the base.
        spline: Raw parameters (batch, parameter) of the leading coefficient's spline.
        shifts: Candidate shifts (batch, candidate, pattern) of the coefficients.
        summary: Summary (batch, feature) of the measurement.
    """

    leading_std: Tensor
    spline: Tensor
    shifts: Tensor
    summary: Tensor
    free: ClassVar[tuple[str, ...]] = ("mean", "spline", "shifts", "summary")

    def with_leading_held(self) -> SpectralConditioning:
        """Return the conditioning without gradients to the map of the leading coefficient."""
        return self.replaced(spline=self.spline.detach())


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _mlp(inputs: int, width: int, *last: nn.Module) -> nn.Sequential:
    hidden = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*hidden, *last)


class SpectralFlow(Flow):
    r"""A flow x = mean + T(deviation; y), with T on the coefficients a = W (deviation) of patterns.

    W whitens the prior's leading patterns. In the order of sampling, a spline s(.; y) maps the
    leading coefficient; shift + slope a maps every other one; and the rest of the field is
    multiplied by a slope. Shifts and slopes depend on the new leading coefficient and on y. A shift
    is a sum of candidates, which are computed once a field, weighted by gates for each member. The
    candidates are the base's mean, and representers sum_i f_i(y) C(., x_i) at the observed nodes
    x_i, the form that the difference of any two interpolations by such a prior has.

    It starts as the identity on its base, the exact posterior of a Gaussian prior. Everything that
    depends on y is evaluated once a field, in `condition`.

    Args:
        prior: Prior whose posterior is the base; its leading annual loadings are the patterns.
        patterns: Number of patterns, at most that of the loadings.
        regimes: Mixture fitted to fields. The networks see its posterior: the weights, and the
            components' means, which join the candidates.
        candidates: Number of representers among the candidate shifts.
        width: Width of the networks.
        bins: Number of bins of the spline.
        known: Fields that the networks see beside the measurement, if any.

    Raises:
        InputError: If there are fewer than two patterns.
    """

    whiten: Tensor
    sizes: Tensor

    def __init__(
        self,
        prior: GaussianPrior | SeasonalPrior,
        patterns: int,
        *,
        regimes: LowRankMixturePrior | None = None,
        candidates: int = 6,
        width: int = 160,
        bins: int = 16,
        known: Known | None = None,
    ) -> None:
        super().__init__(prior, known)
        loadings = (prior.annual if isinstance(prior, SeasonalPrior) else prior).loadings
        flat = loadings[..., :patterns].double().flatten(0, 1)
        basis, sizes, _ = torch.linalg.svd(flat, full_matrices=False)
        kept = sizes > _LEAST_SIZE * sizes[0]
        basis, sizes = basis[:, kept], sizes[kept]
        self.channels, patterns = len(loadings), len(sizes)
        if patterns < 2:
            raise InputError(
                f"a spectral flow on {patterns} patterns; it needs two, and a prior with as many."
            )
        # Saved with the weights, which mean these patterns, to the sign.
        self.register_buffer("whiten", (basis / sizes).T.float().contiguous())
        self.register_buffer("sizes", sizes.float())
        self.representers, self.regimes = candidates, regimes
        self.maps, self._affine = Spline(bins, bound=4.0), Affine()
        kinds = 0 if regimes is None else len(regimes.components)
        rest, inputs = patterns - 1, min(patterns, _TOKEN_PATTERNS) + 6
        pooled = 2 * (_POOLED + candidates) + 2 * patterns + 2 + kinds
        covariates = 0 if known is None else known.count
        pooled += covariates // self.channels * min(patterns, _KNOWN_PATTERNS)
        self.candidates = candidates + kinds + 1
        self.leading_encoder = ObservationEncoder(inputs, candidates + _POOLED)
        self.encoder = ObservationEncoder(inputs, candidates + _POOLED)
        self.leading_head = _mlp(pooled, width, _zero(nn.Linear(width, self.maps.count)))
        self.summarize = _mlp(pooled, width)
        outputs = rest * (self.candidates + 2) + 1
        self.follow = _mlp(width + 1 + _STEPS, width, _zero(nn.Linear(width, outputs)))

    @property
    def functionals(self) -> Tensor:
        """The whitened patterns (pattern, channel * node)."""
        return self.whiten

    @property
    def colour(self) -> Tensor:
        """The patterns (pattern, channel * node), each times its standard deviation."""
        return self.whiten * self.sizes[:, None] ** 2

    def _basis(self, count: int) -> Tensor:
        """Return the first patterns, of unit mean square over channels and nodes."""
        scale = math.sqrt(self.whiten.shape[1]) * self.sizes[:count, None]
        return self.whiten[:count] * scale

    def _known(self, covariates: Tensor | None) -> list[Tensor]:
        """Return the known fields' coefficients on some patterns, (batch, feature)."""
        if covariates is None:
            return []
        fields = covariates.unflatten(1, (-1, self.channels)).flatten(2)
        basis = self._basis(_KNOWN_PATTERNS)
        return [(fields @ basis.T / basis.shape[1]).flatten(1)]

    def _tokens(self, start: Start) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens (batch, observation, feature), which of them are seen, and their places."""
        measured = start.measurement
        if not measured.operator.is_identity:
            raise InputError("a spectral flow is for measurements of nodes, such as Mask().")
        mask = measured.mask.flatten(1)
        most = max(1, int(mask.sum(1).max()))
        where = mask.to(torch.float32).topk(most, dim=1).indices
        seen = mask.gather(1, where)

        def at(field: Tensor) -> Tensor:
            return field.flatten(1).gather(1, where) * seen

        values, mean, noise = at(measured.values), at(start.mean), at(measured.noise_std)
        innovation = values - mean
        weight = innovation / torch.where(seen, noise, 1.0)
        numbers = [values, 3.0 * innovation, weight, mean, torch.tanh(2.0 * weight), noise]
        places = self._basis(_TOKEN_PATTERNS).T[where] / 3.0
        return torch.cat([places, torch.stack(numbers, -1)], -1), seen, where

    def condition(self, start: Start, *, leading_only: bool = False) -> SpectralConditioning:
        """Evaluate the networks of the measurement, once for each field.

        Args:
            start: Measurements, and moments of the base given them.
            leading_only: Leave out all that `leading_log_prob` does not need; the summary is empty.

        Raises:
            InputError: If the measurement is not of nodes.
        """
        tokens, seen, where = self._tokens(start)
        measured, mean = start.measurement, start.mean
        share = log_share(measured).to(mean)
        variance = start.functional_variance(self.whiten)
        variance = variance.clamp(min=_LEAST_VARIANCE).to(mean)
        coefficients = mean.flatten(1) @ self.whiten.T
        count = measured.mask.flatten(1).sum(1, keepdim=True).to(mean)
        known = [coefficients, variance.log(), count.clamp(min=1.0).log(), count / 40.0]
        known += self._known(self.covariates(measured))
        means = [coefficients[:, None]]
        if self.regimes is not None:
            found = self.regimes.posterior(measured)
            known.append(found.log_weights.clamp(min=_LEAST_LOG_WEIGHT).to(mean))
            components = found.component_means.transpose(0, 1).to(mean)
            means.insert(0, components.flatten(2) @ self.whiten.T - coefficients[:, None])
        _, pooled = self.leading_encoder(tokens, seen)
        spline = self.leading_head(torch.cat([pooled, *known], 1))
        std = variance[:, 0].sqrt()
        if leading_only:
            empty = mean.new_empty(len(mean), 0)
            return SpectralConditioning(mean, share, std, spline, torch.cat(means, 1), empty)
        features, pooled = self.encoder(tokens, seen)
        # C W^T at the observed nodes, up to what no pattern describes.
        nearby = self.colour.T[where]
        near = torch.einsum("bmj,bmk->bjk", features[..., : self.representers], nearby)
        shifts = torch.cat([_REPRESENTER * near, *means], 1)
        summary = self.summarize(torch.cat([pooled, *known], 1))
        return SpectralConditioning(mean, share, std, spline, shifts, summary)

    def leading_log_prob(self, fields: Tensor, conditioning: SpectralConditioning) -> Tensor:
        """Return log q (batch,) of the leading coefficient alone of fields (batch, channel, node).

        This first factor of the chain rule decides how much mass each regime has.
        """
        target = (fields - conditioning.mean).flatten(1) @ self.whiten[0] / conditioning.leading_std
        start, log_slope = self.maps.inverse(target, conditioning.spline)
        log_spread = self._log_spread(conditioning)[:, 0, 0]
        normal = start * (-log_spread).exp()
        log_normal = -0.5 * (normal**2 + math.log(2.0 * math.pi))
        return log_normal - log_spread - log_slope - conditioning.leading_std.log()

    def _following(
        self, leading: Tensor, conditioning: SpectralConditioning
    ) -> tuple[Tensor, Tensor]:
        """Return raw maps (member, batch, pattern - 1, 2), and the log factor of the rest."""
        steps = torch.linspace(-1.5, 1.5, _STEPS, device=leading.device)
        soft = torch.tanh(3.0 * (leading[..., None] - steps))
        absolute = leading[..., None]
        summary = conditioning.summary.expand(*leading.shape, -1)
        out = self.follow(torch.cat([summary, absolute, soft], -1))
        each, left = out[..., :-1].unflatten(-1, (self.candidates + 2, -1)), out[..., -1]
        gated = (each[..., 2:, :] * conditioning.shifts[..., 1:]).sum(-2)
        return torch.stack([each[..., 0, :] + gated, each[..., 1, :]], -1), left

    def _parts(self, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Split deviations into coefficients and the rest of the flattened field."""
        flat = deviation.flatten(-2)
        coefficients = flat @ self.whiten.T
        return coefficients, flat - coefficients @ self.colour

    def _log_det(self, *parts: Tensor) -> Tensor:
        first, others, left = parts
        size, patterns = self.whiten.shape[1], len(self.whiten)
        return first + others.sum(-1) + (size - patterns) * left

    def _push(self, deviation: Tensor, conditioning: SpectralConditioning) -> tuple[Tensor, Tensor]:
        coefficients, left = self._parts(deviation)
        start = coefficients[..., 0] / conditioning.leading_std
        mapped, first = self.maps.forward(start, conditioning.spline)
        leading = conditioning.leading_std * mapped
        raw, log_left = self._following(self._absolute(leading, conditioning), conditioning)
        others, scales = self._affine.forward(coefficients[..., 1:], raw)
        new = torch.cat([leading[..., None], others], -1)
        flat = new @ self.colour + log_left.exp()[..., None] * left
        fields = conditioning.mean + flat.unflatten(-1, deviation.shape[-2:])
        return fields, self._log_det(first, scales, log_left)

    def _pull(self, fields: Tensor, conditioning: SpectralConditioning) -> tuple[Tensor, Tensor]:
        coefficients, left = self._parts(fields - conditioning.mean)
        leading = coefficients[..., 0]
        raw, log_left = self._following(self._absolute(leading, conditioning), conditioning)
        start, first = self.maps.inverse(leading / conditioning.leading_std, conditioning.spline)
        others, scales = self._affine.inverse(coefficients[..., 1:], raw)
        old = torch.cat([(conditioning.leading_std * start)[..., None], others], -1)
        flat = old @ self.colour + (-log_left).exp()[..., None] * left
        return flat.unflatten(-1, fields.shape[-2:]), self._log_det(first, scales, log_left)

    @staticmethod
    def _absolute(leading: Tensor, conditioning: SpectralConditioning) -> Tensor:
        """Return the leading coefficient of the field itself, not of its deviation."""
        return leading + conditioning.shifts[:, -1, 0]
