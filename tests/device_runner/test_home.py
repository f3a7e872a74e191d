"""Home folders in paths: what is expanded, and what is a name that begins with ~."""

from pathlib import Path

import pytest

from device_runner.errors import AsrDeployError
from device_runner.files import cache_folder
from device_runner.home import finds_home, in_home

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def homeless(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry among the users, as in many containers."""

    def unknown(user: object) -> None:
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("ASRDEPLOY_CACHE", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.parametrize(("given", "found"), [("~/x", "x"), ("~", ""), ("~/a//b", "a//b"), ("~/x y[b]", "x y[b]")])
def test_a_leading_tilde_is_the_home_folder(home: Path, given: str, found: str) -> None:
    assert in_home(given) == f"{home}/{found}".rstrip("/")
    assert in_home(Path(given)) == home / found


def test_the_home_folder_of_another_user_is_found() -> None:
    assert in_home("~root/x") == str(Path("~root/x").expanduser())


@pytest.mark.parametrize("given", ["DIGITS_ASR_TINY", "a/~/b", "./~/x", "~draft.wav", "draft~", "-", "", "package.module:factory"])
def test_other_texts_stay(given: str) -> None:
    assert in_home(given) == given


def test_an_unknown_user_is_named_unless_there_is_such_a_folder(tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="there is no user nosuchuser"):
        in_home("~nosuchuser/x")
    (tmp_path / "~nosuchuser").mkdir()
    assert in_home("~nosuchuser/x") == "~nosuchuser/x"


def test_functions_get_paths_in_the_home_folder(home: Path) -> None:
    called = finds_home(lambda *args, **kwargs: (args, kwargs))
    assert called("~/a", 1, [Path("~/b")], c="~/c", d=None) == ((f"{home}/a", 1, [home / "b"]), {"c": f"{home}/c", "d": None})


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_one_sentence_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="Set ASRDEPLOY_CACHE to a folder"):
        cache_folder()
    with pytest.raises(AsrDeployError, match="~/x: the home folder of this user is not known"):
        in_home("~/x")
    monkeypatch.setenv("ASRDEPLOY_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_the_cache_variable_may_name_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASRDEPLOY_CACHE", "~/cache")
    assert cache_folder() == home / "cache"
