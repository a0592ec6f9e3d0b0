"""The page is built, asks nothing of other hosts, and imports no torch."""

from __future__ import annotations

import re
import subprocess
import sys

from cf_app.ui.layout import Places, build_page
from cf_app.ui.player import ASSETS
from tests.fake_worker import FakeEngine, FakeWorker


def test_the_page_holds_player_and_prompt_and_keeps_places_for_others():
    import gradio as gr

    page = build_page(
        FakeEngine(), FakeWorker(FakeEngine()), places=Places(memory=lambda tabs: gr.HTML("<p>memory</p>") and None)
    )
    config = page.demo.get_config_file()
    names = {component["props"].get("elem_id") for component in config["components"]}
    assert {"cf-player", "cf-prompt", "cf-memory"} <= names and "cf-timeline" not in names
    assert any(target[1] == "unload" for dependency in config["dependencies"] for target in dependency["targets"])
    page.tabs.close_all()


def test_assets_ask_nothing_of_other_hosts():
    for path in ASSETS.iterdir():
        if path.suffix in {".js", ".css", ".html"}:
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|@import|url\(\s*['\"]?//", text), path.name


def test_templates_hold_nothing_that_gradio_would_evaluate():
    for name in ("player.html", "prompt.html"):
        text = (ASSETS / name).read_text(encoding="utf-8")
        assert "`" not in text and "${" not in text and "{{" not in text and "\\" not in text, name


def test_the_page_imports_no_torch():
    code = "import sys, cf_app.ui.layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
