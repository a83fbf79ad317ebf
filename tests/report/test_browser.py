"""The report in a real browser: it draws, loads nothing and runs nobody else's script."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from report.fake_study import HOSTILE, fake_trials, make_header
from upnas.front import summarise
from upnas.report.html import report_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def _require_browser() -> str:
    """Return the browser; without one fail in CI and skip elsewhere."""
    missing = [] if CHROMIUM else ["chromium (apt-get install chromium)"]
    if importlib.util.find_spec("playwright") is None:
        missing.append("playwright (pip install playwright)")
    if missing:
        reason = f"The browser test needs {' and '.join(missing)}."
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    assert CHROMIUM is not None
    return CHROMIUM


@pytest.mark.slow
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_report_in_chromium(tmp_path: Path, color_scheme: str) -> None:
    executable = _require_browser()
    from playwright.sync_api import sync_playwright

    trials = [
        trial.model_copy(update={"baseline": HOSTILE}) if trial.baseline else trial
        for trial in fake_trials()
    ]
    page_path = tmp_path / "report.html"
    page_path.write_text(report_html(summarise(make_header(HOSTILE), trials)), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        context = browser.new_context(color_scheme=color_scheme)  # type: ignore[arg-type]
        page = context.new_page()
        problems: list[str] = []
        requests: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" else None,
        )
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_path.as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.figure')].every(slot => slot.querySelector('svg'))"
        )
        num_diamonds = page.locator("#scatter-1 .scatterlayer .point").count()
        names = page.locator("#scatter-1 .scatterlayer text").all_text_contents()
        text_color = page.locator("#scatter-1 .xtick text").first.evaluate(
            "element => getComputedStyle(element).fill"
        )
        num_without_webgl = page.locator(".no-webgl").count()
        axis_titles = page.locator("#parallel .axis-title").all_text_contents()
        title = page.locator("h1").text_content()
        was_run = page.evaluate("window.__xss !== undefined")
        browser.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert num_diamonds >= 20
    assert HOSTILE in names
    assert num_without_webgl == 0  # the policy must let the shaders compile
    assert axis_titles[-1] == "Pareto set"
    assert title == HOSTILE
    assert not was_run
    assert (min(map(int, text_color[4:-1].split(","))) > 128) == (color_scheme == "dark")
