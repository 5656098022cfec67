"""Cloud TPU slices by script: create, install, mount, launch on all workers, collect, delete.

Command: python experiments/tpu/pod.py create NAME --zone ZONE --type v5litepod-16 [--dry-run], then
    install, status, mount (HOST:/SHARE, for all workers at /mnt/shared), launch (what follows --
    runs on every worker), collect (PATHs) and delete, each with NAME and --zone. Every command is
    printed before it is run; --dry-run only prints.
Data: what the launched command names. Corpus and work directory belong on the share (NFS, as
    Filestore has it): the workers write one checkpoint together, and a slice may be taken away.
Hardware: a Cloud TPU slice and, for several workers, an NFS share in its network; here, the gcloud
    command, signed in and with a project.
Time: minutes to create and install. You pay from create to delete.
Published: nothing. The commands were printed and read, not run: there was no TPU to try them on.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence

# What each generation's virtual machines boot from.
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
# The images' own Python is older than the package needs; uv brings one.
INSTALL = (
    "command -v uv || curl -LsSf https://astral.sh/uv/install.sh | sh; "
    "export PATH=$HOME/.local/bin:$PATH; "
    "uv venv --python 3.12 $HOME/venv --allow-existing; "
    "cd $HOME/{folder} && VIRTUAL_ENV=$HOME/venv uv pip install -r requirements-tpu.txt"
)
FOLDER = "diffusion_jax_source"
SHARED = "/mnt/shared"
MOUNT = (
    "sudo apt-get install -y nfs-common && sudo mkdir -p {shared} && "
    "(mountpoint -q {shared} || sudo mount -t nfs {share} {shared}) && sudo chmod a+rwx {shared}"
)


def commands(options: argparse.Namespace) -> list[list[str]]:
    """Return the commands of one action, each as a list of words."""
    tpu = ["gcloud", "compute", "tpus"]
    where = [f"--zone={options.zone}"]
    on_all = [*tpu, "tpu-vm", "ssh", options.name, *where, "--worker=all"]
    if options.action == "create":
        generation = options.type.split("-")[0]
        if generation not in RUNTIMES:
            raise SystemExit(
                f"accelerator type {options.type!r}: unknown generation; use one of "
                + ", ".join(f"{name}-N" for name in RUNTIMES)
            )
        request = [
            *tpu, "queued-resources", "create", options.name, f"--node-id={options.name}", *where,
            f"--accelerator-type={options.type}", f"--runtime-version={RUNTIMES[generation]}",
        ]  # fmt: skip
        return [request + (["--spot"] if options.spot else [])]
    if options.action == "status":
        return [[*tpu, "queued-resources", "describe", options.name, *where]]
    if options.action == "install":
        copy = [*tpu, "tpu-vm", "scp", "--recurse", options.source, f"{options.name}:{FOLDER}"]
        install = [*on_all, f"--command={INSTALL.format(folder=FOLDER)}"]
        return [[*copy, *where, "--worker=all"], install]
    if options.action == "mount":
        mount = MOUNT.format(share=shlex.quote(options.share), shared=SHARED)
        return [[*on_all, f"--command={mount}"]]
    if options.action == "launch":
        if not options.command:
            raise SystemExit("nothing to launch; give the command after --")
        inner = shlex.join(options.command)
        # A session of its own outlives the connection; its output is what collect brings.
        detached = (
            f"cd $HOME/{FOLDER} && PATH=$HOME/venv/bin:$PATH nohup setsid {inner} "
            f"> $HOME/{options.log} 2>&1 < /dev/null &"
        )
        return [[*on_all, f"--command={detached}"]]
    if options.action == "collect":
        copy = [*tpu, "tpu-vm", "scp", "--recurse", *where, "--worker=0"]
        return [[*copy, f"{options.name}:{path}", options.into] for path in options.paths]
    return [
        [*tpu, "queued-resources", "delete", options.name, *where, "--force", "--quiet"],
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the commands of an action and, unless it is a dry run, run them in order."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:cut])
    options.command = words[cut + 1 :]
    for command in commands(options):
        print("+ " + shlex.join(command), flush=True)
        if options.dry_run:
            continue
        try:
            code = subprocess.run(command, check=False).returncode
        except FileNotFoundError:
            print("gcloud is not installed; --dry-run prints without it", file=sys.stderr)
            return 2
        if code != 0:
            print(f"stopped: the command above ended with code {code}", file=sys.stderr)
            return code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Cloud TPU slices: create, use, delete.")
    actions = parser.add_subparsers(dest="action", required=True)
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("name", help="of the slice")
    every.add_argument("--zone", required=True, help="for example us-west4-a")
    every.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")

    create = actions.add_parser("create", parents=[every], help="ask for a slice")
    create.add_argument("--type", required=True, help="for example v5litepod-16, v6e-8, v5p-16")
    create.add_argument("--spot", action="store_true", help="cheaper; may be taken away")
    actions.add_parser("status", parents=[every], help="see whether it is there")
    install = actions.add_parser("install", parents=[every], help="copy and install the source")
    install.add_argument("--source", default=".", help="directory of the source")
    mount = actions.add_parser("mount", parents=[every], help=f"show all a share, at {SHARED}")
    mount.add_argument("share", help="HOST:/SHARE, as of a Filestore instance")
    launch = actions.add_parser("launch", parents=[every], help="run what follows -- on all")
    launch.add_argument("--log", default="launch.log", help="file for its output, on each worker")
    collect = actions.add_parser("collect", parents=[every], help="bring files from worker 0")
    collect.add_argument("paths", nargs="+", help="on the worker")
    collect.add_argument("--into", default=".", help="directory here")
    actions.add_parser("delete", parents=[every], help="give it back, with all that is on it")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
