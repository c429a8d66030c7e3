"""A paper's or a misspelt name of a connection is answered with the name that configs use."""

import re
import traceback

import pytest

import hc_jax as hc
from hc_jax import config_files, connections, paper_names


@pytest.mark.parametrize(
  ("name", "answer"),
  [
    ("dhc", "; did you mean hc? If it is"),
    ("DHC×4", "; did you mean hc? If it is"),
    ("shc", "; did you mean hc (with dynamic=False)? If it is"),
    ("Hyper-Connections", "; did you mean hc? If it is"),
    ("AttnRes", "; did you mean attn_res? If it is"),
    ("mhc_lit", "; did you mean mhc_lite? If it is"),
    ("qqqqqq", "attn_res_delta. If it is"),
  ],
)
def test_an_unknown_name_is_answered(name, answer):
  with pytest.raises(hc.UserError, match=f"is unknown; choose one of .*{re.escape(answer)}"):
    connections.connection_class(name)


def test_every_answer_is_a_connection():
  names = {name.split(" ")[0] for name in paper_names._NAMES.values()}
  assert names <= set(connections.CONNECTIONS)


def test_every_answer_has_a_config():
  assert {paper_names.config_of(name) for name in paper_names._NAMES} <= set(config_files.names())


@pytest.mark.parametrize("find", [config_files.locate, config_files.locate_shipped])
@pytest.mark.parametrize(
  ("name", "answer"),
  [("DHC", "variants/dhc"), ("hyper_connections", "variants/dhc"), ("SHC", "variants/shc")],
)
def test_a_config_of_a_papers_name_is_answered(find, name, answer):
  with pytest.raises(hc.UserError, match=f"did you mean '{answer}'"):
    find(name)


@pytest.mark.parametrize(
  ("name", "answer"),
  [
    ("DHC", "it is hc_jax.HyperConnection$"),
    ("HyperConnections", "it is hc_jax.HyperConnection$"),
    ("SHC", r"it is hc_jax.HyperConnection \(with dynamic=False\)$"),
    ("AttnRes", "it is hc_jax.AttentionResiduals$"),
  ],
)
def test_an_attribute_of_a_papers_name_is_answered(name, answer):
  with pytest.raises(AttributeError, match=answer) as caught:
    getattr(hc, name)
  assert re.search(answer, "".join(traceback.format_exception_only(caught.value)).strip())
