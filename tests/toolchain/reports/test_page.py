"""The report's page in a real browser without a network: sorting, clicking and listening."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from device_runner.errors import AsrDeployError
from device_runner.files import write_text
from toolchain.accuracy.progress import NoProgress
from toolchain.accuracy.scoring import TRANSCRIPTS
from toolchain.data.datasets import DataSet, open_data
from toolchain.models.anchor_model import AnchorModel
from toolchain.reports.page import write_report
from toolchain.scenario.points import Curve, read_curve
from toolchain.scenario.sweep import Sweep, run_all


@pytest.fixture(scope="module")
def swept(tiny: AnchorModel, test_clean: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two methods on some utterances of every voice. Tests must not change it."""
    folder, data = tmp_path_factory.mktemp("sweep"), replace(test_clean, utterances=test_clean.utterances[::8])
    methods = (("uniform", (2.0, 3.0, 5.0)), ("palette", (4.0, 12.0)))
    dev = open_data("digits", "dev-clean")
    run_all([Sweep(tiny, codec, {}, None, dev, data, folder, 1, NoProgress(), values=values) for codec, values in methods])
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, in which no host name resolves."""
    binaries = [shutil.which(name) for name in ("chromium", "chromedriver")]
    assert all(binaries), "Chromium is required to test the page; `make test` installs it (apt-get install chromium chromium-driver)."
    options = webdriver.ChromeOptions()
    options.binary_location = str(binaries[0])
    # No sandbox, because Chromium refuses to run as root with one; the page is our own.
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1300,1400",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(binaries[1])))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def report(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the sweep's report."""
    folder = tmp_path_factory.mktemp("report")
    write_report(read_curve(swept), folder)
    return folder / "report.html"


@pytest.fixture
def page(report: Path, browser: webdriver.Chrome) -> webdriver.Chrome:
    """The browser with the page freshly loaded."""
    browser.get(report.as_uri())
    return browser


def column(page: webdriver.Chrome, number: int) -> list[str]:
    return [each.text for each in page.find_elements(By.CSS_SELECTOR, f"#points tbody td:nth-child({number})")]


def test_the_page_loads_without_a_network_and_without_errors(page: webdriver.Chrome) -> None:
    assert page.title == "DIGITS_ASR_TINY on digits test-clean"
    assert page.find_elements(By.CSS_SELECTOR, "#curve .scatterlayer .trace")
    assert page.get_log("browser") == []
    fetched = page.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert all(each.startswith("data:") for each in fetched)
    assert len(column(page, 1)) == 5 and "points in the WER range; a complete test case has 5" in page.page_source


def test_a_click_on_a_head_sorts_up_and_down(page: webdriver.Chrome) -> None:
    head = page.find_elements(By.CSS_SELECTOR, "#points th")[4]
    assert head.text == "cSize"
    head.click()
    sizes = [float(each) for each in column(page, 5)]
    assert sizes == sorted(sizes) and head.get_attribute("aria-sort") == "ascending"
    head.click()
    assert [float(each) for each in column(page, 5)] == sizes[::-1]
    page.find_elements(By.CSS_SELECTOR, "#points th")[0].click()
    assert column(page, 1) == sorted(column(page, 1))


