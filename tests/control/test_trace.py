"""The page of a trace: its structure, its data, and its keys in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from diffusion_jax.control.trace import render, trace_data
from diffusion_jax.control.wishes import Plan
from diffusion_jax.text.control_targets import make_target

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
STEPS = 5
DATA = {
    "target": {"length": 2, "keep": "</script> ___"},
    "steps": [90, 70, 50, 30, 10],
    "chains": [
        {
            "name": name,
            "text": "the pub",
            "anchored": [True, False, False],
            "words": [["[START]", "the", f"w{i}"] for i in range(STEPS)],
            "probabilities": [[1.0, 0.5, i / 4] for i in range(STEPS)],
        }
        for name in ("guided", "unguided")
    ],
}
# Pressed one after the other; what the page shows after each is written into the title.
KEYS = ["ArrowLeft", "ArrowLeft", "ArrowRight", "Home", "ArrowLeft", "End", "ArrowRight", " ", " "]
PROBE = """
<script>
const seen = [];
for (const key of KEYS) {
  document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const word = document.querySelector("#guided li:last-child span").textContent;
  seen.push([key, document.getElementById("step").value, word,
             document.getElementById("play").textContent]);
}
document.body.dataset.seen = JSON.stringify(seen);
document.body.dataset.spoken = document.getElementById("spoken").textContent;
document.body.dataset.background = document.querySelector("#guided li:last-child").style.background;
</script>
"""


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_is_one_file_and_its_data_cannot_end_it():
    page = render(DATA)
    assert not re.search(r"https?://|src=|@import|url\(", page)
    assert page.count("</script>") == 2
    body = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL).group(1)
    assert json.loads(body) == DATA


def test_the_page_names_its_parts_for_those_who_do_not_see_it():
    elements = Elements()
    elements.feed(render(DATA))
    by_id = {attrs["id"]: (tag, attrs) for tag, attrs in elements.found if "id" in attrs}
    assert elements.found[0] == ("html", {"lang": "en"})
    assert by_id["step"][0] == "input"
    assert ("label", {"for": "step", "class": "quiet"}) in elements.found
    assert by_id["play"][1]["aria-pressed"] == "false"
    assert by_id["spoken"][1]["aria-live"] == "polite"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.slow
def test_keys_move_through_the_steps_in_a_browser(tmp_path):
    probe = PROBE.replace("KEYS", json.dumps(KEYS))
    path = tmp_path / "trace.html"
    path.write_text(render(DATA).replace("</body>", probe + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            f"--user-data-dir={tmp_path / 'profile'}",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    elements = Elements()
    elements.feed(done.stdout)
    body = next(attrs for tag, attrs in elements.found if tag == "body")
    seen = json.loads(body["data-seen"])
    assert [step for _, step, *_ in seen[:7]] == ["3", "2", "3", "0", "0", "4", "4"]
    assert [word for _, _, word, _ in seen[:7]] == ["w3", "w2", "w3", "w0", "w0", "w4", "w4"]
    # Space starts over from the end, and stops.
    assert [play for *_, play in seen[-2:]] == ["Stop", "Play"]
    assert body["data-spoken"].startswith("guided: [START] the w")
    assert "rgb" in body["data-background"]
    items = [attrs.get("class") for tag, attrs in elements.found if tag == "li"]
    assert items.count("given special") + items.count("given") == 2


@pytest.mark.slow
def test_a_trace_shows_both_chains_from_one_noise(controller):
    data = trace_data(controller, Plan(make_target(length=6, attributes=["food=thai"])))
    guided, unguided = data["chains"]
    assert len(data["steps"]) == 4
    assert data["steps"] == sorted(data["steps"], reverse=True)
    assert guided["words"][-1][7] == "[END]"
    assert guided["anchored"] == [i not in range(1, 7) for i in range(18)]
    assert not any(unguided["anchored"])
    assert all(0 <= p <= 1 for frame in guided["probabilities"] for p in frame)
    words = [w for w in guided["words"][-1] if not w.startswith("[")]
    assert " ".join(words) == guided["text"]


@pytest.mark.slow
def test_a_trace_ends_as_the_candidate_that_was_written(controller):
    targets = [make_target(length=5), make_target(keep="the ___ is ___.", keywords=["thai"])]
    candidates = list(controller.write(targets, 4, seed=3))[1]
    assert len({candidate.text for candidate in candidates}) > 1
    for number in (0, 3):
        plan = candidates[number].plan
        data = trace_data(controller, plan, seed=3, index=1, candidate=number)
        assert data["chains"][0]["text"] == candidates[number].text
