"""Multiply-adds counted by hand, energy from counters that are made up, and names of machines."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

import spikedata_model.leaderboard.measuring as measuring
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.entrants.poyo_cost import window_macs
from spikedata_model.leaderboard.measuring import Energy, commit, machine, module_cost, step_times
from spikedata_model.leaderboard.result import Machine
from tests.spikedata_model.test_poyo import make_model, make_tokens


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Call(nn.Module):
    """A module that calls a function of one tensor."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def products(x: torch.Tensor, weight: torch.Tensor) -> int:
    """Return in how many products of x Wᵀ neither factor is 0, one by one."""
    return sum(
        int(a != 0 and b != 0)
        for row in x.flatten(0, -2)
        for out in weight
        for a, b in zip(row, out, strict=True)
    )


# ------------------------------------------------------------------ layers, counted by hand


def test_a_linear_layer_multiplies_its_inputs_with_its_weights_and_adds_its_bias():
    layer = nn.Linear(5, 3)
    with torch.no_grad():
        layer.weight[0, :2] = 0
    x = torch.randn(4, 5) * (torch.rand(4, 5) < 0.6)
    cost = module_cost(layer, x, estimates=4)

    assert cost.parameters == 5 * 3 + 3
    assert cost.bytes == 4 * cost.parameters
    assert cost.macs == 5 * 3
    assert cost.effective_macs == products(x, layer.weight) / 4
    assert cost.connection_sparsity == 2 / 15
    assert cost.activation_sparsity is None
    assert cost.effective_acs == 0


def test_an_mlp_saves_what_its_relus_silence():
    layers = nn.Linear(6, 20), nn.Linear(20, 7), nn.Linear(7, 2)
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    x = torch.randn(9, 6)
    first = torch.relu(layers[0](x))
    second = torch.relu(layers[1](first))
    cost = module_cost(model, x, estimates=9)
    silent = [int((one == 0).sum()) for one in (first, second)]
    by_hand = (9 * 6 * 20, products(first, layers[1].weight), products(second, layers[2].weight))

    assert cost.macs == 6 * 20 + 20 * 7 + 7 * 2
    assert cost.effective_macs == sum(by_hand) / 9
    assert sum(by_hand) == 9 * 120 + (9 * 20 - silent[0]) * 7 + (9 * 7 - silent[1]) * 2
    assert cost.activation_sparsity == sum(silent) / (9 * 27)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    ("cls", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)]
)  # fmt: skip
def test_recurrent_layers_are_unrolled(cls, gates, inference):
    """Also where the module itself is in inference mode, in which torch shows a layer whole."""
    layer = cls(5, 4, num_layers=2, batch_first=True, bidirectional=True)
    x = torch.randn(3, 6, 5)

    def run(x):
        with torch.inference_mode(inference):
            return layer(x)[0]

    cost = module_cost(Call(run), x, estimates=3)
    per_step = 2 * gates * (4 * (5 + 4) + 4 * (8 + 4))
    from_zero = 2 * 2 * gates * 4 * 4  # the state before the first step of each layer and direction

    assert cost.macs == 6 * per_step
    assert cost.effective_macs == 6 * per_step - from_zero


