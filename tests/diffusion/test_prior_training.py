"""The training of a diffusion prior through `fit_prior` and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from apsgeo.cli import app
from apsgeo.diffusion.function_space import FunctionSpacePrior
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.distillation import sources
from apsgeo.distillation.distill import distill
from apsgeo.distillation.pairs import PairSet, simulate_pairs
from apsgeo.errors import InputError
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.io import write_netcdf
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.prior import FieldPrior, fit_prior
from tests.cases import numpy_seeded, rounding


def images(count: int = 40, seed: int = 0) -> xr.DataArray:
    rng = numpy_seeded(seed)
    values = rng.standard_normal((count, 6, 6)).cumsum(1).cumsum(2) ** 3
    return xr.DataArray(values.astype("float32"), dims=("sample", "y", "x"), name="t")


def fit(history: xr.DataArray, steps: int = 20, **options: Any) -> FieldPrior:
    settings: dict[str, Any] = {"scales": HybridScales(), "anchor_scales": HybridScales()}
    training = Training(steps, progress=False, **options)
    return fit_prior(history, **settings, rank=3, folds=2, training=training)


def weights(prior: FieldPrior, folder: Path) -> bytes:
    return (prior.save(folder) / "weights.safetensors").read_bytes()


@pytest.mark.same_bits
def test_a_killed_fit_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = images()
    kept: dict[str, Any] = {"checkpoint": tmp_path / "run", "log": tmp_path / "log.csv"}
    whole = fit(history)
    perturb, calls = DiffusionPrior.perturb, iter(range(20 + 9))  # the held-out cases, nine steps

    def until_killed(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return perturb(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionPrior, "perturb", until_killed)
        with pytest.raises(KeyboardInterrupt):
            fit(history, **kept)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 5  # after 0, 2, 4, 6, 8
    again = fit(history, **kept)
    assert weights(again, tmp_path / "again") == weights(whole, tmp_path / "whole")
    assert again.provenance == whole.provenance
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 11
    with pytest.raises(InputError, match="the checkpoint .* is of a run with data="):
        fit(images(seed=1), **kept)


def test_the_denoising_of_held_out_records_is_kept_with_the_prior(tmp_path: Path) -> None:
    prior = fit(images())
    table = prior.denoising
    np.testing.assert_allclose(table["noise_std"], prior.denoiser.noise_std)
    np.testing.assert_allclose(table["log_snr"], -2 * np.log(table["noise_std"]))
    assert bool((table["mse"] <= table["mse_anchor"] * (1 + rounding(4))).all())
    xr.testing.assert_identical(FieldPrior.load(prior.save(tmp_path / "prior")).denoising, table)
    with pytest.raises(InputError, match="no diffusion prior"):
        _ = fit(images(), steps=0).denoising


def test_the_command_trains_with_checkpoint_and_log(tmp_path: Path) -> None:
    file = write_netcdf(images(), tmp_path / "t.nc")
    arguments = ["fit", str(file), str(tmp_path / "prior"), "--rank", "3", "--skip", "none"]
    arguments += ["--size", "small", "--network", "function-space"]
    arguments += ["--steps", "20", "--patience", "2", "--checkpoint", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, "--log-file", str(tmp_path / "log.csv")])
    assert result.exit_code == 0, result.output
    prior = FieldPrior.load(tmp_path / "prior")
    assert prior.provenance["patience"] == 2
    assert prior.provenance["denoiser"]["size"] == "small"
    assert isinstance(prior.diffusion, FunctionSpacePrior)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0] == "step,loss,lr,skipped,validation,best"
    assert (tmp_path / "run" / "config.json").exists()
    other = CliRunner().invoke(
        app, [*arguments[:-4], "--patience", "3", *arguments[-2:], "--overwrite"]
    )
    assert other.exit_code == 2
    assert "--patience 2, this one has --patience 3" in " ".join(other.output.split())


def test_images_meet_many_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples have no season whose months would each bring masks of their own."""
    made: list[PairSet] = []

    def spy(*arguments: Any, **options: Any) -> PairSet:
        made.append(simulate_pairs(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(sources, "simulate_pairs", spy)
    spec = CouplingSpec(width=8, depth=1, context=4, local=2, patterns=0, coupling_width=4)
    distill(
        fit(images(), steps=0),
        Mask(),
        0.5,
        spec=spec,
        training=Training(steps=0, progress=False),
        rounds=1,
    )
    learned = made[0]
    assert len(learned.groups) >= len(learned) / 16
    held = made[-1]
    assert held.ways == len(Mask().held_out_densities)
    densest = held.groups[held.ways - 1 :: held.ways]
    assert len({tuple(group.mask.flatten().tolist()) for group in densest}) == 4
    # the last tenth of forty, one each
    assert sorted(int(time) for group in densest for time in group.times) == [0, 1, 2, 3]
