"""The client of object stores, against a real server behind a proxy that injects faults."""

from __future__ import annotations

import itertools
import json
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isolation import ROOT
from object_server import BUCKET, KEY, SECRET, Proxy, Request, ask, at

from datagen.errors import DamagedError, InputError, StorageError
from datagen.objects import Patience, Remote, is_url

NAMES = (f"test{number}" for number in itertools.count())
DATA = bytes(range(256)) * 40


@pytest.fixture
def remote(proxy: Proxy) -> Remote:
    """Give a client of a prefix of its own."""
    return Remote(f"s3://{BUCKET}/{next(NAMES)}")


def once(fault: int | str, method: str, times: int = 1) -> Callable[[Request], int | str | None]:
    """Let the first requests of a method go wrong."""
    left = iter([fault] * times)
    return lambda request: next(left, None) if request.method == method else None


# URLs


@pytest.mark.parametrize(
    "url",
    [
        f"s3://KEY:{SECRET}@bucket/mnist",
        f"s3://bucket/mnist?secret={SECRET}",
        f"s3://bucket/mnist#{SECRET}",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://bucket/a b",
        f"s3://KEY:{SECRET}/bucket/mnist",
        f"https://KEY:{SECRET}/bucket/mnist",
        "ftp://bucket/mnist",
        "data/mnist",
    ],
)
def test_a_url_that_is_none_or_has_credentials_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="s3://") as caught:
        Remote(url)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(vars(caught.value))


def test_urls_are_told_from_paths_and_end_without_a_slash() -> None:
    assert is_url("s3://bucket/mnist") and is_url("gs://b/m") and is_url("ftp://x")
    assert not is_url("data/mnist") and not is_url("c:/data") and not is_url("s3:/bucket")
    assert Remote("s3://bucket/mnist/").place("a") == "s3://bucket/mnist/a"


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InputError, match=r"obstore; pip install --editable '.\[s3\]'"):
        Remote("s3://bucket/mnist").list()


def test_one_module_of_each_package_knows_the_client() -> None:
    paths = [*(ROOT / "datagen").rglob("*.py"), *(ROOT / "modeling").rglob("*.py")]
    knowing = {path.relative_to(ROOT).as_posix() for path in paths if "obstore" in path.read_text()}
    assert knowing == {"datagen/objects.py", "modeling/data/remote.py"}


@pytest.mark.parametrize(("seconds", "tries"), [("no", "3"), ("0", "3"), ("5", "1e9"), ("5", "-1")])
def test_patience_is_a_number(seconds: str, tries: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAGEN_REQUEST_SECONDS", seconds)
    monkeypatch.setenv("DATAGEN_REQUEST_TRIES", tries)
    with pytest.raises(InputError, match="is no number"):
        Patience.of_environment()


def test_patience_has_defaults() -> None:
    assert Patience.of_environment() == Patience(600, 8)


def test_an_environment_without_an_account_is_explained() -> None:
    pytest.importorskip("obstore")
    with pytest.raises(StorageError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        Remote("az://bucket/mnist").list()


@pytest.mark.parametrize("gone", [[], ["a"], ["b", "c"], ["a", "b", "c"]])
def test_a_store_that_finds_an_object_gone_removes_the_others(gone: list[str]) -> None:
    exceptions = pytest.importorskip("obstore.exceptions")
    there = {"a", "b", "c"} - {*gone}

    class Library:
        """Removes several objects until one is gone, as the client does at az://."""

        def delete(self, _client: object, paths: str | list[str]) -> None:
            for path in [paths] if isinstance(paths, str) else paths:
                if path not in there:
                    raise FileNotFoundError(path)
                there.remove(path)

    library = Library()
    vars(library)["exceptions"] = exceptions
    remote = Remote("az://bucket/mnist")
    vars(remote).update(_library=library, _client=object())
    remote.delete(["a", "b", "c"])
    assert not there


# What is written is there


def test_files_are_written_listed_read_and_removed(
    remote: Remote, proxy: Proxy, object_server_port: int
) -> None:
    files = {f"some/folder/{number}.bin": DATA[number:] for number in range(7)} | {"empty": b""}
    assert all(remote.put(path, data) for path, data in files.items())
    proxy.clear()
    proxy.fault = lambda _: "page"
    assert remote.list() == {path: len(data) for path, data in files.items()}
    assert proxy.count("GET") == 3  # pages of three objects
    for path, data in files.items():
        assert remote.read(path, len(data)) == data
        assert b"".join(remote.stream(path)) == data
        assert remote.size(path) == len(data)
        there = f"/{BUCKET}/{remote.url.rpartition('/')[2]}/{path}"
        assert ask(object_server_port, "GET", there) == (200, data)
    assert remote.read("nothing", 9) is None
    assert remote.size("nothing") is None
    with pytest.raises(StorageError, match="no such object"):
        list(remote.stream("nothing"))
    with pytest.raises(DamagedError, match="at most 10,000 bytes, found 10,240"):
        remote.read("some/folder/0.bin", 10_000)
    remote.delete(["empty", "some/folder/0.bin", "gone already"])
    remote.delete([])
    assert sorted(remote.list()) == [f"some/folder/{number}.bin" for number in range(1, 7)]


def test_create_keeps_what_is_there_and_says_whether_it_is_the_same(remote: Remote) -> None:
    assert remote.put("file", DATA)
    assert remote.put("file", DATA)
    assert not remote.put("file", DATA[:-1])
    assert not remote.put("file", bytes(len(DATA)))
    assert remote.read("file", len(DATA)) == DATA
    assert remote.put("file", b"new", create=False)
    assert remote.read("file", 9) == b"new"


def some(faults: list[int | str], quick: set[int | str]) -> list[Any]:
    """Mark as long the faults that are not among the quick ones."""
    return [one if one in quick else pytest.param(one, marks=pytest.mark.long) for one in faults]


WRITES = some(
    [429, 500, 503, 400, 409, "reset", "lost", "cut", "cut up", "flip up"],
    {503, 409, "lost", "flip up"},
)


@pytest.mark.parametrize("fault", WRITES)
@pytest.mark.parametrize("create", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_write_survives_a_fault(
    fault: int | str, create: bool, remote: Remote, proxy: Proxy
) -> None:
    proxy.fault = once(fault, "PUT", 2)
    assert remote.put("file", DATA, create=create)
    assert proxy.count("PUT") > 1 or fault == "cut"
    proxy.clear()
    assert remote.read("file", len(DATA)) == DATA


@pytest.mark.parametrize("fault", some([429, 500, 503, "reset", "lost", "cut"], {"cut"}))
def test_a_read_and_a_list_survive_a_fault(fault: int | str, remote: Remote, proxy: Proxy) -> None:
    remote.put("file", DATA)
    proxy.fault = once(fault, "GET", 2)
    assert remote.read("file", len(DATA)) == DATA
    proxy.fault = once(fault, "GET", 2)
    assert remote.list() == {"file": len(DATA)}


def test_a_flipped_bit_does_not_make_two_files_differ(remote: Remote, proxy: Proxy) -> None:
    remote.put("file", DATA)
    proxy.fault = once("flip", "GET")
    assert remote.put("file", DATA)


PATHS = st.sampled_from(["a", "b", "folder/a"])
CONTENTS = st.sampled_from([b"", b"one", b"two", DATA])
TROUBLES: list[int | str | None] = [None, 503, 409, "reset", "lost", "cut up", "flip up"]


@pytest.mark.long
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["create", "write", "delete"]),
            PATHS,
            CONTENTS,
            st.sampled_from(TROUBLES),
        ),
        max_size=8,
    )
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_writes_end_as_in_a_dict(
    steps: list[tuple[str, str, bytes, int | str | None]], proxy: Proxy
) -> None:
    remote, expected = Remote(f"s3://{BUCKET}/{next(NAMES)}"), dict[str, bytes]()
    for action, path, data, trouble in steps:
        proxy.fault = (lambda _: None) if trouble is None else once(trouble, "PUT")
        if action == "delete":
            remote.delete([path])
            expected.pop(path, None)
        elif action == "write":
            assert remote.put(path, data, create=False)
            expected[path] = data
        else:
            assert remote.put(path, data) == (expected.setdefault(path, data) == data)
    proxy.clear()
    assert remote.list() == {path: len(data) for path, data in expected.items()}
    assert {path: remote.read(path, 1 << 20) for path in expected} == expected


