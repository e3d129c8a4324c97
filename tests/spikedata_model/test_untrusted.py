from __future__ import annotations

import functools
import os
import pathlib
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from spikedata_model.errors import CheckpointError
from spikedata_model.pickle_program import Inert
from spikedata_model.untrusted import SavedTensor, read_torch_file, unwrapped

STRUCTURES = {
    "alone": lambda bad: bad,
    "beside the weights": lambda bad: {"state_dict": {"w": torch.ones(2)}, "more": bad},
    "in hyper_parameters": lambda bad: {"hyper_parameters": {"model": {"dim": [1, {"x": bad}]}}},
    "in a callback": lambda bad: {"callbacks": {"ModelCheckpoint": {"best": (bad, 1.0)}}},
    "among the weights": lambda bad: {"state_dict": OrderedDict(w=bad)},
}


class Calls:
    """Calls a function when it is unpickled carelessly."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.args

    def __call__(self) -> None:
        """Let a call's result be called in turn."""


def gadgets(proof: Path) -> dict[str, object]:
    """Return objects that create a file when unpickled, and the name to be refused for each."""
    touch = f"touch '{proof}'"
    return {
        "posix.system": Calls(os.system, touch),
        "builtins.eval": Calls(eval, f"open({str(proof)!r}, 'w').close()"),
        "builtins.exec": Calls(exec, f"open({str(proof)!r}, 'w').close()"),
        "subprocess.check_output": Calls(subprocess.check_output, ["touch", str(proof)]),
        "builtins.getattr": Calls(Calls(getattr, Calls(pathlib.Path, str(proof)), "touch")),
        "posix.mkdir": Calls(functools.partial(os.mkdir), str(proof)),
        "torch.hub.load": Calls(torch.hub.load, str(proof)),
        "torch.serialization.load": Calls(torch.load, str(proof)),
    }


def sentence(caught: pytest.ExceptionInfo) -> str:
    """Return the message, after making sure that it is one line that ends like a sentence."""
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ".." not in message
    return message


def replace_member(path: Path, name: str, change) -> None:
    """Write a zip again with one member changed, its checksum with it."""
    with zipfile.ZipFile(path) as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in members.items():
            archive.writestr(one, change(content) if one.endswith(name) else content)


# ------------------------------------------------------------------ what is read


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "plain": base,
        "transposed": base.t(),
        "column": base[:, 2],
        "every second": base[::2, 1:5:2],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        **{
            str(dtype): torch.tensor([[0, 1], [2, 3]]).to(dtype)
            for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
                          torch.int16, torch.int8, torch.uint8, torch.bool)
        },
    }  # fmt: skip


def test_tensors_are_those_that_torch_reads(tmp_path):
    torch.save(tensors(), tmp_path / "x.pt")
    file = read_torch_file(tmp_path / "x.pt")
    expected = torch.load(tmp_path / "x.pt", weights_only=True)

    assert list(file.content) == list(expected)
    for name, tensor in expected.items():
        found = file.tensor(file.content[name])
        assert found.dtype == tensor.dtype, name
        assert torch.equal(found, tensor.detach()), name


def test_plain_values_are_those_that_were_saved(tmp_path):
    value = {
        "text": "ü/../x", "number": -70000, "large": 1 << 40, "real": 0.1, "none": None,
        "flags": [True, False], "pair": (1, ("a", ())), "nested": {"a": {"b": [1, [2]]}},
        "ordered": OrderedDict(z=1, a=2), "size": torch.Size([3, 4]),
    }  # fmt: skip
    torch.save(value, tmp_path / "x.pt")

    assert read_torch_file(tmp_path / "x.pt").content == value


def test_the_state_of_a_module_is_read_without_what_torch_hangs_on_it(tmp_path):
    layer = torch.nn.Linear(2, 3)
    torch.save(layer.state_dict(), tmp_path / "x.pt")
    file = read_torch_file(tmp_path / "x.pt")

    assert list(file.content) == ["weight", "bias"]
    assert torch.equal(file.tensor(file.content["weight"]), layer.weight)


def test_classes_of_frameworks_are_never_imported(tmp_path, monkeypatch):
    """The module that a checkpoint names may be anybody's: here it would leave a file."""
    proof = tmp_path / "proof"
    (tmp_path / "omegaconf.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Node: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    program = b"\x80\x02comegaconf\nNode\n)\x81}X\x04\x00\x00\x00_valK\x07sb."
    torch.save(0, tmp_path / "x.pt")
    replace_member(tmp_path / "x.pt", "data.pkl", lambda _: program)
    file = read_torch_file(tmp_path / "x.pt")

    assert isinstance(file.content, Inert)
    assert unwrapped(file.content) == 7
    assert file.stand_ins == ("omegaconf.Node",)
    assert not proof.exists()
    assert "omegaconf" not in sys.modules


