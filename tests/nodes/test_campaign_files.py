"""Damaged weight files through everything that reads them; see tests/campaign/."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import shutil
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from safetensors import safe_open

from hypir.__main__ import main
from hypir.encoder import save_encoder
from hypir.inspect import describe_file
from hypir.priors import SD2
from hypir.texture import init_texture_mlp
from hypir.weights import HypirWeights, read_weights, save_weights
from tests.campaign.damage import Damaged, Sound, damaged
from tests.hypir.conftest import peft_lora  # noqa: F401 - a fixture

from . import small_models

HANGS = 120
"""Seconds of one file after which the process ends with its stack: it would hang."""
SLOW = 20
"""Seconds of one file that count as a finding; a second is usual on a busy machine."""
MOST_MIB = 300
"""Growth of the process's peak memory by one file: what is read, several times, and not more."""


def sound_of(path: Path) -> Sound:
    with safe_open(path, framework="pt") as file:
        return Sound({k: file.get_tensor(k) for k in file.keys()}, file.metadata())


@pytest.fixture(scope="module")
def sounds(host, vae, peft_lora, tmp_path_factory):  # noqa: F811
    """Our layout without and with texture, an encoder, and the public layout at rank 2."""
    folder = tmp_path_factory.mktemp("sound")
    factors = small_models.lora_for(small_models.sd2_unet(), ("to_q", "proj_in", "conv_out"), 1)
    for name, texture in (("plain", None), ("texture", init_texture_mlp(1024, hidden=2))):
        weights = HypirWeights(SD2, factors, 1, 200, 200, 1.0, texture)
        save_weights(weights, folder / f"{name}.safetensors")
    save_encoder(vae.first_stage_model.state_dict(), folder / "encoder.safetensors")
    # a part of the public file's modules: a whole one is several megabytes for every try
    some = dict(list(peft_lora.items())[:24])
    ours = [sound_of(file) for file in sorted(folder.iterdir())]
    return [*ours, Sound(some, {}), Sound(factors_under_peft_names(factors), {})]


def factors_under_peft_names(factors) -> dict:
    names = {}
    for module, (up, down) in factors.items():
        names |= {f"{module}.lora_A.default.weight": down, f"{module}.lora_B.default.weight": up}
    return names


class Watched:
    """Programs that the process starts, by its audit events."""

    def __init__(self):
        self.events: list[str] = []
        self.on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments) -> None:
        if self.on and event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
            self.events.append(f"{event} {arguments}")


def sentence(error: BaseException, name: str) -> str | None:
    """What is wrong with an error as an answer; None if it is a sentence with the file's name."""
    if not isinstance(error, ValueError | MemoryError):
        return f"{type(error).__name__}: {error}"
    if name not in str(error) or "\n" in str(error):
        return f"a message without the file's name, or of several lines: {error}"
    return None


def test_files(campaign, host, sd2, vae, sounds, tmp_path):
    record = campaign("files")
    trap, target = tmp_path / "trap", tmp_path / "converted.safetensors"
    watched = Watched()
    most = {"seconds": 0.0, "MiB": 0.0}

    def load(node: str, model, folder: str, case: Damaged):
        file = host.models / folder / f"damaged{case.suffix}"
        file.write_bytes(case.content)
        try:
            return host.nodes[node].execute(model, file.name, *node.endswith("Lora") * [1.0])
        finally:
            file.unlink()

    def convert(file: Path) -> str | None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(["convert", str(file), str(target)])
        if code == 0:
            read_weights(target)
        elif target.exists():
            return "convert failed and left a file"
        elif file.name not in said.getvalue() or said.getvalue().count("\n") > 1:
            return f"convert said {said.getvalue()!r}"
        return None

    def ask(case: Damaged, file: Path) -> tuple[list[str], int]:
        """What went wrong, and how many of the four took the file."""
        wrong, taken = [], 0
        calls = {
            "inspect": lambda: describe_file(file),
            "convert": lambda: convert(file),
            "Load HYPIR LoRA": lambda: load("HYPIRLoadLora", sd2, "loras", case),
            "Load HYPIR Encoder": lambda: load("HYPIRLoadEncoder", vae, "vae", case),
        }
        for name, call in calls.items():
            try:
                result = call()
            except Exception as error:
                problem = sentence(error, f"damaged{case.suffix}")
            else:
                problem = result if name == "convert" else None
                taken += problem is None and name != "convert"
                if name == "Load HYPIR LoRA":
                    count = len(result.result[0].patches)
                    problem = None if count else "nothing was applied, and nobody says so"
            if problem:
                wrong.append(f"{name}: {problem}")
        if trap.exists() or watched.events:
            wrong.append(f"code ran: {watched.events}")
            shutil.rmtree(trap, ignore_errors=True)
            watched.events.clear()
        if sd2.patches or vae.patcher.patches or sd2.get_attachment("hypir") is not None:
            wrong.append("a part of the file stayed in the model")
        return wrong, taken

    @seed(record.seed)
    @settings(
        max_examples=record.asked,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(sounds, str(trap)))
    def one(case: Damaged) -> None:
        file = tmp_path / f"damaged{case.suffix}"
        file.write_bytes(case.content)
        set_peak_back()
        before, start = peak_mib(), time.monotonic()
        faulthandler.dump_traceback_later(HANGS, exit=True)
        watched.on = True
        wrong, taken = ask(case, file)
        watched.on = False
        faulthandler.cancel_dump_traceback_later()
        seconds, grown = time.monotonic() - start, peak_mib() - before
        # the first ones load what the libraries need
        most["MiB"] = max(most["MiB"], grown if record.done > 20 else 0)
        most["seconds"] = max(most["seconds"], seconds)
        if seconds > SLOW or (record.done > 20 and grown > MOST_MIB):
            wrong.append(f"took {seconds:.0f} s and {grown:.0f} MiB more")
        for problem in wrong:
            record.find(problem, str(case))
        kind = case.what.partition(":")[0]
        told = "taken: nothing tells it from a sound file" if taken else "refused"
        record.tried(f"{kind}: {told}")
        record.facts["slowest file"] = f"{most['seconds']:.1f} s for all four"
        record.facts["largest growth of the peak memory by one file"] = f"{most['MiB']:.0f} MiB"
        target.unlink(missing_ok=True)
        file.unlink()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles in old protocols
        one()
    record.end()


def set_peak_back() -> None:
    """Make the process's highest memory what it is now, where the system can."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def peak_mib() -> float:
    file = Path("/proc/self/status")
    if file.exists():
        (line,) = (x for x in file.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return psutil.Process().memory_info().rss / 2**20