@pytest.mark.parametrize(("cls", "gates"), [(nn.RNNCell, 1), (nn.GRUCell, 3), (nn.LSTMCell, 4)])
def test_a_cell_is_one_step(cls, gates):
    cell = cls(5, 4)
    cost = module_cost(cell, torch.randn(2, 5), estimates=2)

    assert (cost.macs, cost.effective_macs) == (gates * 4 * (5 + 4), gates * 4 * 5)
    assert cost.parameters == gates * 4 * (5 + 4 + 2)


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(2, 6, 3, stride=2, groups=2), nn.Conv1d(2, 6, 3, dilation=2)]
)
def test_a_convolution_has_its_kernel_in_each_place(layer):
    x = torch.randn(4, 2, 11) * (torch.rand(4, 2, 11) < 0.5)
    with torch.no_grad():
        layer.weight[0] = 0
        out = layer(x)
    naive = 0
    (step,), (apart,), per_group = layer.stride, layer.dilation, 6 // layer.groups
    for n in range(4):
        for to in range(6):
            for place in range(out.shape[-1]):
                for row in range(2 // layer.groups):
                    source = to // per_group * (2 // layer.groups) + row
                    for k in range(3):
                        a, b = x[n, source, place * step + k * apart], layer.weight[to, row, k]
                        naive += int(a != 0 and b != 0)
    cost = module_cost(layer, x, estimates=4)

    assert cost.macs == 6 * out.shape[-1] * (2 // layer.groups) * 3
    assert cost.effective_macs == naive / 4


@pytest.mark.parametrize("padding", [0, 1])
def test_padding_is_multiplied_with_in_no_count(padding):
    cost = module_cost(nn.Conv1d(1, 1, 3, padding=padding), torch.ones(1, 1, 5))

    assert cost.macs == cost.effective_macs == (9 if padding == 0 else 13)


@pytest.mark.parametrize("train", [False, True])
def test_attention_counts_as_layer_and_as_function(train):
    """2 L² D of scores and values beside the projections of L tokens of width D."""
    tokens, dim = 7, 8
    layer = nn.MultiheadAttention(dim, 2, batch_first=True).train(train)
    x = torch.randn(3, tokens, dim)
    whole = module_cost(Call(lambda x: layer(x, x, x, need_weights=False)[0]), x, estimates=3)
    alone = module_cost(Call(lambda x: F.scaled_dot_product_attention(x, x, x)), x, estimates=3)

    assert alone.macs == 2 * tokens**2 * dim
    assert whole.macs == 4 * tokens * dim**2 + 2 * tokens**2 * dim


def test_a_transformer_layer_counts_though_torch_has_a_fast_path_for_it():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    cost = module_cost(layer, torch.randn(3, 7, 8), estimates=3)

    assert cost.macs == 4 * 7 * 8**2 + 2 * 7**2 * 8 + 2 * 7 * 8 * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x @ x.T, 4 * 4 * 6),
        (lambda x: torch.einsum("nk,mk->nm", x, x), 4 * 4 * 6),
        (lambda x: x @ x[0], 4 * 6),
        (lambda x: torch.dot(x[0], x[1]), 6),
        (lambda x: torch.addmv(x[:, 0], x, x[0]), 4 * 6),
        (lambda x: torch.baddbmm(x[None, :, :4], x[None], x.T[None]), 4 * 4 * 6),
        (lambda x: torch.addbmm(x[:, :4], x[None], x.T[None]), 4 * 4 * 6),
        (lambda x: F.bilinear(x, x, x[None, :, :4].repeat(2, 2, 2)[:, :6, :6]), None),
        (lambda x: x * x + x.sum(), 0),
    ],
)
def test_products_count_whichever_function_made_them(function, expected):
    """And where torch keeps them to itself there is no count, rather than a wrong one."""
    cost = module_cost(Call(function), torch.randn(4, 6))

    assert cost.macs == cost.effective_macs == expected


def test_a_poyo_as_it_runs_multiplies_what_its_equations_say_less_what_it_makes_once():
    """Queries of latents and of recordings, and keys of equal tokens, are made once and looked up.

    Its layers are called as functions, its attention is its own: no hook on a layer sees it.
    """
    model, tokens = make_model(), make_tokens()
    shape, n_latents, n_windows = model.config, len(model.latent_time_L), len(tokens.recording_B)
    n_tokens, n_queries = (np.diff(one) for one in (tokens.token_offsets, tokens.query_offsets))
    as_written = sum(
        window_macs(shape, n_latents, spikes, samples, 2)
        for spikes, samples in zip(n_tokens.tolist(), n_queries.tolist(), strict=True)
    )
    pairs = len(torch.unique(torch.stack([tokens.type_T, tokens.unit_T]), dim=1).T)
    width = shape.dim * shape.cross_heads * shape.dim_head
    spared = n_latents * n_windows - shape.latents_per_step
    spared += 2 * (n_tokens.sum() - pairs) + n_queries.sum() - n_windows
    cost = module_cost(model, tokens)

    assert cost.macs == as_written - width * spared


def test_spikes_are_added_not_multiplied():
    spikes = torch.tensor([[0.0, 1.0, -1.0], [1.0, 0.0, 0.0]])
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    cost = module_cost(model, spikes, estimates=2)

    assert cost.effective_acs == 3 * 4 / 2
    assert cost.effective_macs == 3 * 4 / 2 + 4 * 2


@pytest.mark.parametrize("how", ["pruned", "parametrised"])
def test_weights_count_as_they_are_used(how):
    layer = nn.Linear(6, 4)
    if how == "pruned":
        prune.l1_unstructured(layer, "weight", 0.25)
    else:
        mask = torch.ones(4, 6)
        mask[0] = 0
        parametrize.register_parametrization(layer, "weight", Call(lambda w: w * mask))
    cost = module_cost(layer, torch.randn(1, 6))

    assert cost.connection_sparsity == 0.25
    assert (cost.macs, cost.effective_macs) == (24, 18)


