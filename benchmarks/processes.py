"""One run on several processes: the same images, what travels between them, what each holds, what it gains.

    python benchmarks/processes.py equal|model|bytes|memory|speed|killed|hosts --out FOLDER

`equal`: images after 20 sweeps on 1, 2, 3 and 4 processes, compared bit by bit. `model`: the seconds of `equal` against
the model of docs/scaling.md, fitted on one process. `bytes`: what passes the loopback device in 40 more sweeps.
`memory`: the largest process with 200 classes on 1, 2 and 4. `speed`: two processes of one thread against one of two,
in turn. `killed`: torchrun with four processes, one of which is killed: how long until the others are gone, until the
run goes on, and whether its images are those of an undisturbed one. `hosts`: the same with two and two in network
namespaces, which know each other by their addresses alone; needs root and iproute2.

`bytes` wants a loopback device that carries nothing else. Runs that are in FOLDER already are not repeated.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from cells import DATA

from accdd import config, data, methods, networks, planning, training
from accdd.config import Settings

COMMON = (
    "--ipc=1", "--set=network.width=32", "--set=score.seeds=0", "--set=loop.snapshots=0", "--set=pool.networks=2",
    "--set=pool.epochs=0.1", "--compile=never",
)  # fmt: skip
CIFAR = str(DATA / "cifar10-jpeg")
UNTRAINED = ("--set=loop.train_images=0", "--inner-steps=1")
HOSTS = {
    "IDC": ("--method=idc", "--targets=0", "--inner-steps=20", "--set=loop.train_images=500"),
    "IDC on targets": ("--method=idc", "--targets=20", *UNTRAINED),
    "DSA": ("--method=dsa", "--targets=0", "--inner-steps=20", "--set=loop.train_epochs=1"),
    "DSA on targets": ("--method=dsa", "--targets=20", *UNTRAINED),
    "DM": ("--method=dm", "--targets=0", *UNTRAINED),
    "DM on targets": ("--method=dm", "--targets=20", *UNTRAINED),
}
"""Twenty sweeps to an outer step of those that train, one of those that do not."""


def steps(host: str, sweeps: int) -> str:
    """The option for so many sweeps."""
    return f"--steps={sweeps // 20 if '--inner-steps=20' in HOSTS[host] else sweeps}"


def launch(folder: Path, count: int, *options: str, threads: int = 1) -> dict[str, float]:
    """A run on `count` processes, unless it is there; seconds, bytes on the loopback, and GB of the largest process."""
    result = folder / "took.json"
    if result.exists():
        return launched(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "accdd", "distill", *options, "--out", str(folder / "run"), "--quiet"]
    before, began = loopback(), time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        ranks = [
            subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=os.environ
                | (common if count > 1 else {})
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(threads)},
            )
            for rank in range(count)
        ]
        ends = [os.wait4(rank.pid, 0) for rank in ranks]
    assert not any(status for _, status, _ in ends), f"look at {folder / 'log.txt'}"
    took = {
        "seconds": json.loads((folder / "run" / "evaluation.json").read_text())["seconds"]["distilling"],
        "whole": round(time.perf_counter() - began, 1),
        "bytes": loopback() - before,
        "GB": max(used.ru_maxrss for *_, used in ends) * 1024 / 1e9,
    }
    result.write_text(json.dumps(took))
    return took


def loopback() -> int:
    """Bytes that the loopback device has carried."""
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())


def images(folder: Path) -> bytes:
    return (folder / "run" / "distilled" / "images.safetensors").read_bytes()


def equal(out: Path) -> None:
    for host, options in HOSTS.items():
        for count in (1, 2, 3, 4):
            launch(out / host / str(count), count, CIFAR, *COMMON, *options, steps(host, 20))
        alone = images(out / host / "1")
        same = [images(out / host / str(count)) == alone for count in (2, 3, 4)]
        print(f"{host:16} on 2, 3, 4 processes: {', '.join('the same bits' if each else 'OTHER' for each in same)}")


def bytes_(out: Path) -> None:
    for host, options in HOSTS.items():
        for count in (2, 4):
            few, many = (
                launch(out / host / f"{count}, {sweeps}", count, CIFAR, *COMMON, *options, steps(host, sweeps))["bytes"]
                for sweeps in (20, 60)
            )
            print(f"{host:16} {count} processes: {(many - few) / 40:10,.0f} bytes a sweep")


def model(out: Path) -> None:
    """Matching is divided by classes, training is not; what is counted of both, and the seconds of one process, say
    what several would take. More processes than cores take turns."""
    real = data.load(CIFAR)
    cores = len(os.sched_getaffinity(0))
    for host in ("IDC", "DSA", "DM"):
        folder = out.parent / "equal" / host
        recorded = yaml.safe_load((folder / "1" / "run" / "config.yaml").read_text())["resolved"]
        settings = config.override(Settings(), config.flatten(recorded))
        network = networks.architecture(settings.network, real.channels, real.size, real.num_classes)
        problem = methods.problem(settings, real, network)
        matching = sum(half.flops for half in planning.half_costs(problem, settings)) * real.num_classes
        of_loop = settings.loop
        recipe, seen = (settings.train, of_loop.train_images) if of_loop.train_images else (problem.recipe, None)
        seen = (of_loop.train_epochs or 0) * real.num_classes * settings.ipc if seen is None else seen
        step = training.step_cost(network, recipe, recipe.batch).flops / recipe.batch
        trained = (of_loop.inner_steps - 1) / of_loop.inner_steps * seen * step
        taken = {count: launched(folder / str(count))["seconds"] for count in (1, 2, 3, 4)}
        share = matching / (matching + trained)
        for count in (2, 3, 4):
            largest = -(-real.num_classes // count) / real.num_classes
            foretold = taken[1] * (share * largest + 1 - share) * max(1, -(-count // cores))
            print(
                f"{host:4} {count} processes: {share:.0%} of the work is matching; "
                f"{foretold:.1f} s foretold, {taken[count]:.1f} s taken, of {taken[1]:.1f} s on one"
            )


def launched(folder: Path) -> dict[str, float]:
    return json.loads((folder / "took.json").read_text())


def memory(out: Path) -> None:
    tiny = (str(DATA / "tiny-imagenet-32"), *COMMON, "--targets=0", *UNTRAINED, "--steps=2", "--ipc=10")
    for count in (1, 2, 4):
        took = launch(out / str(count), count, *tiny)
        print(f"{count} processes: {took['GB']:.2f} GB the largest, {took['seconds']:.1f} s for two sweeps")


def speed(out: Path) -> None:
    for host, options in HOSTS.items():
        for turn in range(3):
            one, two = (
                launch(
                    out / host / f"{turn}, {count}", count, CIFAR, *COMMON, *options, steps(host, 40), threads=threads
                )["seconds"]
                for count, threads in ((1, 2), (2, 1))
            )
            print(f"{host:16} 1 x 2 threads {one:6.2f} s, 2 x 1 {two:6.2f} s, ratio {one / two:.2f}")


LONG = ("--method=idc", "--targets=0", "--inner-steps=20", "--set=loop.train_images=500", "--set=loop.checkpoint=2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--max-restarts=3")


def killed(out: Path) -> None:
    launch(out / "undisturbed", 1, CIFAR, *COMMON, *LONG, "--steps=6")
    with_one_killed(out / "one host", [[*TORCHRUN, "--standalone", "--nproc-per-node=4"]], out / "undisturbed")


def hosts(out: Path) -> None:
    launch(out / "undisturbed", 1, CIFAR, *COMMON, *LONG, "--steps=6")
    names, addresses, cards = ("accdd-a", "accdd-b"), ("10.77.0.1", "10.77.0.2"), ("accdd0", "accdd1")
    ip("link", "add", cards[0], "type", "veth", "peer", "name", cards[1])
    try:
        for name, address, card in zip(names, addresses, cards, strict=True):
            ip("netns", "add", name)
            ip("link", "set", card, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", card)
            ip("-n", name, "link", "set", card, "up")
            ip("-n", name, "link", "set", "lo", "up")
        agents = [
            ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={card}", *TORCHRUN, "--nnodes=2",
             "--nproc-per-node=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={addresses[0]}:29511", "--rdzv-id=accdd",
             f"--local-addr={address}", f"--rdzv-conf=is_host={int(address == addresses[0])}"]
            for name, address, card in zip(names, addresses, cards, strict=True)
        ]  # fmt: skip
        with_one_killed(out / "two hosts", agents, out / "undisturbed")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def with_one_killed(folder: Path, commands: list[list[str]], undisturbed: Path) -> None:
    """Launch the agents, kill a worker when the first checkpoint is there, and print what came of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = ["-m", "accdd", "distill", CIFAR, *COMMON, *LONG, "--steps=6", "--out", str(folder / "run"), "--quiet"]
    began = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        agents = [
            subprocess.Popen([*command, *options], stdout=log, stderr=log, env=environment) for command in commands
        ]

        def until(holds: Callable[[], object]) -> float:
            while not holds():
                assert all(agent.poll() is None for agent in agents), f"look at {folder / 'log.txt'}"
                time.sleep(0.02)
            return time.perf_counter()

        until(lambda: sweep_of(folder) >= 20)
        old, saved = workers(agents), sweep_of(folder)
        os.kill(old[-1], signal.SIGKILL)
        struck = time.perf_counter()
        gone = until(lambda: not any(alive(pid) for pid in old)) - struck
        again = until(lambda: sweep_of(folder) > saved) - struck
        assert not any(agent.wait() for agent in agents), f"look at {folder / 'log.txt'}"
    same = "the same bits" if images(folder) == images(undisturbed) else "OTHER"
    print(
        f"{folder.name}: killed after sweep {saved}; the others gone after {gone:.1f} s, a later checkpoint after "
        f"{again:.1f} s, the end after {time.perf_counter() - began:.0f} s in all; images: {same}"
    )


def sweep_of(folder: Path) -> int:
    """Of the newest checkpoint."""
    return max((int(each.name[6:]) for each in folder.glob("run/checkpoints/sweep-*")), default=0)


def workers(agents: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """The processes that agents launched."""
    pids = " ".join(str(agent.pid) for agent in agents).replace(" ", ",")
    listed = subprocess.run(["ps", "--ppid", pids, "-o", "pid="], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def main() -> None:
    """Run what is missing, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = {
        "equal": equal,
        "model": model,
        "bytes": bytes_,
        "memory": memory,
        "speed": speed,
        "killed": killed,
        "hosts": hosts,
    }
    parser.add_argument("study", choices=studies)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    studies[arguments.study](arguments.out / arguments.study)


if __name__ == "__main__":
    main()
