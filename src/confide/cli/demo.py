"""``confide demo``: the whole story on real data, told while it happens.

Every step is a command that a user can type; the demo runs the same code and shows the command line.  It has a home folder of its own,
so it neither sees nor changes the user's keys and runs.
"""

from __future__ import annotations

import io
import json
import shutil
import string
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from confide.cli.output import Context, Story, answers, print_table, short
from confide.errors import ConfideError, DataError, UnavailableError, UsageError

if TYPE_CHECKING:
    from confide.cli.owners import BrokerAddress

_MARK = ".confide-demo"
_FILES = Path(__file__).parent / "demo_files"


@click.command("demo")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where the demo works [default: demo in the home folder].")
@answers
def command(context: Context, folder: Path | None) -> None:
    """Show the whole story on real data, on this machine.

    Two owners encrypt real tables and grant them to one job.  The job runs on simulated nodes that attest each other; a tampered node and
    a changed file are refused; the analyst opens the result; the receipt is re-checked.  Simulation protects nothing.
    """
    from confide.cli.demo_tables import check_installed

    check_installed()
    demo = Demo(_fresh_folder(folder or context.settings.home / "demo"), Story(simulated=True))
    with demo.broker():
        demo.encrypt_tables()
        demo.grant()
        run = demo.run()
        refusal = demo.run_on_changed_file()
        delays, model = demo.open_results()
        checked = demo.verify(run["run"])
    value = {
        "run": run["run"],
        "refused_workers": run.get("refused", []),
        "changed_file": refusal.code,
        "delays": delays,
        "model": model,
        "verified": checked["accepted"],
        "simulated": True,
        "folder": str(demo.folder),
        "seconds": round(time.monotonic() - demo.began, 1),
    }
    context.answer(value, lambda: demo.close(run["run"], delays, model))


