# %% [markdown]
# # Fill the gaps of real fields
#
# Monthly air temperature of 2014 (NCEP/NCAR), of which we hide all but one cell in twenty. The
# shipped model returns an ensemble of complete fields. `docs/tutorial/notebook.py` made this
# notebook of `docs/tutorial/tutorial.py`.

# %%
import numpy as np

import apsgeo
from apsgeo.statistics import AreaMean, Box

air = apsgeo.datasets.load("ncep-air").sel(time=slice("2014-01", "2014-06")).load()
rng = np.random.default_rng(0)
noisy = air + 0.25 * rng.standard_normal(air.shape)
obs = noisy.where(rng.random(air.shape) < 0.05).astype("f4")
print(f"{float(obs.notnull().mean()):.1%} of the cells are observed, with noise of 0.25 K")

# %% [markdown]
# ## An ensemble
#
# It is lazy; `.compute()` draws it.

# %%
model = apsgeo.load("ncep-air")
ensemble = apsgeo.impute(obs, model, members=24, noise_std=0.25).compute()
print(model)
print(dict(ensemble.sizes))

# %%
ensemble.aps.plot(obs)

# %% [markdown]
# ## How good is it?
#
# The truth is known here, so we can look: the error of the mean is as large as the spread says.

# %%
print(apsgeo.score_ensemble(ensemble, air, obs, progress=False))

# %%
ensemble.aps.rank_histogram(air, obs)

# %% [markdown]
# ## Means of regions
#
# No members need be kept for statistics.

# %%
regions = {"globe": Box(-90, 90), "Europe": Box(35, 70, -10, 40)}
summary = apsgeo.impute(
    obs, model, members=64, noise_std=0.25, statistics=["mean", "q05", "q95", AreaMean(regions)]
).compute()
print(
    summary["air_area_mean_interval"]
    .sel(region="Europe")
    .transpose("time", "bound")
    .values.round(2)
)

# %%
summary.aps.plume()

# %% [markdown]
# ## Keep it
#
# `apsgeo.write_ensemble(summary, "filled.zarr")` writes it, block by block. In the shell:
# `apsgeo impute gappy.nc ncep-air filled.zarr --members 64 --statistics mean,q05,q95,area`.
