"""Equations of docstrings in LaTeX: docstrings have them in plain text, for `help()`.

`as_rst` in `public.py` typesets them. A test finds equations without a line here, and lines here
that no docstring has.
"""

# Plain text, with single spaces, to one or more rows of LaTeX. Keys are whole code spans, or whole
# lines of an indented block. Only commands that docutils converts to MathML.
EQUATIONS = {
  # the contract
  "X' = mix @ X + write @ F(read @ X)": (
    r"X' = \mathrm{mix} \cdot X + \mathrm{write} \cdot F(\mathrm{read} \cdot X)",
  ),
  "x' = x + F(x)": (r"x' = x + F(x)",),
  "x' = F(x)": (r"x' = F(x)",),
  "A_r^T H": (r"A_r^T H",),
  "read @ X": (r"\mathrm{read} \cdot X",),
  "mix @ X + write @ y": (r"\mathrm{mix} \cdot X + \mathrm{write} \cdot y",),
  # per stream
  "scale * tanh(norm(X) @ dynamic_kernel)": (
    r"\mathrm{scale} \cdot \tanh(\mathrm{norm}(X) \cdot \mathrm{dynamic\_kernel})",
  ),
  "norm(X) @ kernel": (r"\mathrm{norm}(X) \cdot \mathrm{kernel}",),
  "sum_j read[i, j] X[j]": (r"\sum_j \mathrm{read}_{ij} X_j",),
  "mix = (I - g e_j^T) P + g e_j^T": (r"\mathrm{mix} = (I - g e_j^T) P + g e_j^T",),
  "x' = P x": (r"x' = P x",),
  "u = sum_i h[i] X[i]; X'[i] = X[i] + (F(u) if i = index mod n else 0)": (
    r"u &= \sum_i h_i X_i",
    r"X'_i &= X_i + \begin{cases} F(u) & i = \mathrm{index} \bmod n \\"
    r" 0 & \text{otherwise} \end{cases}",
  ),
  # from all streams at once
  "scale * (rmsnorm(vec X) @ kernel) + bias": (
    r"\mathrm{scale} \cdot (\mathrm{rmsnorm}(\mathrm{vec}\,X) \cdot \mathrm{kernel})"
    r" + \mathrm{bias}",
  ),
  "logits = scale * (rmsnorm(vec X) @ kernel) + bias for read, write and mix, each its own": (
    r"\mathrm{logits} &= \mathrm{scale} \cdot (\mathrm{rmsnorm}(\mathrm{vec}\,X)"
    r" \cdot \mathrm{kernel}) + \mathrm{bias} \quad \text{for read, write and mix, each its own}",
  ),
  "read = sigmoid(logits) write = 2 sigmoid(logits) mix = mix_of(logits)": (
    r"\mathrm{read} &= \sigma(\mathrm{logits}) \quad \mathrm{write} = 2\,\sigma(\mathrm{logits})"
    r" \quad \mathrm{mix} = \mathrm{mix\_of}(\mathrm{logits})",
  ),
  "read = sigmoid(logits) write = 2 sigmoid(logits) mix = sinkhorn(logits)": (
    r"\mathrm{read} &= \sigma(\mathrm{logits}) \quad \mathrm{write} = 2\,\sigma(\mathrm{logits})"
    r" \quad \mathrm{mix} = \mathrm{sinkhorn}(\mathrm{logits})",
  ),
  "X' = mix(X) @ X + write(X) @ F(read(X_before) @ X)": (
    r"X' = \mathrm{mix}(X) \cdot X"
    r" + \mathrm{write}(X) \cdot F(\mathrm{read}(X_{\mathrm{before}}) \cdot X)",
  ),
  "mix = sum_r softmax(logits)_r P_r": (
    r"\mathrm{mix} = \sum_r \mathrm{softmax}(\mathrm{logits})_r\, P_r",
  ),
  "mix = sinkhorn(free^T)^T": (r"\mathrm{mix} = \mathrm{sinkhorn}(\mathrm{free}^T)^T",),
  "(I + A)^-1 (I - A)": (r"(I + A)^{-1} (I - A)",),
  "diag(e^a) e^R diag(e^b)": (r"\mathrm{diag}(e^a)\, e^R\, \mathrm{diag}(e^b)",),
  "mix = exp(t_c (M - M^T) - t_d R R^T / sqrt(n)) t between 0.001 and 1, by a sigmoid": (
    r"\mathrm{mix} = \exp\left(t_c (M - M^T) - \frac{t_d}{\sqrt{n}} R R^T\right)"
    r" \quad t \text{ between 0.001 and 1, by a sigmoid}",
  ),
  "mix = J / n + Z @ U @ diag(tanh s) @ V^T @ Z^T": (
    r"\mathrm{mix} = \frac{1}{n} J + Z\, U\, \mathrm{diag}(\tanh s)\, V^T Z^T",
  ),
  # the gated residual
  "N[i] = rmsnorm(X[i]) * (1 + norm_gamma[i]) each stream alone": (
    r"N_i &= \mathrm{rmsnorm}(X_i) \cdot (1 + \mathrm{norm\_gamma}_i)"
    r" \quad \text{each stream alone}",
  ),
  "G = sigmoid(silu(vec N @ down_kernel / n) @ up_kernel) [n, d], rank r": (
    r"G &= \sigma\left(\mathrm{silu}\left(\mathrm{vec}\,N \cdot \mathrm{down\_kernel} / n\right)"
    r" \cdot \mathrm{up\_kernel}\right) \quad [n, d] \text{, rank } r",
  ),
  "read: mean over i of G[i] * N[i] instead of the pre-norm": (
    r"\text{read} &: \frac{1}{n} \sum_i G_i \cdot N_i \quad \text{instead of the pre-norm}",
  ),
  "write = 2 sigmoid(vec N @ write_kernel / n) [n]": (
    r"\mathrm{write} &= 2\,\sigma(\mathrm{vec}\,N \cdot \mathrm{write\_kernel} / n) \quad [n]",
  ),
  "mix = identity": (r"\mathrm{mix} &= I",),
  "G = sigmoid(hidden @ kernel)": (r"G = \sigma(\mathrm{hidden} \cdot \mathrm{kernel})",),
  "sum_i G[i] * rmsnorm(X[i]) / n": (r"\frac{1}{n} \sum_i G_i \cdot \mathrm{rmsnorm}(X_i)",),
  # over depth
  "u = sum_j softmax(s)_j v_j s_j = <scale * query, rmsnorm(v_j)>": (
    r"u = \sum_j \mathrm{softmax}(s)_j\, v_j \quad"
    r" s_j = \langle \mathrm{scale} \cdot \mathrm{query}, \mathrm{rmsnorm}(v_j) \rangle",
  ),
  "u = h + gate * sum_j softmax(s)_j v_j h = sum of all slots": (
    r"u = h + \mathrm{gate} \cdot \sum_j \mathrm{softmax}(s)_j\, v_j"
    r" \quad h = \text{sum of all slots}",
  ),
  "u_h = sum_j softmax_j(s)_jh v_jh s_jh = <query_h, (scale * rmsnorm(v_j))_h> (Eq. 3)": (
    r"u_h = \sum_j \mathrm{softmax}_j(s)_{jh}\, v_{jh} \quad s_{jh} ="
    r" \langle \mathrm{query}_h, (\mathrm{scale} \cdot \mathrm{rmsnorm}(v_j))_h \rangle"
    r" \quad \text{(Eq. 3)}",
  ),
  "X[l + 1] = B_l(sum_{j <= l} read[j] X[j]) X[0] the embedding, B_l block l, from 0": (
    r"X_{l+1} = B_l\left(\sum_{j \le l} \mathrm{read}_j X_j\right)"
    r" \quad X_0 \text{ the embedding, } B_l \text{ block } l \text{, from 0}",
  ),
  "hidden = gelu(rmsnorm(X[l]) @ hidden_kernel) of the newest state": (
    r"\mathrm{hidden} &= \mathrm{gelu}(\mathrm{rmsnorm}(X_l) \cdot \mathrm{hidden\_kernel})"
    r" \quad \text{of the newest state}",
  ),
  "read[v, j] = hidden @ weights_kernel[:, v, j] + static_read[v, j] of the filled slots, j <= l": (
    r"\mathrm{read}_{vj} &= \mathrm{hidden} \cdot \mathrm{weights\_kernel}_{vj}"
    r" + \mathrm{static\_read}_{vj} \quad \text{of the filled slots, } j \le l",
  ),
  "input = read_scale * rmsnorm(sum_j read[v, j] rmsnorm(X[j])) + X[l]": (
    r"\mathrm{input} = \mathrm{read\_scale} \cdot \mathrm{rmsnorm}\left("
    r"\sum_j \mathrm{read}_{vj}\, \mathrm{rmsnorm}(X_j)\right) + X_l",
  ),
  "scale * rmsnorm(sum_j weights[j] rmsnorm(X[j])) + plus @ X": (
    r"\mathrm{scale} \cdot \mathrm{rmsnorm}\left(\sum_j \mathrm{weights}_j\,"
    r" \mathrm{rmsnorm}(X_j)\right) + \mathrm{plus} \cdot X",
  ),
  "sum_j weight[j] X[j]": (r"\sum_j \mathrm{weight}_j X_j",),
  "sum_j softmax(s)_j X[j]": (r"\sum_j \mathrm{softmax}(s)_j X_j",),
  "weight = sigmoid(scale * (rmsnorm(X) @ kernel) + bias) + 1e-6": (
    r"\mathrm{weight} = \sigma(\mathrm{scale} \cdot (\mathrm{rmsnorm}(X) \cdot \mathrm{kernel})"
    r" + \mathrm{bias}) + 10^{-6}",
  ),
  # parts of other networks
  "X'[s] = lambda * X[s] + write[s] * F(X[a]) a = 0 for attention, 1 for feed-forward": (
    r"X'_s = \lambda X_s + \mathrm{write}_s\, F(X_a)"
    r" \quad a = 0 \text{ for attention, 1 for feed-forward}",
  ),
  "x = lambda x + mu x0 at the first site of every block, before it reads": (
    r"x &\leftarrow \lambda x + \mu x_0"
    r" \quad \text{at the first site of every block, before it reads}",
  ),
  "x = x + F(x) at every site": (r"x &\leftarrow x + F(x) \quad \text{at every site}",),
}
