"""Transformers that work with any connection."""

from hc_jax.models.attention import Attention as Attention
from hc_jax.models.blocks import Block as Block
from hc_jax.models.blocks import ParallelBlock as ParallelBlock
from hc_jax.models.blocks import WholeBlock as WholeBlock
from hc_jax.models.diagram import diagram_lines as diagram_lines
from hc_jax.models.layer import TransformerLayer as TransformerLayer
from hc_jax.models.layers import FeedForward as FeedForward
from hc_jax.models.layers import Norm as Norm
from hc_jax.models.layers import TokenContext as TokenContext
from hc_jax.models.lm import TransformerLM as TransformerLM
from hc_jax.models.make import make_model as make_model
from hc_jax.models.stack import Segment as Segment
from hc_jax.models.stack import SegmentedStack as SegmentedStack
from hc_jax.models.stack import Stack as Stack
from hc_jax.models.stack import stack_layers as stack_layers
from hc_jax.models.stack import unstack_layers as unstack_layers
