"""Several processes train as one: with gloo on the CPU, as `torchrun` would with CUDA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import apsgeo
from apsgeo.diffusion.fit import train_diffusion
from apsgeo.diffusion.prior import COND_DIM, DiffusionPrior
from apsgeo.domains import ImageDomain
from apsgeo.io import load_folder, write_netcdf
from apsgeo.nn.unet import UNet
from apsgeo.optim import distributed
from apsgeo.optim.distributed import average_gradients, share_of
from apsgeo.optim.training import Training
from tests.cases import numpy_seeded, seed_weights, seeded

# What each of the processes does; `torchrun` gives it its number in the environment.
WORKER = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from apsgeo.errors import InputError
from apsgeo.optim.distributed import data_parallel, is_first, share_of
from apsgeo.cli import app
from tests.optim.test_distributed import FIT, gradients, trained

torch.set_num_threads(1)
with data_parallel():
    first, mean = gradients()
    state, history = trained(Path(sys.argv[1]) / "run")
    try:
        share_of(7)
    except InputError as error:
        refused = str(error)
    found = {"gradients": [g.tolist() for g in first], "loss": float(mean), "refused": refused}
    found["state"] = {name: t.double().tolist() for name, t in state.items()}
    found["scores"] = [record["validation"] for record in history if "validation" in record]
    app(["fit", "t.nc", "prior", *FIT], standalone_mode=False)
    Path(sys.argv[1], f"{dist.get_rank()}.json").write_text(json.dumps(found))
"""
DOMAIN = ImageDomain(6, 6)
BATCH = 8
FIT = ["--steps", "2", "--rank", "3", "--skip", "none", "--log-file", "log.csv"]


def network() -> nn.Module:
    seed_weights(0)
    return UNet(DOMAIN, 1, 1, width=8, depth=1, cond_dim=COND_DIM, zero_init=False)


def gradients() -> tuple[list[Tensor], Tensor]:
    """The gradients of one batch, of which each process has its share."""
    module = network()
    generator = seeded(3)
    x = torch.randn(BATCH, 1, 36, generator=generator)[share_of(BATCH)]
    loss = (module(x, x[:, 0, :1].expand(-1, COND_DIM)) - x).pow(2).mean()
    loss.backward()
    mean = average_gradients(module.parameters(), loss.detach())
    return [p.grad for p in module.parameters() if p.grad is not None], mean


def trained(folder: Path) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    prior = DiffusionPrior(DOMAIN, 1, network(), levels=4)
    fields = torch.randn(40, 1, 36, generator=seeded(1)) ** 3 / 4
    history = train_diffusion(
        prior,
        fields[:30],
        fields[30:],
        Training(
            steps=6,
            batch=BATCH,
            ema_decay=0.5,
            validate_every=2,
            progress=False,
            checkpoint=folder / "checkpoint",
            log=folder / "log.csv",
        ),
    )
    return prior.state_dict(), history


def test_two_processes_make_the_gradients_and_the_training_of_one(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    rng = numpy_seeded(0)
    values = rng.standard_normal((24, 6, 6)).cumsum(1).astype("float32")
    write_netcdf(xr.DataArray(values, dims=("sample", "y", "x"), name="t"), tmp_path / "t.nc")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(worker), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(apsgeo.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]  # bit for bit, so that they never drift apart
    assert "a batch of 7 was given to 2 processes" in found[0]["refused"]

    alone, loss = gradients()
    assert found[0]["loss"] == pytest.approx(float(loss), rel=1e-5)
    # Both sum the same products of eight records and 36 nodes, in another order.
    rounding = 8 * 36 * torch.finfo(torch.float32).eps * float(max(g.abs().max() for g in alone))
    for together, gradient in zip(found[0]["gradients"], alone, strict=True):
        assert float((torch.tensor(together) - gradient).abs().max()) < rounding
    # Weights whose gradient is nothing but rounding may drift; what the network does may not.
    history = trained(tmp_path / "alone")[1]
    scores = [record["validation"] for record in history if "validation" in record]
    assert found[0]["scores"] == pytest.approx(scores, rel=1e-4)
    assert abs(scores[-1] - scores[0]) > 1e-2 * scores[0]
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 5  # head, 0, 2, 4, 6
    _, tensors = load_folder(tmp_path / "run" / "checkpoint", "checkpoint")
    assert tensors["run/counts"].tolist() == [6, 0, 0, 6]
    prior = apsgeo.load(tmp_path / "prior")  # of the command
    assert prior.denoising.sizes["level"] == 20  # type: ignore[union-attr]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4


def test_one_process_has_the_whole_batch() -> None:
    assert share_of(7) == slice(0, 7)
    assert distributed.is_first()
    assert distributed.agreed(0.5, torch.zeros(())) == 0.5
    with distributed.data_parallel():  # without torchrun nothing is begun
        assert not torch.distributed.is_initialized()
