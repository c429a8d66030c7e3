"""The state of a run between two steps, created with every array already sharded."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh

from hc_jax import axes, sharding
from hc_jax.errors import UserError
from hc_jax.fields import LARGEST_SEED, Field

PyTree = Any
Init = Callable[[jax.Array], Any]  # of a key


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes, and the run's random key, which stays constant.

  Attributes:
    step: number of optimizer steps taken so far, int32 scalar.
    params: float32 parameters, without partitioning metadata.
    opt_state: state of the optimizer.
    rng: uint32 key data of the run's seed, constant. Step s draws from `fold_in(rng, s)`.
    collections: variables that change without being trained, by collection; mostly none.
  """

  step: jax.Array
  params: PyTree
  opt_state: PyTree
  rng: jax.Array
  collections: PyTree = flax.struct.field(default_factory=dict)

  @property
  def variables(self) -> dict[str, PyTree]:
    """All variables of the model: "params" and the other collections."""
    return {"params": self.params, **self.collections}


def abstract_state(
  init: Init,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh | AbstractMesh,
  preset: str = "dp",
) -> TrainState:
  """Returns the state as `jax.ShapeDtypeStruct`s with shardings, to restore a checkpoint into.

  Args:
    init: `key -> variables`, whose leaves may carry logical axis names.
    optimizer: an optimizer of optax. State in the shape of a parameter is sharded like the
      parameter; the rest is replicated.
    mesh: a mesh of `hc_jax.sharding.make_mesh`, or an `AbstractMesh` for shapes alone.
    preset: name of the sharding rules.

  Raises:
    UserError: if a parameter does not divide over the mesh, or `init` makes no "params".
  """
  boxed = dict(jax.eval_shape(init, jax.random.key(0)))
  if "params" not in boxed:
    raise UserError(f"init makes {', '.join(boxed) or 'nothing'}; it must make 'params'")
  shardings = {name: sharding.param_shardings(tree, mesh, preset) for name, tree in boxed.items()}
  variables = axes.unboxed(boxed)
  whole = sharding.replicated(mesh)

  def place(leaf: Any, param: Any = None, where: Any = whole) -> Any:
    if isinstance(leaf, optax.MaskedNode):  # a parameter of another group
      return leaf
    same = param is not None and leaf.shape == param.shape
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where if same else whole)

  params = variables["params"]
  opt_state = optax.tree.map_params(
    optimizer,
    place,
    jax.eval_shape(optimizer.init, params),
    params,
    shardings["params"],
    transform_non_params=place,
    is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
  )
  placed = jax.tree.map(place, variables, variables, shardings)
  return TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    params=placed.pop("params"),
    opt_state=opt_state,
    rng=place(jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))),
    collections=placed,
  )


SEED = Field(
  name="seed",
  kind=int,
  default=0,
  least=0,
  most=LARGEST_SEED,
  meaning="of initial parameters, dropout and the order of the data",
)


def create_state(
  init: Init,
  optimizer: optax.GradientTransformation,
  seed: int,
  *,
  mesh: Mesh,
  preset: str = "dp",
) -> TrainState:
  """Returns the state before the first step, with each shard made on the device that holds it.

  The numbers depend on the seed alone, not on the mesh. Other arguments are those of
  `abstract_state`.
  """
  target = abstract_state(init, optimizer, mesh=mesh, preset=preset)
  with sharding.use_mesh(mesh, preset):
    return _placed(functools.partial(init_state, init, optimizer), target)(_key_data(seed))


def state_of(
  variables: dict[str, PyTree],
  optimizer: optax.GradientTransformation,
  seed: int,
  target: TrainState,
  *,
  mesh: Mesh,
  preset: str = "dp",
) -> TrainState:
  """Returns the state before the first step from given variables, whose buffers are donated.

  Args:
    variables: "params" and the other collections, placed as in `target`.
    optimizer: an optimizer of optax.
    seed: seed of the run.
    target: result of `abstract_state`.
    mesh: mesh, as in `abstract_state`.
    preset: name of the sharding rules.
  """

  def first(variables: dict[str, PyTree], key_data: jax.Array) -> TrainState:
    return _first_state(optimizer, dict(variables), key_data)

  with sharding.use_mesh(mesh, preset):
    return _placed(first, target, donate_argnums=0)(variables, _key_data(seed))


def key_data_of(seed: int, target: TrainState) -> jax.Array:
  """Returns the `rng` of a run with this seed, placed as in `target`."""
  return _placed(lambda data: data, target.rng)(_key_data(seed))


def _placed(function: Callable[..., PyTree], target: PyTree, **options: Any) -> Callable:
  where = jax.tree.map(lambda leaf: leaf.sharding, target)
  return jax.jit(function, out_shardings=where, **options)


def _key_data(seed: int) -> np.ndarray:
  # NumPy, because with several processes an array on one process's device cannot feed them all.
  return np.asarray(jax.random.key_data(jax.random.key(seed)))


def init_state(
  init: Init, optimizer: optax.GradientTransformation, key_data: jax.Array
) -> TrainState:
  """Returns the state before the first step, without sharding; pure. See `create_state`.

  Args:
    init: `key -> variables`, a dict with "params" and perhaps other collections.
    optimizer: an optimizer of optax.
    key_data: uint32, `jax.random.key_data(jax.random.key(seed))`.
  """
  variables = axes.unboxed(dict(init(jax.random.wrap_key_data(key_data))))
  return _first_state(optimizer, variables, key_data)


def _first_state(
  optimizer: optax.GradientTransformation, variables: dict[str, PyTree], key_data: jax.Array
) -> TrainState:
  params = variables.pop("params")
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key_data, variables)
