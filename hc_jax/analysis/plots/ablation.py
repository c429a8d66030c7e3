"""Figure of the stream ablation."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from hc_jax.analysis.plots.style import POSITIVE, ink, short, site_ticks, subplots

FLOOR = 1e-4  # nats per token; the scale is logarithmic
MAX_NUMBERS = 24  # sites whose numbers can still be read


def stream_ablation(names: Sequence[str], kl: np.ndarray, title: str = "") -> Figure:
  """Draws the KL to the clean output, a row for each stream and a column for each site.

  Args:
    names: names of the K sites.
    kl: `[K, n]` nats per token, from `ablate_streams`; NaN cells stay empty.
    title: title above the figure.
  """
  sites, streams = kl.shape
  width = max(6.0, 1.6 + 0.5 * min(sites, MAX_NUMBERS))
  fig, ax = subplots(figsize=(width, 2.2 + 0.45 * streams))
  known = kl[np.isfinite(kl)]
  top = max(float(known.max(initial=0.0)), 10 * FLOOR)
  norm = LogNorm(vmin=max(FLOOR, min(top / 10, float(known.min(initial=top)))), vmax=top, clip=True)
  image = ax.imshow(np.maximum(kl.T, FLOOR), cmap=POSITIVE, norm=norm, aspect="auto")
  if sites <= MAX_NUMBERS:
    for k, stream in np.argwhere(np.isfinite(kl)):
      value = kl[k, stream]
      color = ink(image.to_rgba(max(value, FLOOR)))
      text = "0" if value < FLOOR else f"{value:.2g}"
      ax.text(k, stream, text, ha="center", va="center", fontsize=7, color=color)
  ax.set(yticks=range(streams), ylabel="stream", xlabel="zeroed before site: block and branch")
  ax.set_title(title, fontsize=10)
  site_ticks(ax, [short(name) for name in names])
  ax.set_xlim(-0.5, sites - 0.5)
  bar = fig.colorbar(image, ax=ax, pad=0.02)
  bar.set_label("KL (nats per token)")
  bar.ax.yaxis.set_major_formatter("{x:g}")
  few = norm.vmax < 20 * norm.vmin  # powers of ten alone would give one mark, or none
  bar.ax.yaxis.set_minor_formatter("{x:.2g}" if few else "")
  bar.ax.tick_params(which="minor", labelsize=7)
  return fig
