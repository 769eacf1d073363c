"""What an import costs and needs, asked of fresh processes."""

import subprocess
import sys

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "albert_fast._loader":
            raise ImportError("the extension is not built")
sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_model_needs_no_compiled_extension():
    code = BLOCKED + (
        "from albert_fast.config import AlbertConfig\n"
        "from albert_fast.model import AlbertForPreTraining\n"
        "print(sum(p.numel() for p in AlbertForPreTraining(AlbertConfig.from_preset('tiny')).parameters()))\n"
        "try:\n    import albert_fast.data.batches\nexcept ImportError as error:\n    print(error)\n"
    )
    parameters, error = run(code).splitlines()
    assert int(parameters) > 1_000_000
    assert error == "the extension is not built"
