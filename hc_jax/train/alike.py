"""Whether the processes of a run belong together: one config, one text, one workdir."""

import json
from typing import Any

from hc_jax import config as config_lib
from hc_jax.errors import UserError
from hc_jax.processes import cluster
from hc_jax.runs import workdir


def check_alike(config: Any, text: Any, folder: str) -> None:
  """Refuses processes that do not belong together; all of them must come here.

  Args:
    config: of the run.
    text: its prepared data.
    folder: its workdir.

  Raises:
    UserError: another config, other data, another workdir, or what one process alone can do.
  """
  if cluster.count() == 1:
    return
  configs = [json.loads(c) for c in cluster.gather(json.dumps(config_lib.to_json(config)))]
  for other, found in enumerate(configs):
    if keys := config_lib.diff(configs[0], found):
      raise UserError(
        f"process {other} has another {' and '.join(keys)} than process 0; start all of them with "
        "the same --config and overrides"
      )
  texts = cluster.gather(f"{text.fingerprint}, {len(text.train)} tokens")
  for other, found in enumerate(texts):
    if found != texts[0]:
      raise UserError(
        f"process {other} has other text than process 0 (fingerprints {found} and {texts[0]}); "
        "give every host the same files, tokenizer and packages"
      )
  workdir.check_shared(folder)
  if config.train.debug_nans:
    raise UserError("train.debug_nans=true looks for a NaN in one process; it needs a run of one")
