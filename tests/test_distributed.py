"""Two processes over gloo are one: the same rows, the same gradient, the same weights, one writer."""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

if sys.platform != "linux":
    pytest.skip("processes are started with Linux's means", allow_module_level=True)

from bridge.mappers import FlowMatchingMapper
from bridge.noise import normal_rows
from bridge.text import TextCode
from tests.faulty_run import outcome, start
from train.loop import Loop, LoopConfig

ROWS = 24
CONFIG = LoopConfig(
    steps=4,
    batch_size=6,
    learning_rate=1e-2,
    warmup=1,
    validate_every=2,
    save_minutes=0.0,
    clip=1e9,
    seed=5,
    cooldown=0.0,
)


class Objective(nn.Module):
    """The real loss of the real mapper, in float64 under pooled codes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.mapper = FlowMatchingMapper((4, 2, 2), 8, width=16, hidden=16, blocks=1, condition=8)
        generator = torch.Generator().manual_seed(1)
        for parameter in self.mapper.parameters():
            if not parameter.any():  # adaLN-Zero's, without which gradients would be zero as well
                nn.init.normal_(parameter, std=0.1, generator=generator)
        self.double()
        self.register_buffer("remembered", torch.zeros(3, dtype=torch.int16))  # which gloo cannot send

    def forward(self, z: Tensor, pooled: Tensor, noise: Tensor) -> dict[str, Tensor]:
        code = TextCode(pooled, pooled.new_zeros(len(pooled), 0, 8), torch.zeros(len(pooled), 0, dtype=torch.bool))
        return {"loss": self.mapper.loss(z, code, noise=noise)}


class Bridge:
    """A loop on it, on latents and codes made from row numbers, and what it saw."""

    def __init__(self, out: Path, config: LoopConfig) -> None:
        objective = Objective()
        self.noise_shape = tuple(objective.mapper.loss_noise_shape)
        self.seen: list[int] = []
        self.validated = 0
        self.loop = Loop(objective, self.batch, ROWS, self.validate, config, out, {})

    def batch(self, rows: Tensor, epoch: int) -> tuple[Tensor, ...]:
        self.seen += [epoch * ROWS + row for row in rows.tolist()]
        kinds = ((4, 2, 2), (8,), self.noise_shape)
        return tuple(
            normal_rows([(7, kind, epoch, row) for row in rows.tolist()], shape).double()
            for kind, shape in enumerate(kinds)
        )

    def validate(self, step: int) -> dict[str, float]:
        self.validated += 1
        return {"figure": float(step)}

    def flat(self, *, gradient: bool = False) -> Tensor:
        return torch.cat([(p.grad if gradient else p.detach()).flatten() for p in self.loop.parameters])


def work(out: Path, config: LoopConfig, rank: int, processes: int, port: int) -> None:
    """One process of several: its first gradient and all that a run left goes to OUT-RANK."""
    torch.set_num_threads(1)
    if processes > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {name: str(value) for name, value in (names | {"MASTER_PORT": port}).items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    bridge = Bridge(out, config)
    bridge.loop.gradients()
    first = bridge.flat(gradient=True)
    bridge.loop.optimizer.zero_grad(set_to_none=True)
    bridge.seen.clear()
    bridge.loop.run()
    left = {"gradient": first, "weights": bridge.flat(), "seen": bridge.seen, "validated": bridge.validated}
    torch.save(left, out.with_name(f"{out.name}-{rank}"))
    if processes > 1:
        torch.distributed.destroy_process_group()


def run(out: Path, config: LoopConfig, processes: int) -> list[dict[str, object]]:
    """What each of some processes left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start(work, out, config, rank, processes, port) for rank in range(processes)]
    assert [outcome(process) for process in started] == [0] * processes
    return [torch.load(out.with_name(f"{out.name}-{rank}"), weights_only=True) for rank in range(processes)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Where one process, and where two left theirs."""
    return [tmp_path_factory.mktemp(name) / "run" for name in ("one", "two")]


@pytest.fixture(scope="module")
def one(folders: list[Path]) -> dict[str, object]:
    """What one process left."""
    return run(folders[0], CONFIG, 1)[0]


@pytest.fixture(scope="module")
def two(folders: list[Path]) -> list[dict[str, object]]:
    """What two processes left."""
    return run(folders[1], CONFIG, 2)


def difference(a: object, b: object) -> float:
    """Relative to the largest element."""
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    return float((a - b).abs().max() / b.abs().max())


def test_the_first_gradient_is_that_of_one_process(one, two):
    assert float(one["gradient"].abs().max()) > 0
    assert [difference(process["gradient"], one["gradient"]) < 1e-10 for process in two] == [True, True]


def test_the_final_weights_are_those_of_one_process(one, two):
    """Adam divides by the root of squared gradients, so rounding grows; an error of a row would be at 1e-2."""
    assert [difference(process["weights"], one["weights"]) < 1e-7 for process in two] == [True, True]


def test_processes_end_with_the_same_weights_to_the_bit(two):
    assert torch.equal(two[0]["weights"], two[1]["weights"])


def test_the_rows_seen_are_those_of_one_process(one, two):
    """Each takes every second one of a batch, so that together they see it in order."""
    together = [row for pair in zip(two[0]["seen"], two[1]["seen"], strict=True) for row in pair]
    assert together == one["seen"]


def test_only_the_main_process_validates_and_writes(two, folders):
    folder = folders[1]
    assert [process["validated"] for process in two] == [2, 0]
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "checkpoint.pt", "log.jsonl"]
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2


def test_two_processes_log_the_loss_of_one(one, two, folders):
    """Over both halves of a batch."""
    logs = [(path / "log.jsonl").read_text() for path in folders]
    assert logs[0] == logs[1]


def test_one_process_goes_on_where_two_stopped(one, tmp_path):
    run(tmp_path / "run", replace(CONFIG, steps=2), 2)
    last = run(tmp_path / "run", CONFIG, 1)[0]
    assert difference(last["weights"], one["weights"]) < 1e-7


def test_processes_share_unequally_where_the_batch_asks_for_it(tmp_path):
    """Five rows are three and two: the gradient is still the mean over five."""
    config = replace(CONFIG, batch_size=5, steps=1)
    alone, both = (run(tmp_path / f"run{processes}", config, processes) for processes in (1, 2))
    assert difference(both[1]["gradient"], alone[0]["gradient"]) < 1e-10