def test_a_shared_weight_counts_once_and_a_table_is_no_connection():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(5, 3), nn.Linear(3, 3, bias=False)
            self.again = self.out
            with torch.no_grad():
                self.table.weight.zero_()
            self.register_buffer("scale", torch.ones(2, dtype=torch.float64))

        def forward(self, x):
            return self.again(self.out(self.table(x)))

    cost = module_cost(Tied(), torch.tensor([0, 1]), estimates=2)

    assert (cost.parameters, cost.bytes) == (24, 24 * 4 + 16)
    assert (cost.connection_sparsity, cost.macs, cost.effective_macs) == (0, 18, 0)


def test_a_module_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9), nn.BatchNorm1d(3)).train()
    model[1].eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    one, other = (module_cost(model, torch.ones(4, 3), estimates=4) for _ in range(2))

    assert [part.training for part in model] == [True, False, True]
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert one == other
    assert model(torch.ones(4, 3)).requires_grad


def test_a_module_that_fails_is_set_back_too():
    model = nn.Linear(3, 3).train()
    with pytest.raises(RuntimeError):
        module_cost(model, torch.ones(4, 2))

    assert model.training
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(SuiteError, match="1 estimate or more"):
        module_cost(model, torch.ones(4, 3), estimates=0)


# ------------------------------------------------------------------ times


def test_step_times_are_the_median_and_the_99th_percentile():
    seconds = np.random.default_rng(0).permutation(np.arange(101) / 100)

    assert step_times(seconds) == pytest.approx((0.5, 0.99))
    assert step_times([0.25]) == (0.25, 0.25)


@pytest.mark.parametrize("seconds", [[], [0.1, -0.1], [np.nan], [[0.1]]])
def test_times_of_no_steps_are_refused(seconds):
    with pytest.raises(SuiteError, match="Step times must be seconds"):
        step_times(seconds)


# ------------------------------------------------------------------ energy


