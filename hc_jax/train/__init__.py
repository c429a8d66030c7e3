"""Training: one loop, exact resume, and what is needed to open a run again."""

from hc_jax.plan.planning import make_plan as make_plan
from hc_jax.plan.table import plan_lines as plan_lines
from hc_jax.runs.errors import NonFiniteError as NonFiniteError
from hc_jax.runs.errors import OutOfMemoryError as OutOfMemoryError
from hc_jax.runs.errors import Stopped as Stopped
from hc_jax.runs.errors import StorageError as StorageError
from hc_jax.runs.metrics import read_metrics as read_metrics
from hc_jax.step.optim import make_optimizer as make_optimizer
from hc_jax.step.optim import make_schedule as make_schedule
from hc_jax.step.state import TrainState as TrainState
from hc_jax.step.state import abstract_state as abstract_state
from hc_jax.step.state import create_state as create_state
from hc_jax.step.step import eval_step as eval_step
from hc_jax.step.step import train_step as train_step
from hc_jax.train.evaluation import Evaluation as Evaluation
from hc_jax.train.evaluation import evaluate_run as evaluate_run
from hc_jax.train.fork import Fork as Fork
from hc_jax.train.fork import parse_fork as parse_fork
from hc_jax.train.loop import train_and_evaluate as train_and_evaluate
from hc_jax.train.run import Run as Run
from hc_jax.train.run import load_run as load_run
from hc_jax.train.run_text import run_tokens as run_tokens
