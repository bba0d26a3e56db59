"""Model folders: the old or the new one, never half of one; and no byte that was not saved."""

import errno
import json
import os
import pickle
import signal
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from bridge import checkpoint, hub
from bridge.checkpoint import (
    CheckpointError,
    UnverifiedWarning,
    atomic_folder,
    atomic_write,
    remove_stale,
    verify_folder,
)
from bridge.codecs import codec_from_diffusers
from bridge.errors import UserError
from bridge.hub import resolve_model, shipped_models
from bridge.opening import fingerprint
from bridge.pipeline import BridgePipeline
from bridge.text import DEFAULT_ID, TextEncoder


def save(path: Path, value: float) -> Path:
    """A small model folder whose one weight is `value`."""
    with atomic_folder(path) as folder:
        (folder / "vae").mkdir()
        save_file({"w": torch.full((256,), value)}, folder / "vae" / "model.safetensors")
        (folder / "model_index.json").write_text(json.dumps({"value": value}))
    return path


def value_of(path: Path) -> float:
    verify_folder(path)
    return float(json.loads((path / "model_index.json").read_text())["value"])


@pytest.fixture
def model(tmp_path) -> Path:
    return save(tmp_path / "model", 1.0)


def linear(seed: int = 0) -> nn.Linear:
    layer = nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return layer


# fingerprint


def test_fingerprint_is_sixteen_hex_digits_of_weights_and_config():
    assert fingerprint(linear(), {"a": 1}) == fingerprint(linear(), {"a": 1})
    assert len(bytes.fromhex(fingerprint(linear(), {}))) == 8


def test_fingerprint_sees_one_flipped_bit():
    other = linear()
    other.bias.data.view(torch.int32)[0] ^= 1
    assert fingerprint(other, {}) != fingerprint(linear(), {})


def test_fingerprint_sees_config():
    assert fingerprint(linear(), {"scale": 1.0}) != fingerprint(linear(), {"scale": 2.0})


def test_fingerprint_sees_dtype():
    assert fingerprint(linear().double(), {}) != fingerprint(linear(), {})


def test_fingerprint_sees_shape():
    a, b = nn.Module(), nn.Module()
    a.register_buffer("w", torch.ones(2, 3))
    b.register_buffer("w", torch.ones(3, 2))
    assert fingerprint(a, {}) != fingerprint(b, {})


def test_fingerprint_reads_values_not_memory():
    a, b = nn.Module(), nn.Module()
    a.register_buffer("w", torch.arange(6.0).reshape(2, 3))
    b.register_buffer("w", torch.arange(6.0).reshape(2, 3).T.contiguous().T)
    assert fingerprint(a, {}) == fingerprint(b, {})


def test_fingerprint_ignores_order_of_config_and_bookkeeping_keys():
    assert fingerprint(linear(), {"a": 1, "b": [2], "_name": "x"}) == fingerprint(linear(), {"b": (2,), "a": 1})


# atomic_write


def test_a_file_is_written(tmp_path):
    atomic_write(tmp_path / "a", b"\0\xff")
    atomic_write(tmp_path / "b", "é\n")
    assert (tmp_path / "a").read_bytes() == b"\0\xff"
    assert (tmp_path / "b").read_bytes() == "é\n".encode()