# What goes wrong for ever


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (503, "answers with an error .found 503"),
        (403, "refuses access .found 403 Forbidden, Injected.; look at the credentials in the env"),
        ("expired", "refuses access .found 400 Bad Request, ExpiredToken.; look at the cred"),
        (301, "somewhere else; set AWS_REGION"),
        (409, "in a conflict that does not end"),
        (
            "hang",
            r"does not answer; look at the endpoint.* DATAGEN_REQUEST_SECONDS to more than 0\.2",
        ),
        ("reset", "does not answer; look at the endpoint and the network, then give"),
    ],
)
def test_what_goes_wrong_for_ever_is_told(
    fault: int | str, words: str, remote: Remote, proxy: Proxy
) -> None:
    proxy.fault = once(fault, "PUT", 1000)
    proxy.patience = 0.5
    with at(proxy.port, seconds=0.2, tries=2), pytest.raises(StorageError, match=words) as caught:
        Remote(remote.url).put("file", DATA)
    assert caught.value.path == remote.place("file")
    assert caught.value.exit_code == 7
    proxy.clear()
    assert remote.list() == {}


def test_a_bucket_that_is_not_there_is_told(remote: Remote) -> None:
    absent = Remote("s3://absent/prefix")
    calls: list[Callable[[], object]] = [
        absent.list,
        lambda: absent.read("file", 9),
        lambda: absent.put("file", DATA),
        lambda: list(absent.stream("file")),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="no such bucket"):
            call()


def test_a_store_that_ignores_conditions_is_refused(remote: Remote, proxy: Proxy) -> None:
    remote.require_conditional_writes()
    proxy.fault = lambda request: "unconditional"
    with pytest.raises(StorageError, match=r"ignores conditional writes.*use a store that honours"):
        remote.require_conditional_writes()
    assert remote.list() == {}


# Secrets


def test_the_secret_is_nowhere(remote: Remote, proxy: Proxy) -> None:
    remote.put("file", DATA)
    shown = [repr(remote), str(remote), pickle.dumps(remote).decode("latin-1")]
    again = pickle.loads(pickle.dumps(remote))
    assert again.list() == {"file": len(DATA)}
    for fault in (403, 503, 301, "reset"):
        proxy.fault = lambda _, fault=fault: fault  # type: ignore[misc]
        with at(proxy.port, tries=1), pytest.raises(StorageError) as caught:
            Remote(remote.url).list()
        error = caught.value
        shown += [repr(error), str(error), repr(vars(error)), json.dumps(str(error))]
        shown += [repr(error.__cause__), pickle.dumps(error).decode("latin-1")]
        assert error.__suppress_context__
    assert remote.url in shown[0]
    assert [text for text in shown if SECRET in text or KEY in text] == []
