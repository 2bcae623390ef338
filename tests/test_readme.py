"""What the README says must stay true."""

import re
from pathlib import Path

import yaml

from gleam.config import Config, load_config

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_setting_with_its_default():
    block = re.search(r"^```yaml\n(.*?)^```", README, re.S | re.M)
    assert block is not None
    settings = yaml.safe_load(block.group(1))
    assert load_config(settings) == Config()
    assert settings.keys() == Config.model_fields.keys()
    for section in ("data", "network", "strategy", "training"):
        assert settings[section].keys() == type(getattr(Config(), section)).model_fields.keys()


def test_the_readme_has_two_set_up_commands():
    assert len(re.findall(r"^```sh set-up\n", README, re.M)) == 2


def test_every_file_the_readme_links_to_exists():
    home = Path(__file__).parent.parent
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (home / link).exists()] == []
