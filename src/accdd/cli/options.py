"""Arguments and flags that several verbs have."""

from pathlib import Path
from typing import Annotated

import typer

DATA_HELP = (
    "digits, mnist, fashion-mnist, svhn, cifar10, cifar100, tiny-imagenet, imagenet-10, imagenet-100 or imagenette (a "
    "copy in ACCDD_DATA, or from the hub); a folder of class folders, of parquet files or of the authors' own files; "
    ".npz; or hf:owner/name."
)
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
SetArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of a run or of a distilled set; or hf:owner/name.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; list them with 'accdd settings'.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file of settings, or a run's config.yaml.")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="fast, paper, or a row of a paper, as in idc-cifar10.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Decides every draw (those of the pool: pool.seed).")]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="auto, fp32 or bf16, of convolutions and linear layers.")
]
CompileOption = Annotated[str | None, typer.Option("--compile", help="auto, always or never: steps as one graph.")]
NETWORKS = """convnet, resnet10, resnet18, resnet_ap10, resnet_ap18, densenet121, alexnet, vgg11, mlp, lenet,
efficientnet_b0, vit_tiny; your own, module:callable, which is imported; or timm:NAME."""
SHAPED = "A shape of its own as in convnet/width=32/depth=4."
PROTOCOLS = "idc, quick, dc, dsa, mtt, ddranking-hard, ddranking-plain."
BASELINES = "random, kmeans, herding, herding-pixels, kcenter, kcenter-pixels, forgetting, el2n."
NetworkOption = Annotated[str | None, typer.Option("--network", help=f"Network to match against: {NETWORKS}")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
IpcOption = Annotated[int | None, typer.Option("--ipc", help="Images per class to learn (default 1).")]
TargetsOption = Annotated[
    str | None, typer.Option("--targets", help="Real halves computed ahead, or auto; 0 computes them in every sweep.")
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Networks (or targets) used.")]
BudgetOption = Annotated[
    str | None, typer.Option("--budget", help="Wall-clock limit of a run's distilling loop, as in 90s, 10m, 2h.")
]
StudyOutOption = Annotated[Path, typer.Option("--out", help="Folder of the study: new, or to go on in.")]
ExecutorOption = Annotated[
    str, typer.Option("--executor", help="inline, local:K (processes), slurm[:key=value,...] or ray[:key=value,...].")
]
HeldOutOption = Annotated[
    float | None,
    typer.Option(
        "--held-out", metavar="SHARE",
        help="Score on this share of the training images, held out, to choose by; never on test images.",
    ),
]  # fmt: skip
IndependentOption = Annotated[
    bool, typer.Option("--independent", help="Early-stage models and targets anew for every seed, too, not shared.")
]
ReplicatesOption = Annotated[int, typer.Option("--seeds", help="Sets distilled in each case, from seeds 0, 1, ...")]
