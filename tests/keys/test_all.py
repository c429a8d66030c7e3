"""Every key of a config has a test: a new key without a row fails here."""

from configs import base
from hc_jax.connections import CONNECTIONS, connection_fields
from tests.keys import test_data, test_model, test_optim, test_run


def keys_of(node, prefix=""):
  for key, value in node.items():
    yield from keys_of(value, f"{prefix}{key}.") if hasattr(value, "items") else [prefix + key]


def test_every_key_has_a_row_and_every_row_a_key():
  tables = {
    "model.": test_model.MODEL,
    "model.connection.": test_model.CONNECTION | test_model.REFUSED,
    "data.": test_data.DATA | test_data.REFUSED,
    "optim.": test_optim.OPTIM,
    "mesh.": {"preset": None, **test_run.MESH},
    "": test_run.RUN,
  }
  rows = [prefix + key for prefix, table in tables.items() for key in table]
  assert len(rows) == len(set(rows))
  # Only our own variants, since other tests register variants with further keys.
  ours = [cls for cls in CONNECTIONS.values() if cls.__module__.startswith("hc_jax.")]
  fields = {"name"}.union(*map(connection_fields, ours))
  config = base.get_config().to_dict()
  config["model"]["connection"] = dict.fromkeys(fields & set(config["model"]["connection"]))
  assert sorted(rows) == sorted(keys_of(config))
