"""More than one process on one run: a share of the classes each, and the few things they tell each other.

`torchrun` launches them and says to each who it is; here is what PyTorch's collectives are used for. Alone, a process
is rank 0 of 1 and none of this does anything. Matching is not wrapped in DistributedDataParallel, which has no
gradients of gradients.
"""

import contextlib
import datetime
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from accdd import execution
from accdd.config import InputError

Result = TypeVar("Result")

PATIENCE = datetime.timedelta(days=1)
"""How long a rank waits for what another makes, as early-stage models; that a rank is gone is noticed otherwise."""
BEAT, SILENCE = 2.0, 20.0
"""Seconds between two signs of life of a rank, and without any, after which it is taken for gone."""


class Everywhere(InputError):
    """The user's mistake, raised on all ranks, of which one should say it."""


class Lost(RuntimeError):
    """A rank is gone, and with it its share of the classes."""


class Ranks(NamedTuple):
    """This process among those that work on one run."""

    rank: int = 0
    count: int = 1
    apart: bool = False
    """Whether each works on its share for itself, to be merged later: an offline shard."""

    @property
    def alone(self) -> bool:
        """Whether there is nobody to talk to."""
        return self.count == 1 or self.apart

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written and says what is said."""
        return self.rank == 0 or self.apart

    def share(self, classes: int) -> slice:
        """Which classes are this rank's: neighbours, as many as every other rank has or one less. All cost alike."""
        return slice(classes * self.rank // self.count, classes * (self.rank + 1) // self.count)

    def whole(self, own: Tensor) -> Tensor:
        """The shares of all ranks put together, on each of them.

        Args:
            own: this rank's, (its classes, ...).

        Raises:
            Lost: a rank is gone.
        """
        if self.alone:
            return own
        with _noticing():
            sizes = [torch.tensor(0) for _ in range(self.count)]
            dist.all_gather(sizes, torch.tensor(len(own)))
            padded = own.new_zeros(max(map(int, sizes)), *own.shape[1:])  # collectives want them of one size
            padded[: len(own)] = own.detach()
            parts = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def summed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over all ranks of tensors of equal names, float, on each of them; one collective for all.

        Raises:
            Lost: a rank is gone.
        """
        if self.alone:
            return dict(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
        with _noticing():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors.values()])
        return {name: part.view_as(tensors[name]) for name, part in zip(tensors, parts, strict=True)}

    def largest(self, numbers: Sequence[float]) -> list[float]:
        """The largest that any rank says, on every rank, of each number; -inf has nothing to say."""
        if self.alone:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        with _noticing():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()

    def together(self, work: Callable[[], Result]) -> Result:
        """`work` on every rank; what goes wrong on one is raised on all, after all have tried.

        Raises:
            Everywhere: the user's mistake, with the rank where it showed if it is not everywhere.
        """
        if self.alone:
            return work()
        result, problem = None, None
        try:
            result = work()
        except InputError as error:
            problem = str(error)
        found = {rank: each for rank, each in enumerate(self.gathered(problem)) if each is not None}
        if found:
            first, message = next(iter(found.items()))
            where = "" if len(found) == self.count else f"On rank {first} of {self.count}: "
            raise Everywhere(f"{where}{message}")
        return cast(Result, result)

    def leader(self, work: Callable[[], Result]) -> Result:
        """`work` on rank 0 alone, while the others wait: its result, or its mistake, is everyone's."""
        if self.alone:
            return work()
        result, problem = None, None
        if self.leads:
            try:
                result = work()
            except InputError as error:
                problem = str(error)
        sent = [(result, problem)]
        with _noticing():
            dist.broadcast_object_list(sent, src=0)
        result, problem = sent[0]
        if problem is not None:
            raise Everywhere(problem)
        return cast(Result, result)

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Refuse ranks that were told something else, or see other data.

        Raises:
            Everywhere: naming what differs, and where.
        """
        first, *others = self.gathered(dict(facts))
        for rank, other in enumerate(others, start=1):
            for name in (each for each in {**first, **other} if first.get(each) != other.get(each)):
                raise Everywhere(
                    f"Ranks disagree: {name} is {first.get(name)!r} on rank 0 and {other.get(name)!r} on rank {rank}. "
                    "Expected the same command and the same data on every rank."
                )

    def gathered(self, mine: Any) -> list[Any]:
        """What every rank brings, in their order, on each of them.

        Args:
            mine: what can be pickled.

        Raises:
            Lost: a rank is gone.
        """
        if self.alone:
            return [mine]
        gathered: list[Any] = [None] * self.count
        with _noticing():
            dist.all_gather_object(gathered, mine)
        return gathered


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that `torchrun` launched together, for the length of a block; alone without it.

    What is on GPUs travels by NCCL, everything else by gloo.
    """
    if _launched() == 1:
        yield ALONE
        return
    try:
        store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
    except ValueError as error:
        raise InputError(
            f"WORLD_SIZE={_launched()} in the environment says that there are others, but: {error}. "
            "Expected torchrun to launch accdd, or no WORLD_SIZE."
        ) from None
    # torchrun's store outlives the processes: what an earlier launch left there is not to be found.
    store = PrefixStore(f"launch {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(execution.device("cuda"))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=count, timeout=PATIENCE)
    ranks, over = Ranks(rank, count), threading.Event()
    # A store of its own: one that waits for another rank lets no other thread in.
    watch = threading.Thread(target=_watch, args=(cast(Any, store).clone(), ranks, over), daemon=True)
    watch.start()
    try:
        yield ranks
        ranks.together(lambda: None)  # rank 0 leaves with the others, and with it what they meet at
    finally:
        over.set()
        watch.join()
        dist.destroy_process_group()


def leads() -> bool:
    """Whether this process is the one to speak, also before and after they have joined."""
    return _launched() == 1 or os.environ.get("RANK", "0") == "0"


def _launched() -> int:
    """How many processes there are, as torchrun says it; some schedulers name a rank where there is only one."""
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdecimal() or int(said) < 1:
        raise InputError(f"WORLD_SIZE={said} in the environment is no number of processes. Expected torchrun's.")
    return int(said)


def restarted() -> bool:
    """Whether torchrun has launched the processes again, after some had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _watch(store: Store, ranks: Ranks, over: threading.Event) -> None:
    """Give signs of life, look for those of others, and end this process when one is gone and its word is awaited."""
    heard = {rank: ("", time.monotonic()) for rank in range(ranks.count) if rank != ranks.rank}
    for beat in itertools.count():
        if over.wait(BEAT):
            return
        try:
            store.set(f"alive/{ranks.rank}", str(beat))
            for rank, (last, _) in heard.items():
                sign = store.get(f"alive/{rank}").decode() if store.check([f"alive/{rank}"]) else ""
                if sign != last:
                    heard[rank] = (sign, time.monotonic())
            candidates = list(heard)
        except (RuntimeError, OSError):  # the store lives with rank 0, or with torchrun beside it
            candidates = [0] if ranks.rank else list(heard)
        gone = [rank for rank in candidates if time.monotonic() - heard[rank][1] > SILENCE]
        if gone and not over.is_set():
            print(f"error: {_words(gone)}", file=sys.stderr, flush=True)
            time.sleep(4 * BEAT if ranks.leads else 0)  # until the others have found out at the store
            os._exit(1)  # the main thread may wait in a collective, for as long as its patience lasts


@contextlib.contextmanager
def _noticing() -> Iterator[None]:
    """Turn the failure of a collective into the name of the rank that is gone, once its silence shows who."""
    try:
        yield
    except (RuntimeError, dist.DistBackendError) as error:
        time.sleep(SILENCE + 2 * BEAT)  # the watch ends this process before, if it can say who
        raise Lost(f"Ranks no longer hear each other: {str(error).splitlines()[0]}") from error


def _words(gone: list[int]) -> str:
    named = ", ".join(map(str, gone))
    return (
        f"Rank {named} is gone (no sign of life for {SILENCE:g} s), so the others stop. The run is saved up to its "
        "last checkpoint: go on with --resume, or let torchrun do so with --max-restarts."
    )