def _fresh_folder(folder: Path) -> Path:
    """An empty folder for the demo; only one that an earlier demo made is emptied."""
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise UsageError(f"{folder} is not empty and was not made by the demo", hint="choose another with --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    (folder / _MARK).touch()
    return folder


@dataclass
class Demo:
    """One showing: its folder (also its home folder) and its story."""

    folder: Path
    story: Story
    address: BrokerAddress = field(init=False)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.job = self.folder / "job.toml"

    def confide(self, *words: str | Path, quiet: bool = False) -> dict[str, Any]:
        """Run one command of this command line and return its answer."""
        from confide.cli.main import cli

        texts = [str(word) for word in words]
        if not quiet:
            shown = " ".join(text.replace(f"{self.folder}/", "") for text in texts)
            self.story.begin(f"$ confide {shown}")
        said = io.StringIO()
        with redirect_stdout(said):
            cli.main(args=["--home", str(self.folder), *texts, "--json"], prog_name="confide", standalone_mode=False)
        answer: dict[str, Any] = json.loads(said.getvalue())
        return answer

    @contextmanager
    def broker(self, host: str = "127.0.0.1") -> Iterator[None]:
        """The key service, as a process of its own, for as long as the block runs."""
        from confide.cli.broker import spawn

        key_file = self.folder / "broker-master.key"
        self.story.begin("$ confide broker serve --simulate --key-file broker-master.key &")
        with spawn(self.folder, key_file, host=host) as address:
            self.address = address
            self.story.ok(f"broker: {address.url}, key {short(address.spki)}")
            for name in ("airline", "weather", "analyst"):
                ticket = self.folder / f"{name}.enrolment.json"
                self.confide("broker", "enrol", name, "--key-file", key_file, "--out", ticket, quiet=True)
                self.confide("keys", "init", name, "--enrolment", ticket, quiet=True)
            self.story.ok("enrolled: airline, weather (they own data) and analyst (opens results)")
            text = string.Template((_FILES / "job.toml").read_text(encoding="utf-8"))
            self.job.write_text(text.substitute(broker_url=address.url, broker_spki=address.spki), encoding="utf-8")
            shutil.copy(_FILES / "delays.py", self.folder)
            yield

    def encrypt_tables(self) -> None:
        """Each owner encrypts its table; the plaintext is gone before any node starts."""
        from confide.cli.demo_tables import write_flights, write_weather

        with tempfile.TemporaryDirectory(prefix="confide-demo-plain-") as plain:
            for owner, source in (("airline", write_flights(Path(plain))), ("weather", write_weather(Path(plain)))):
                self.confide("keys", "create", f"{owner}/{source.stem}", quiet=True)
                with self.story.working(f"encrypting {source.name}"):
                    made = self.confide("data", "encrypt", source, self.folder / "data" / source.stem, "--key", f"{owner}/{source.stem}")
                self.story.ok(f"{owner}: {made['rows']:,} rows encrypted under {owner}/{source.stem}; the plaintext is removed")

    def grant(self) -> None:
        """Both owners let exactly this job, on nodes that run exactly this software, use their keys."""
        self.confide("attest", "measure", "--simulate", "--policy-out", self.folder / "policy.toml")
        for key in ("airline/flights", "weather/weather"):
            made = self.confide("keys", "grant", key, "--job", self.job, "--accept-job-policy", "--recipient", "analyst")
        self.story.ok(f"both owners granted job {short(made['job'])}: its code, inputs, outputs and policy")

    def run(self) -> dict[str, Any]:
        """The run, with one worker whose software was changed."""
        answer = self.confide("run", self.job, "--simulate", "--fault", "worker-3=tampered")
        if not answer.get("refused"):
            raise UnavailableError("the tampered worker was not refused", hint="this is a bug: please report it")
        return answer

    def run_on_changed_file(self) -> ConfideError:
        """The same job on a copy of the data with one byte flipped: it must be refused."""
        copy = self.folder / "data" / "flights-changed"
        shutil.copytree(self.folder / "data" / "flights", copy)
        victim = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        with victim.open("r+b") as file:
            file.seek(victim.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, io.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        changed = self.folder / "job-changed-file.toml"
        text = self.job.read_text(encoding="utf-8")
        for old, new in (("data/flights", "data/flights-changed"), ("results/", "results-changed/"), ("workers = 3", "workers = 1")):
            text = text.replace(old, new)  # none of these is in the job's digest: it is the same job, with the same grants
        changed.write_text(text, encoding="utf-8")
        self.story.begin("one byte of a copy of the airline's data is flipped; the same job again, on that copy")
        try:
            self.confide("run", changed, "--simulate")
        except DataError as refusal:
            self.story.refused(f"refused, as it must be: error[{refusal.code}]: {refusal.message}")
            return refusal
        raise UnavailableError("a changed file was not refused", hint="this is a bug: please report it")

    def open_results(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The analyst opens both results."""
        import pyarrow.parquet as pq

        tables = []
        for name in ("delays", "model"):
            out = self.folder / f"{name}.parquet"
            self.confide("data", "decrypt", self.folder / "results" / name, out, "--as", "analyst")
            rows = pq.read_table(out).to_pylist()
            tables.append(sorted(rows, key=lambda row: (row["wind"], row["visibility"])) if name == "delays" else rows)
        self.story.ok("the analyst, whom both owners named as recipient, opened both results")
        return tables[0], tables[1]

    def verify(self, run: str) -> dict[str, Any]:
        """The receipt, re-checked from files alone."""
        checked = self.confide("verify", run)
        self.story.ok(f"receipt accepted: {len(checked['checks'])} checks, from files alone")
        return checked

    def close(self, run: str, delays: list[dict[str, Any]], model: list[dict[str, Any]]) -> None:
        """Print the results, what was shown and what was not, and what to try next."""
        click.echo("\nArrival delays in minutes, from two owners' data that nobody saw in plaintext:\n")
        print_table([name.replace("_", " ") for name in delays[0]], [list(row.values()) for row in delays])
        click.echo("\nA model that predicts the arrival delay:\n")
        print_table(("measure", "value"), [(row["measure"], float(row["value"])) for row in model])
        click.echo(
            f"\nShown in {time.monotonic() - self.began:.0f} s: attestation, keys released by policy, encrypted data and results,\n"
            "two refusals, and a receipt.\n"
            "Not shown: protection.  The TEEs were simulated, and simulation protects nothing.\n\n"
            f"Try next:\n  export PATH={sysconfig.get_path('scripts')}:$PATH CONFIDE_HOME={self.folder}\n"
            "  confide broker serve --simulate --key-file $CONFIDE_HOME/broker-master.key &\n"
            f"  confide verify {run}\n  confide attest show {run}\n  confide runs show {run}\n"
            f"  confide data inspect {self.folder}/results/delays\n  less {self.folder}/delays.py {self.folder}/job.toml"
        )