@pytest.mark.parametrize("durable", [True, False])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, durable):
    atomic_write(tmp_path / "a", "old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "a", "new", durable=durable)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_a_long_name_can_be_written(tmp_path):
    path = tmp_path / ("é" * 120)
    atomic_write(path, "x")
    assert path.read_text() == "x"


def test_permissions_follow_the_umask(tmp_path):
    (tmp_path / "plain").touch()
    atomic_write(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_stale_temporaries_of_one_name_are_removed_and_no_others(tmp_path):
    stale, other = checkpoint._temporary(tmp_path / "a"), checkpoint._temporary(tmp_path / "a.b")
    stale.touch()
    other.touch()
    remove_stale(tmp_path / "a")
    assert list(tmp_path.iterdir()) == [other]


# atomic_folder


def test_a_saved_folder_verifies(model):
    assert value_of(model) == 1.0


def test_a_folder_is_replaced_whole(model):
    with atomic_folder(model) as folder:
        (folder / "model_index.json").write_text('{"value": 2}')
    assert value_of(model) == 2.0
    assert not (model / "vae").exists()


def test_nothing_is_left_beside_a_saved_folder(model):
    save(model, 2.0)
    assert [p.name for p in model.parent.iterdir()] == ["model"]


def test_the_old_folder_stands_while_the_new_one_is_filled(model):
    with atomic_folder(model) as folder:
        (folder / "model_index.json").write_text('{"value": 2}')
        assert value_of(model) == 1.0


def test_an_error_leaves_the_old_folder_and_no_other(model):
    with pytest.raises(KeyboardInterrupt), atomic_folder(model) as folder:
        (folder / "big").write_text("half")
        raise KeyboardInterrupt
    assert value_of(model) == 1.0
    assert [p.name for p in model.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("failing_call", [0, 1])
def test_an_error_in_the_swap_leaves_the_old_folder_and_no_other(model, monkeypatch, failing_call):
    rename, calls = os.rename, []

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing_call + 1:
            raise OSError(errno.EIO, "input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="input/output"):
        save(model, 2.0)
    assert value_of(model) == 1.0
    assert [p.name for p in model.parent.iterdir()] == ["model"]


def test_a_writer_killed_between_its_renames_loses_nothing(model):
    os.rename(model, checkpoint._old(model))
    assert value_of(model) == 1.0


def test_a_writer_killed_after_its_swap_leaves_the_new_folder(model):
    save(checkpoint._old(model), 0.0)
    assert value_of(save(model, 2.0)) == 2.0
    assert [p.name for p in model.parent.iterdir()] == ["model"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked writer")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_complete_folder_is_found_after_every_kill(model):
    for attempt in range(25):
        writer = os.fork()
        if not writer:
            while True:
                with atomic_folder(model) as folder:
                    (folder / "model_index.json").write_text('{"value": 2}')
        time.sleep(0.001 * attempt)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        assert value_of(model) in (1.0, 2.0)
    save(model, 3.0)
    assert [p.name for p in model.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["holiday.txt", ".git", "vae/notes.txt"])
def test_a_folder_with_anything_else_in_it_is_not_replaced(model, name):
    (model / name).write_text("mine")
    with pytest.raises(CheckpointError, match=f"{name}: was not written by this command and would be lost"):
        save(model, 2.0)
    assert (model / name).read_text() == "mine"


def test_what_is_put_there_while_a_folder_is_made_is_not_lost(model):
    with pytest.raises(CheckpointError, match="diary: was not written"), atomic_folder(model) as folder:
        (folder / "model_index.json").write_text("{}")
        (model / "diary").write_text("mine")
    (model / "diary").rename(model.parent / "diary")
    assert value_of(model) == 1.0


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file"):
        save(tmp_path / "notes", 1.0)


def test_an_empty_folder_can_be_saved_to(tmp_path):
    (tmp_path / "model").mkdir()
    assert value_of(save(tmp_path / "model", 1.0)) == 1.0


def test_a_link_to_a_folder_is_followed(model):
    link = model.parent / "latest"
    link.symlink_to(model)
    save(link, 2.0)
    assert link.is_symlink()
    assert value_of(model) == 2.0


def test_a_pickle_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"w\.pt: may hold a pickle"), atomic_folder(tmp_path / "m") as folder:
        torch.save({}, folder / "w.pt")
    assert not list(tmp_path.iterdir())


# verify_folder


def test_a_flipped_bit_is_found(model):
    path = model / "vae" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged \(sha256 differs\); copy or download"):
        verify_folder(model)


def test_a_truncated_file_is_found(model):
    path = model / "vae" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged \(100 bytes of \d+\)"):
        verify_folder(model)


def test_a_missing_file_is_found(model):
    (model / "vae" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing; copy or download"):
        verify_folder(model)


def test_an_unlisted_file_is_found(model):
    (model / "vae" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"vae/config\.json: not in manifest\.json; remove it"):
        verify_folder(model)


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "desktop.ini", "Thumbs.db", "notes.txt", "README.md", "choices.json", "preview.png", "vae/desktop.ini"],
)
def test_a_file_that_nothing_is_loaded_from_is_a_warning(model, name):
    (model / name).write_text("mine")
    with pytest.warns(UnverifiedWarning, match=rf"{name} \(not in manifest\.json\); nothing is loaded from there"):
        verify_folder(model)


@pytest.fixture
def documented(tmp_path) -> Path:
    """A model folder with a card."""
    with atomic_folder(tmp_path / "documented") as folder:
        (folder / "README.md").write_text("A model.")
        (folder / "model_index.json").write_text("{}")
    return tmp_path / "documented"


def test_an_edited_card_is_a_warning_and_the_model_opens(documented):
    (documented / "README.md").write_text("A model of mine.")
    with pytest.warns(UnverifiedWarning, match=r"README\.md \(damaged \(16 bytes of 8\)\); nothing is loaded"):
        verify_folder(documented)
    (documented / "README.md").unlink()
    with pytest.warns(UnverifiedWarning, match=r"README\.md \(missing\)"):
        verify_folder(documented)


def test_an_edited_card_is_not_replaced(documented):
    (documented / "README.md").write_text("A model of mine.")
    with pytest.raises(CheckpointError, match=r"README\.md: was edited and would be lost; move it"):
        save(documented, 2.0)
    assert (documented / "README.md").read_text() == "A model of mine."


def test_empty_folders_of_somebody_are_not_removed(model):
    (model / "plans" / "2027").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"plans/2027: was not written by this command"):
        save(model, 2.0)
    assert (model / "plans" / "2027").is_dir()


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for path in (".", ".."):
        with pytest.raises(CheckpointError, match="is the current folder, which cannot be replaced; choose a folder"):
            save(Path(path), 1.0)


def test_a_disks_own_folder_is_not_replaced(tmp_path, monkeypatch):
    """As a container's volume is."""
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(CheckpointError, match="is a disk's own folder, which cannot be replaced"):
        save(tmp_path, 1.0)


def test_many_such_files_are_one_line(model):
    for number in range(5):
        (model / f"{number}.txt").touch()
    with pytest.warns(UnverifiedWarning, match=r"0\.txt .*, 1\.txt .*, 2\.txt .* and 2 more; ") as caught:
        verify_folder(model)
    assert len(caught) == 1


@pytest.mark.parametrize(
    "name",
    ["other.safetensors", "vae/other.SAFETENSORS", "config.json", "vae/model.safetensors.index.json", "code.py"],
)
def test_what_a_library_might_load_is_refused(model, name):
    (model / name).write_bytes(b"\0" * 8 + b"{}")
    with pytest.raises(CheckpointError, match=f"{name}: not in manifest"):
        verify_folder(model)


def test_an_edited_index_is_refused(model):
    (model / "model_index.json").write_text('{"value": 3.0}')
    with pytest.raises(CheckpointError, match=r"model_index\.json: damaged \(sha256 differs\)"):
        verify_folder(model)


def test_dotfiles_are_passed_over(model):
    (model / ".gitattributes").touch()
    (model / ".cache").mkdir()
    (model / ".cache" / "lock").touch()
    verify_folder(model)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": []}', '{"files": {"a": {}}}', '{"files": {"a": 1}}'])
def test_a_damaged_manifest_is_found(model, manifest):
    (model / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        verify_folder(model)


def test_an_unfinished_folder_is_refused(model):
    (model / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json: missing"):
        verify_folder(model)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        verify_folder(tmp_path / "nothing")


def test_a_manifest_cannot_point_outside(model):
    (model.parent / "outside").write_text("x")
    listed = json.loads((model / "manifest.json").read_text())
    listed["files"]["../outside"] = {"size": 1, "sha256": checkpoint.sha256_of(model.parent / "outside")}
    (model / "manifest.json").write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match="outside: missing"):
        verify_folder(model)


@pytest.mark.parametrize("suffix", [*sorted(checkpoint.PICKLES), ".PKL"])
def test_a_pickle_by_name_is_refused(model, suffix):
    (model / f"weights{suffix}").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match=r"may hold a pickle.*only safetensors"):
        verify_folder(model)


@pytest.mark.parametrize("writer", [lambda p: p.write_bytes(pickle.dumps({})), lambda p: torch.save({}, p)])
def test_a_pickle_named_safetensors_is_refused(model, writer):
    writer(model / "vae" / "model.safetensors")
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        verify_folder(model)


# resolve_model


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A package with one model, "pictures"."""
    folder = save(tmp_path / "pretrained" / "pictures", 1.0)
    monkeypatch.setattr(hub, "SHIPPED", tmp_path / "pretrained")
    return folder


def test_shipped_models_are_those_with_an_index(shipped):
    (shipped.parent / "draft").mkdir()
    assert shipped_models() == ["pictures"]


def test_a_shipped_name_is_found_before_a_folder(shipped, tmp_path, monkeypatch):
    (tmp_path / "work" / "pictures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert resolve_model("pictures") == shipped
    assert resolve_model("./pictures").resolve() == tmp_path / "work" / "pictures"


def test_a_path_is_a_folder_whatever_it_is_called(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for name in ("pictures", "./pictures", "owner/name"):
        with pytest.raises(CheckpointError, match="no such folder; a shipped name or a hub id is given as text"):
            resolve_model(Path(name))
    for name in ("pictures", "owner/name"):
        (tmp_path / name).mkdir(parents=True)
        assert resolve_model(Path(name)).resolve() == tmp_path / name


@pytest.mark.parametrize("open_it", [TextEncoder.from_pretrained, codec_from_diffusers])
def test_a_path_to_an_encoder_or_autoencoder_is_a_folder_too(tmp_path, monkeypatch, open_it):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for name in (DEFAULT_ID, "owner/name"):
        with pytest.raises(UserError, match="a hub id is given as text"):
            open_it(Path(name))
        (tmp_path / name).mkdir(parents=True)
        with pytest.raises(UserError, match=f"{name}.*(lacks model.safetensors|config.json: missing)"):
            open_it(Path(name))


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_found(model, kind):
    assert resolve_model(kind(model)) == model


def test_a_folder_left_aside_by_a_killed_writer_is_found(model):
    os.rename(model, checkpoint._old(model))
    assert value_of(resolve_model(model)) == 1.0


@pytest.mark.parametrize("name", ["emojis", "", "./nothing", "/nothing", "a/b/c", "x" * 300, "a\0b", "~nobody/x"])
def test_an_unknown_name_lists_what_there_is(shipped, name):
    with pytest.raises(CheckpointError, match=r"no shipped model \(pictures\); a hub id looks like 'owner/name'"):
        resolve_model(name)


def test_a_hub_id_is_fetched_without_pickles(shipped, tmp_path, monkeypatch):
    asked = {}

    def fetch(name: str, allow_patterns: list[str], **_: object) -> str:
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert resolve_model("owner/name") == tmp_path
    assert asked == {"owner/name": ["*.json", "*.safetensors", "*.md", "*.txt"]}


def test_offline_says_so(shipped, monkeypatch):
    def fetch(name: str, allow_patterns: list[str], **_: object) -> str:
        raise LocalEntryNotFoundError("nothing cached")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(
        CheckpointError, match=r"'owner/name'.*cannot be reached \(offline\?\); shipped models: pictures"
    ):
        resolve_model("owner/name")


def test_an_id_the_hub_does_not_know_says_so_in_one_line(shipped, monkeypatch):
    def fetch(name: str, allow_patterns: list[str], **_: object) -> str:
        raise OSError("404 Client Error\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(CheckpointError, match=r"has none such \(404 Client Error\); shipped models: pictures$"):
        resolve_model("owner/name")


def test_opened_weights_lie_where_torch_puts_its_own():
    pipe = BridgePipeline.from_pretrained("pictures")
    modules = [part for part in (pipe.mapper, *vars(pipe.codec).values()) if isinstance(part, nn.Module)]
    assert len(modules) == 2
    assert not any(weight.data_ptr() % 64 for module in modules for weight in module.parameters())
