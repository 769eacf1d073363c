"""The manifest of a prepared folder: read back as it was written, and refused where a byte of it is another."""

import pytest

from albert_fast.data.manifest import FORMAT, VERSION, open_folder, write_manifest
from albert_fast.options import UserError

DATA = {"format": FORMAT, "version": VERSION, "tokens": 7, "shards": [{"file": "shard-00000.bin"}]}


def test_what_is_written_is_read_back(tmp_path):
    write_manifest(tmp_path, DATA)
    manifest = open_folder(tmp_path)
    assert (manifest.tokens, manifest.shards) == (7, [tmp_path / "shard-00000.bin"])
    assert DATA.items() <= manifest.data.items()


def test_every_changed_byte_is_refused_by_name(tmp_path):
    write_manifest(tmp_path, DATA)
    file = tmp_path / "manifest.json"
    content = file.read_bytes()
    for offset, byte in enumerate(content):
        file.write_bytes(content[:offset] + bytes([byte ^ 1]) + content[offset + 1 :])
        with pytest.raises(UserError, match=r"manifest\.json: offset \d+"):
            open_folder(tmp_path)


def test_other_folders_and_versions_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        open_folder(tmp_path / "none")
    with pytest.raises(UserError, match="is not a prepared folder"):
        open_folder(tmp_path)
    write_manifest(tmp_path, {**DATA, "version": VERSION + 1})
    with pytest.raises(UserError, match=f"version {VERSION + 1} is not {FORMAT} version {VERSION}"):
        open_folder(tmp_path)