def test_functions_of_frameworks_are_not_called(tmp_path):
    """The `runstring` of numpy executes text, and stand-ins stand for all of numpy."""
    proof = tmp_path / "proof"
    gadget = Calls(np.testing.runstring, f"open({str(proof)!r}, 'w').close()", {})
    torch.save({"callbacks": gadget}, tmp_path / "x.pt")
    file = read_torch_file(tmp_path / "x.pt")

    assert isinstance(file.content["callbacks"], Inert)
    assert not proof.exists()
    pickle.loads(pickle.dumps(gadget))
    assert proof.exists()  # it would have been


@pytest.mark.parametrize("name", ["os.system", "Path.touch", "x.__class__.__mro__"])
def test_a_dotted_name_within_a_framework_leads_nowhere(tmp_path, name):
    program = b"\x80\x02cpathlib\n" + name.encode() + b"\nX\x01\x00\x00\x00a\x85R."
    torch.save(0, tmp_path / "x.pt")
    replace_member(tmp_path / "x.pt", "data.pkl", lambda _: program)
    content = read_torch_file(tmp_path / "x.pt").content

    assert isinstance(content, Inert)
    assert (content.name, content.args) == (f"pathlib.{name}", ("a",))


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("place", STRUCTURES)
@pytest.mark.parametrize("name", gadgets(Path("x")))
def test_a_hostile_file_is_refused_by_name_and_not_run(tmp_path, name, place):
    proof = tmp_path / "proof"
    gadget = gadgets(proof)[name]
    torch.save(STRUCTURES[place](gadget), tmp_path / "x.pt")

    with pytest.raises(CheckpointError, match=rf"names '{name}'.*nothing of it was run") as caught:
        read_torch_file(tmp_path / "x.pt")
    sentence(caught)
    assert not proof.exists()


@pytest.mark.parametrize(
    "name", ["posix.system", "builtins.eval", "builtins.exec", "builtins.getattr", "posix.mkdir"]
)
def test_the_hostile_files_would_have_done_harm(tmp_path, name):
    """Else the test above proves nothing."""
    torch.save(gadgets(tmp_path / "proof")[name], tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)

    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("form", ["pickle", "before torch 1.6", "protocol 4", "module", "script"])
def test_other_forms_of_saving_are_refused_and_not_run(tmp_path, form):
    path, proof = tmp_path / "x.pt", tmp_path / "proof"
    gadget = gadgets(proof)["posix.system"]
    if form == "pickle":
        path.write_bytes(pickle.dumps(gadget))
    elif form == "before torch 1.6":
        torch.save(gadget, path, _use_new_zipfile_serialization=False)
    elif form == "protocol 4":
        torch.save(gadget, path, pickle_protocol=4)
    elif form == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", b"\x80\x02c__torch__.torch.nn\nLinear\n)\x81.")
            archive.writestr("x/code/__torch__.py", "import os")

    with pytest.raises(CheckpointError) as caught:
        read_torch_file(path)
    sentence(caught)
    assert not proof.exists()


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(CheckpointError, match="There is no file") as caught:
            read_torch_file(path)
        sentence(caught)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "x.pt"
    torch.save(tensors(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(CheckpointError) as caught:
        read_torch_file(path)
    sentence(caught)


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(30.0), "b": ["text", 3]}, path)
    whole = path.read_bytes()
    before = read_torch_file(path)
    expected = before.tensor(before.content["a"])
    rng, refused = random.Random(0), 0
    for _ in range(300):
        at = rng.randrange(len(whole))
        path.write_bytes(
            whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
        )
        try:
            file = read_torch_file(path)
            assert file.content["b"] == ["text", 3]
            assert torch.equal(file.tensor(file.content["a"]), expected)
        except CheckpointError:
            refused += 1

    assert refused > 50


def test_a_file_that_unpacks_to_more_than_it_has_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02N.")
        archive.writestr("x/data/0", bytes(10_000_000))
    assert path.stat().st_size < 100_000

    with pytest.raises(CheckpointError, match="unpack to more bytes than the file has") as caught:
        read_torch_file(path)
    sentence(caught)


