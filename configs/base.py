"""Every key there is, with its default and its meaning. Other configs are short deltas of this one.

As it stands it is the "base" model of about 356M parameters with DHC x 4: 24 layers, 1024 wide,
GELU, learned positions, vocabulary 50257. Change a key on the command line with
--config.group.key=value. Keys without a default (None) take what their comment says.
"""

from ml_collections import config_dict

from hc_jax.config import connection_defaults

placeholder = config_dict.placeholder


def get_config() -> config_dict.ConfigDict:
  """All keys."""
  c = config_dict.ConfigDict()
  c.seed = 0  # of initial parameters, dropout and the order of the data

  c.model = config_dict.ConfigDict()
  c.model.d_model = 1024  # width of embeddings and branch inputs
  c.model.num_layers = 24  # blocks; each is two sublayers
  c.model.num_heads = 16  # attention heads; divides d_model
  c.model.num_kv_heads = placeholder(int)  # key and value heads; num_heads
  c.model.d_ff = placeholder(int)  # inner width of the feed-forward; 4 d_model
  c.model.vocab_size = placeholder(int)  # rows of the embedding; None: the tokenizer's
  c.model.vocab_size = 50257
  c.model.max_length = 2048  # positions, and slots of the KV cache
  c.model.activation = "gelu"  # gelu | swiglu
  c.model.norm = "layernorm"  # layernorm | rmsnorm
  c.model.norm_params = False  # whether norms have a scale (and layernorm a bias)
  c.model.norm_eps = 1e-5  # added to the variance
  c.model.final_norm_eps = placeholder(float)  # that of the final norm; norm_eps
  c.model.norm_position = "pre"  # pre | post
  c.model.block = "sequential"  # sequential | parallel | whole
  c.model.attention_views = False  # queries, keys and values read the streams each for itself
  # How streams begin: copy | scaling | embedding | first; the connection's own, mostly copy.
  c.model.expand = placeholder(str)
  c.model.expand_init_std = 0.02  # noise of scaling and embedding at the start; 0: equal streams
  # How streams end: sum | mean | head | read | first | backout | depth | gated | exit; mostly sum.
  c.model.reduce = placeholder(str)
  c.model.positions = "learned"  # learned | rotary
  c.model.rotary_theta = 10000.0  # base of the rotary wavelengths
  c.model.qk_norm = False  # norm queries and keys
  c.model.dropout = 0.0  # rate, on branch outputs
  c.model.tie_embeddings = True  # output layer = token embedding
  c.model.causal = True  # False: an encoder
  c.model.init_std = 0.02  # standard deviation of initial weights
  c.model.output_init_scale = 1.0  # multiplies it for sublayers' output projections
  c.model.dtype = "bfloat16"  # of matrix products: bfloat16 | float32
  c.model.stream_dtype = placeholder(str)  # of the streams; model.dtype
  c.model.scan = True  # scan over layers, or a Python loop
  # Computed again in the backward pass: none | branches | full | blocks:K (docs/performance.md).
  c.model.remat = "branches"

  # name: residual | hc | frac | ghc | altup | altup_simplified | mhc | identity | mhc_lite |
  # mhc_per_stream | mhc_single_pass | kromhc | ohc | x0_lambdas | attn_res |
  # attn_res_delta | gated_residual. The other keys are the fields of the connection classes (see
  # hc_jax/connections); None leaves the class's default, a field the class lacks is refused.
  c.model.connection = connection_defaults()
  c.model.connection.name = "hc"

  # Connections that differ between layers, the lowest first: (count, name) or (count, fields), and
  # (count, {}) for model.connection; the counts add up to model.num_layers.
  # "((2,'residual'),(22,{'name':'hc','num_streams':2}))"
  c.model.layers = ()

  c.data = config_dict.ConfigDict()
  c.data.name = "py_stdlib"  # py_stdlib | text_files | a TFDS text dataset: lm1b, c4/en, ...
  c.data.files = ()  # files and folders of text_files, as "('a.txt','notes/')"
  c.data.field = "text"  # the field that holds the text (.jsonl, .parquet, TFDS)
  c.data.tokenizer = "bytes"  # bytes | a SentencePiece *.model | a tokenizer.json
  c.data.length = 1024  # tokens in a window
  c.data.document_mask = False  # attention and loss stay inside a document
  c.data.val_fraction = 0.02  # documents held out, where the data has no split of its own
  c.data.dir = ""  # where prepared data lies; $HC_JAX_DATA or ~/.cache/hc_jax
  c.data.workers = 2  # threads that read batches ahead

  c.optim = config_dict.ConfigDict()
  c.optim.name = "adamw"  # adamw, or another optimizer of optax
  c.optim.learning_rate = 3e-4  # at its peak
  c.optim.schedule = "warmup_cosine"  # warmup_cosine | warmup_linear | constant ...
  c.optim.warmup_steps = 2000
  c.optim.end_fraction = 0.1  # of the learning rate, at the last step
  c.optim.b1 = 0.9
  c.optim.b2 = 0.95
  c.optim.eps = 1e-8
  c.optim.weight_decay = 0.1  # of dynamic kernels, kernels and embeddings
  c.optim.clip_norm = 1.0  # global norm of the gradient; 0: no clipping

  c.train = config_dict.ConfigDict()
  c.train.num_steps = 100_000  # optimizer steps; may grow on resume
  c.train.batch_size = 256  # sequences per optimizer step, over all devices
  c.train.accumulation = 1  # micro-batches in one step; divides batch_size
  c.train.loss_parts = 0  # parts of the length whose logits exist at a time; 0: as few as fit well
  c.train.eval_every = 1000  # steps between evaluations; 0: only at the end
  c.train.eval_batches = 20  # batches of an evaluation: always the first ones, in order
  c.train.checkpoint_every = 1000  # steps between checkpoints; the last step always makes one
  c.train.keep = 2  # newest checkpoints kept, besides the best
  c.train.log_every = 10  # steps between rows of metrics.jsonl and lines of the console
  c.train.telemetry_every = 100  # steps between rows of hc/* (docs/analysis.md); 0: never
  c.train.mirror = ""  # checkpoints are copied there, gs://bucket/run (docs/survive.md); "": none
  c.train.trackers = ()  # module:factory of objects that are given the metrics too
  c.train.profile = ""  # "START:STOP": steps to trace into <workdir>/profile
  c.train.compilation_cache = ".jax_cache"  # folder, from the workdir's parent; "": none
  c.train.deterministic = False  # GPU: sums in one order, for bitwise resume; slower
  c.train.debug_nans = False  # on a non-finite loss, name the first site that made it

  c.mesh = config_dict.ConfigDict()
  c.mesh.preset = "dp"  # dp | fsdp | fsdp_tp
  c.mesh.data = -1  # devices along each axis; -1: the rest
  c.mesh.fsdp = 1
  c.mesh.tensor = 1
  return c.lock()  # a delta cannot add keys, by a slip of the pen