class Counters:
    """A folder of energy counters as Linux has it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, zone: str, name: str, microjoules: int, limit: int = 1_000_000) -> Path:
        folder = self.root / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{limit}\n")
        self.set(zone, microjoules)
        return folder

    def set(self, zone: str, microjoules: int) -> None:
        (self.root / zone / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def counters(tmp_path):
    found = Counters(tmp_path / "powercap")
    found.add("intel-rapl:0", "package-0", 100)
    found.add("intel-rapl:1", "package-1", 900_000)
    (found.root / "intel-rapl").mkdir()
    return found


def test_packages_are_added_and_nothing_is_counted_twice(counters):
    """Parts of a package, the platform that holds all of them, and another view of a package."""
    counters.add("intel-rapl:0:0", "core", 0)
    counters.add("intel-rapl:0/intel-rapl:0:1", "dram", 0)
    counters.add("intel-rapl:2", "psys", 0)
    counters.add("intel-rapl-mmio:0", "package-0", 0)
    with Energy(counters.root) as energy:
        counters.set("intel-rapl:0", 500_100)
        counters.set("intel-rapl:1", 950_000)
        for other in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
            counters.set(other, 400_000)

    assert energy.joules == pytest.approx(0.55)


def test_a_counter_that_begins_again_is_followed_as_often_as_it_does(counters):
    with Energy(counters.root) as energy:
        for _ in range(3):
            counters.set("intel-rapl:1", 950_000)
            energy.look()
            counters.set("intel-rapl:1", 150_000)
            energy.look()

    assert energy.joules == pytest.approx(0.05 + 0.2 + 2 * (0.8 + 0.2))


def test_a_long_block_is_looked_at_in_between(counters):
    """Up and down again would look like nothing at the end; so would a whole round."""
    with Energy(counters.root, every=0.01) as energy:
        for now in (500_000, 900_000, 100):
            counters.set("intel-rapl:0", now)
            until = time.monotonic() + 20
            while energy._last != [now, 900_000] and time.monotonic() < until:
                time.sleep(0.005)

    assert energy.joules == pytest.approx(1.0)


@pytest.mark.parametrize("when", ["before", "within"])
@pytest.mark.parametrize("what", ["gone", "not readable", "no number"])
def test_a_package_that_cannot_be_read_leaves_no_joules(counters, what, when):
    """Rather than those of the other package alone."""

    def damage():
        path = counters.root / "intel-rapl:1" / "energy_uj"
        path.unlink()
        if what == "not readable":
            path.mkdir()  # as root, who may read everything
        elif what == "no number":
            path.write_text("many")

    if when == "before":
        damage()
    with Energy(counters.root) as energy:
        if when == "within":
            damage()

    assert energy.joules is None


def test_a_limit_that_is_not_known_leaves_no_joules_where_it_is_needed(counters):
    (counters.root / "intel-rapl:1" / "max_energy_range_uj").unlink()
    with Energy(counters.root) as energy:
        counters.set("intel-rapl:1", 900_001)
    assert energy.joules == pytest.approx(1e-6)
    with Energy(counters.root) as energy:
        counters.set("intel-rapl:1", 5)
    assert energy.joules is None


@pytest.mark.parametrize("zones", [None, [], [("intel-rapl:0", "psys")]])
def test_a_machine_without_such_counters_has_no_joules(tmp_path, zones):
    if zones is not None:
        (tmp_path / "powercap").mkdir()
    for zone, name in zones or []:
        Counters(tmp_path / "powercap").add(zone, name, 0)
    with Energy(tmp_path / "powercap") as energy:
        pass

    assert energy.joules is None


def test_a_block_that_fails_is_measured_and_fails(counters):
    energy = Energy(counters.root)

    def work() -> None:
        counters.set("intel-rapl:0", 300_100)
        raise KeyError("x")

    with pytest.raises(KeyError), energy:
        work()

    assert energy.joules == pytest.approx(0.3)


# ------------------------------------------------------------------ where, and from what


def test_a_machine_says_what_numbers_depend_on_and_is_read_back():
    found = machine()

    assert found.packages["numpy"] == np.__version__
    assert {"torch", "pyarrow", "spikedata"} <= set(found.packages)
    assert found.cores >= 1
    assert found.processor
    assert Machine.model_validate_json(found.model_dump_json()) == found


def test_a_machine_names_neither_user_nor_folder(monkeypatch):
    monkeypatch.setattr(measuring.platform, "release", lambda: "6.1.9-built-by-jane+")
    text = machine().model_dump_json()

    assert "jane" not in text
    assert "6.1.9" in text
    assert measuring.platform.node() not in machine().model_dump(exclude={"processor"}).values()
    assert str(Path.home()) not in text


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a source tree with one commit, from which `commit` believes to run."""
    root = tmp_path / "tree"
    file = root / "spikedata_model" / "leaderboard" / "measuring.py"
    file.parent.mkdir(parents=True)
    file.write_text("x = 1\n")
    (root / "spikedata_model" / "__init__.py").write_text("")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    monkeypatch.setattr(measuring, "__file__", str(file))
    return root


def test_a_commit_is_that_of_the_source_tree_and_says_whether_it_was_changed(tree, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tree / "elsewhere"))  # as it is set in a hook
    monkeypatch.setenv("GIT_WORK_TREE", "/")
    with monkeypatch.context() as clean:
        clean.delenv("GIT_DIR")
        clean.delenv("GIT_WORK_TREE")
        head = git(tree, "rev-parse", "HEAD")

    assert commit() == head
    (tree / "notes.txt").write_text("not of the package\n")
    assert commit() == head
    (tree / "spikedata_model" / "new.py").write_text("")
    assert commit() == head + "+dirty"
    (tree / "spikedata_model" / "new.py").unlink()
    (tree / "spikedata_model" / "__init__.py").write_text("y = 2\n")
    assert commit() == head + "+dirty"


def test_packages_that_are_installed_in_a_repository_of_others_have_no_commit(tree, monkeypatch):
    site = tree / "env" / "site-packages"
    shutil.copytree(tree / "spikedata_model", site / "spikedata_model")
    file = site / "spikedata_model" / "leaderboard" / "measuring.py"
    monkeypatch.setattr(measuring, "__file__", str(file))

    assert commit() == ""
    git(tree, "add", ".")  # also where the others keep what they installed
    git(tree, "commit", "-qm", "two")
    assert commit() == ""
    git(site, "init", "-q")  # also where the folder is a repository, which does not hold them
    git(site, "commit", "-qm", "one", "--allow-empty")
    assert commit() == ""


def test_without_git_or_history_there_is_no_commit(tree, monkeypatch):
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tree / "nothing"))
        assert commit() == ""
    shutil.rmtree(tree / ".git")

    assert commit() == ""