def test_a_click_on_a_row_shows_its_configuration_and_its_worst_utterances(page: webdriver.Chrome, swept: Path) -> None:
    details = page.find_element(By.ID, "details")
    assert not details.is_displayed()
    row = next(each for each in page.find_elements(By.CSS_SELECTOR, "#points tbody tr") if each.text.startswith("uniform-2"))
    row.click()
    assert details.is_displayed() and details.find_element(By.TAG_NAME, "h3").text == "uniform-2"
    assert '{"bits":2}' in details.text.replace(" ", "").replace("2.0", "2") and "bundled, sha256" in details.text
    worst = details.find_elements(By.CSS_SELECTOR, ".utterance h4")
    point = next(each for each in read_curve(swept).points if each.configuration == "uniform-2")
    lines = [json.loads(line) for line in (point.evaluation / TRANSCRIPTS).read_text().splitlines()]
    most = max(each["substitutions"] + each["deletions"] + each["insertions"] for each in lines)
    assert 1 <= len(worst) <= 5 and any(f": {most} errors in" in each.text for each in worst)
    assert details.find_elements(By.CSS_SELECTOR, ".replace, .delete, .insert")
    # The bundled recordings are small enough to be in the page.
    WebDriverWait(page, 10).until(lambda driver: driver.execute_script("return document.querySelector('audio').readyState") >= 1)
    assert page.execute_script("return document.querySelector('audio').duration") > 0.3
    assert "chosen" in (row.get_attribute("class") or "")


def test_a_click_on_a_point_shows_the_same(page: webdriver.Chrome) -> None:
    points = page.find_elements(By.CSS_SELECTOR, "#curve .scatterlayer .trace .points path")
    inside = [each for each in points if each.is_displayed()]
    ActionChains(page).move_to_element(inside[-1]).pause(0.2).click().perform()
    WebDriverWait(page, 10).until(lambda driver: driver.find_element(By.ID, "details").is_displayed())
    assert page.find_element(By.CSS_SELECTOR, "#details h3").text.startswith(("uniform-", "palette-"))


def test_the_files_beside_the_page(swept: Path, tmp_path: Path) -> None:
    written = write_report(read_curve(swept), tmp_path / "out")
    assert written.missing == [] and all(path.is_file() for path in written.files)
    rows = list(csv.DictReader((tmp_path / "out" / "points.csv").open()))
    assert len(rows) == 5 and all((tmp_path / "out" / row["evaluation"] / TRANSCRIPTS).is_file() for row in rows)
    assert not any(Path(row["evaluation"]).is_absolute() for row in rows)
    pairs = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert len(pairs) == 6 * 5 // 2 and sum(each["theirs"] == "anchor" for each in pairs) == 5
    assert b"<svg" in (tmp_path / "out" / "curve.svg").read_bytes()
    again = read_curve(tmp_path / "out")  # a report is itself a curve folder
    assert write_report(again, tmp_path / "again").comparisons == written.comparisons


def changed(curve: Curve, **changes: Any) -> Curve:
    return curve.model_copy(update={"points": tuple(each.model_copy(update=changes) for each in curve.points)})


def test_names_cannot_break_out_of_the_page(swept: Path, browser: webdriver.Chrome, tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=document.title='broken'>"
    write_report(changed(read_curve(swept), configuration=evil), tmp_path)
    browser.get((tmp_path / "report.html").as_uri())
    browser.find_element(By.CSS_SELECTOR, "#points tbody tr").click()
    assert browser.title == "DIGITS_ASR_TINY on digits test-clean" and column(browser, 1)[0] == evil
    assert not browser.find_elements(By.CSS_SELECTOR, "img[src=x]")


def test_what_a_report_lacks_is_said(swept: Path, tmp_path: Path) -> None:
    elsewhere = changed(read_curve(swept), evaluation=tmp_path / "gone")
    written = write_report(elsewhere, tmp_path / "a")
    assert len(written.missing) == 5 and "contains no transcripts, so uniform-2 is not compared." in written.missing[0]
    named = read_curve(swept).model_copy(update={"data": "thesis"})
    assert "Give their location with --data." in write_report(named, tmp_path / "b").missing[0]
    assert write_report(named, tmp_path / "c", "digits").missing == []
    lines = (swept / "points").rglob(TRANSCRIPTS)
    short = tmp_path / "short"
    write_text(short / TRANSCRIPTS, next(iter(lines)).read_text().split("\n")[0] + "\n")
    with pytest.raises(AsrDeployError, match="do not cover the same utterances"):
        write_report(changed(read_curve(swept), evaluation=short), tmp_path / "d")
