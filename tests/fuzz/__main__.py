"""Runs the targets; see :mod:`tests.fuzz`."""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .targets import TARGETS, Target
from .work import measure
from .worker import fuzz

MAX_LENGTH = 1 << 14  # octets of input
MEMORY = 2048  # MiB
TIMEOUT = 20  # seconds for one input

_processes = multiprocessing.get_context("forkserver")


def run(target: Target, seconds: int, folder: Path) -> bool:
    """Fuzzes one target in a process of its own; whether nothing was found."""
    corpus, log = folder / target.name, folder / f"{target.name}.log"
    corpus.mkdir(parents=True, exist_ok=True)
    count = 0
    for data in target.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:32]).write_bytes(data)
        count += 1
    words = folder / f"{target.name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words()))
    print(f"{target.name}: {count} seeds, {seconds} s", flush=True)
    options = [
        f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", f"-rss_limit_mb={MEMORY}", f"-timeout={TIMEOUT}",
        *([f"-dict={words}"] if any(target.words()) else []),
        f"-artifact_prefix={folder}/{target.name}-", "-print_final_stats=1",
    ]  # fmt: skip
    worker = _processes.Process(target=fuzz, args=(target.name, log, [str(corpus), *options]))
    worker.start()
    worker.join(seconds + 600)
    if worker.exitcode is None:
        worker.kill()
        worker.join()
    code = worker.exitcode
    lines = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith("INFO")]
    if code:
        print(f"{target.name}: FOUND SOMETHING; log {log}, inputs {folder}/{target.name}-*", *lines[-40:], sep="\n  ")
        return False
    done = next((line for line in reversed(lines) if "number_of_executed_units" in line), "").split()
    cover = next((line for line in reversed(lines) if " cov: " in line), " cov: ?").split("cov: ")[1].split()[0]
    slowest = log.with_suffix(".slowest")
    work = measure(target, slowest.read_bytes()) if slowest.exists() else None
    if work is not None and work.share > 1:
        print(f"{target.name}: TOO MUCH WORK: {work}; input {slowest}", flush=True)
        return False
    found = f"nothing; {done[-1] if done else '?'} inputs, coverage {cover}, slowest {work}, log {log}"
    print(f"{target.name}: {found}", flush=True)
    return True


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in word)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description="Fuzz everything that reads what peers send.")
    parser.add_argument("--minutes", type=float, default=10, help="for each target (10)")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (1)")
    parser.add_argument("--folder", type=Path, help="where corpus, logs and findings go and stay (a temporary folder)")
    parser.add_argument("--replay", type=Path, help="give this one input to the target and show what happens")
    options = parser.parse_args()
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    if options.replay:
        for target in chosen:
            print(f"{target.name}: {'accepted' if target(options.replay.read_bytes()) else 'refused'}")
        return 0
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="mls-fuzz-"))).absolute()
    print(f"{len(chosen)} targets, {options.minutes:g} minutes each, {options.jobs} at a time, in {folder}", flush=True)
    _processes.set_forkserver_preload(["tests.fuzz.instrumented"])
    with ThreadPoolExecutor(options.jobs) as pool:
        clean = list(pool.map(lambda target: run(target, round(60 * options.minutes), folder), chosen))
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
