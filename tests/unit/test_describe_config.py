"""The reference page and the JSON Schema are made from `config.py`, and both say all of it."""

import json
import re
from pathlib import Path

from windvane.config import ModelConfig
from windvane.describe_config import describe_config, main, stale_files
from windvane.settings import REPOSITORY


def _texts() -> dict[str, str]:
    return {path.name: text for path, text in describe_config().items()}


def test_generated_files_are_not_stale() -> None:
    assert stale_files(REPOSITORY) == []
    assert main(["--check"]) == 0


def test_a_changed_file_is_stale(tmp_path: Path) -> None:
    for path, text in describe_config().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert stale_files(tmp_path) == []
    (tmp_path / "docs" / "config.md").write_text("old")
    assert stale_files(tmp_path) == ["docs/config.md"]


def test_every_field_is_on_the_page_with_a_description() -> None:
    page = _texts()["config.md"]
    definitions = ModelConfig.model_json_schema()["$defs"]
    for definition in definitions.values():
        for field in definition.get("properties", {}):
            assert f"| `{field}` |" in page
    for line in re.findall(r"^\| `.*", page, re.MULTILINE):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert len(cells) == 4, line
        assert cells[3] or cells[0] == "`type`", line


def test_the_schema_refuses_unknown_fields_and_knows_defaults() -> None:
    schema = json.loads(_texts()["schema.json"])
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Train"]["properties"]["window"]["default"] == "90d"