PAIRS = b"q\x00h\x00\x86" * 100
"""Makes of what is on the stack a pair of itself, and so on: 2**100 parts, in 500 bytes."""


def number(value: int) -> bytes:
    """Return the instruction that pickles a number of two bytes."""
    return b"M" + value.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda program: program.replace(number(1234), number(60_000)), "60000 numbers were expec"),
        (lambda program: number(60_000).join(program.rsplit(number(1234), 1)), "does not fit in"),
        (lambda program: program.replace(b"FloatStorage", b"DoubleStorage"), "1234 numbers were e"),
        (lambda program: program.replace(b"X\x07\x00\x00\x00storage", b"X\x07\x00\x00\x00Storage"),
         "refers to something outside"),
        (lambda program: program.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"),
         "names 'torch._utils._rebuild_tensor_v9'"),
        (lambda _: b"\x80\x02]2.", "uses the instruction DUP"),
        (lambda _: b"\x80\x02})" + PAIRS + b"K\x01s.", "has a tuple as a key"),
        (lambda _: b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n)" + PAIRS
         + b"X\x03\x00\x00\x00cpuK\x01tQ.", "refers to something outside"),
        (lambda program: program.replace(b"Rq", b"R}bq"), "puts values into a SavedTensor"),
        (lambda program: program.replace(number(1234) + b"\x85", b"(" + b"K\x01" * 65 + b"t"),
         "is no whole number"),
        (lambda _: b"\x80\x02.", "damaged or no checkpoint"),
        (lambda program: program[:-1], "damaged or no checkpoint"),
    ],
)  # fmt: skip
def test_a_program_that_lies_is_refused(tmp_path, change, says):
    path = tmp_path / "x.pt"
    torch.save([torch.zeros(1234)], path)
    replace_member(path, "data.pkl", change)

    with pytest.raises(CheckpointError, match=says) as caught:
        read_torch_file(path)
    sentence(caught)


def test_a_tensor_that_is_stretched_out_of_one_number_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "x.pt")
    file = read_torch_file(tmp_path / "x.pt")

    with pytest.raises(CheckpointError, match="stretched out of 1 stored numbers") as caught:
        file.tensor(file.content["a"])
    sentence(caught)


def test_numbers_in_the_other_byte_order_are_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "x.pt")
    replace_member(tmp_path / "x.pt", "byteorder", lambda _: b"big")

    with pytest.raises(CheckpointError, match="big-endian"):
        read_torch_file(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a\\b", "x" * 100])
def test_names_with_path_characters_are_just_names(tmp_path, name):
    torch.save({name: torch.ones(2)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        members = {one.partition("/")[2]: archive.read(one) for one in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        for one, content in members.items():
            archive.writestr(f"../../up/{one}", content)
    file = read_torch_file(tmp_path / "y.pt")

    assert isinstance(file.content[name], SavedTensor)
    assert torch.equal(file.tensor(file.content[name]), torch.ones(2))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.pt", "y.pt"]


def test_a_large_vocabulary_and_numbers_of_every_size_are_read(tmp_path):
    large = {f"unit {n}": n for n in range(70_000)}  # past values numbered by one byte, and by two
    torch.save(large, tmp_path / "x.pt")

    assert read_torch_file(tmp_path / "x.pt").content == large


def test_a_file_changes_nothing_of_the_functions_that_stand_in(tmp_path):
    """A pickle may set attributes: here the default arguments of what stands for torch.Size."""
    program = b"\x80\x02ctorch\nSize\nN}X\x0c\x00\x00\x00__defaults__K\x07\x85s\x86b."
    torch.save(torch.Size([3]), tmp_path / "x.pt")
    torch.save(0, tmp_path / "y.pt")
    replace_member(tmp_path / "y.pt", "data.pkl", lambda _: program)

    assert isinstance(read_torch_file(tmp_path / "y.pt").content, Inert)
    assert read_torch_file(tmp_path / "x.pt").content == (3,)


@pytest.mark.parametrize("before", [0, 1000])
def test_values_are_found_where_the_zip_says_wherever_it_begins(tmp_path, before):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(5.0), "b": torch.arange(7)}, path)
    path.write_bytes(b"x" * before + path.read_bytes())
    file = read_torch_file(path)

    assert torch.equal(file.tensor(file.content["a"]), torch.arange(5.0))
    assert torch.equal(file.tensor(file.content["b"]), torch.arange(7))
