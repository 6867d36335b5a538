"""The workspace on a local folder and on a real S3: same behaviour, one writer wins, clear refusals."""

from __future__ import annotations

import pickle
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Thread
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from sonoloop.platform.errors import ConfigError, ConflictError, StorageError, UnreachableError
from sonoloop.platform.workspace import S3Config, Store, store_of

if TYPE_CHECKING:
    from conftest import S3Stack

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])
NUM_WRITERS = 8


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty place, once as a folder and once as a prefix of a bucket."""
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        return Store(str(tmp_path / "store"))
    stack: S3Stack = request.getfixturevalue("stack_s3")
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{stack.bucket()}/some/prefix")


@pytest.fixture
def bucket(stack_s3: S3Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    return stack_s3.bucket()


def test_what_is_written_is_read_listed_and_found(store: Store) -> None:
    store.check()
    store.write_bytes(b"one", "b", "1.txt")
    store.write_bytes(b"two!", "a.txt")
    store.write_bytes(b"two!", "ab.txt")
    assert store.read_bytes("b", "1.txt") == b"one"
    listed = list(store.list_objects())
    assert [info.uri for info in listed] == [store.uri_of(name) for name in ("a.txt", "ab.txt", "b/1.txt")]
    assert [info.size_bytes for info in listed] == [4, 4, 3]
    assert [info.uri for info in store.list_objects("b")] == [store.uri_of("b/1.txt")]
    assert store.exists("a.txt")
    assert not store.exists("nothing")
    assert not store.exists("b"), "a folder is no object"


def test_a_neighbour_whose_name_begins_alike_is_not_listed(store: Store) -> None:
    store.write_bytes(b"1", "room", "a")
    store.write_bytes(b"1", "room-2", "b")
    Store(f"{store.uri}-2").write_bytes(b"1", "c")
    assert [info.uri for info in store.list_objects("room")] == [store.uri_of("room", "a")]
    assert len(list(store.list_objects())) == 2


def test_a_missing_object_is_a_file_not_found_error(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read_bytes("nothing")
    assert store.get_control("nothing") is None


def test_an_etag_changes_with_the_object_and_only_with_it(store: Store) -> None:
    def etag() -> str:
        (info,) = store.list_objects()
        return info.etag

    store.write_bytes(b"one", "a")
    first = etag()
    assert etag() == first
    time.sleep(0.01)
    store.write_bytes(b"two", "a")
    assert etag() != first


def test_tables_of_a_room_are_read_as_one_and_an_empty_room_is_an_empty_table(store: Store) -> None:
    assert store.read_tables(SCHEMA, "room").num_rows == 0
    store.write_table(pa.Table.from_pylist([{"a": 1, "b": "x"}], schema=SCHEMA), "room", "r1", "0.parquet")
    store.write_table(pa.Table.from_pylist([{"a": 2, "b": "y"}], schema=SCHEMA), "room", "r2", "0.parquet")
    store.write_bytes(b"no table", "room", "notes.txt")
    assert store.read_tables(SCHEMA, "room").to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize("other", [b"PAR1 but cut off", b""])
def test_a_file_that_is_no_table_is_named(store: Store, other: bytes) -> None:
    store.write_bytes(other, "room", "broken.parquet")
    with pytest.raises(StorageError, match=r"broken\.parquet"):
        store.read_tables(SCHEMA, "room")


def test_a_table_of_other_columns_is_named(store: Store) -> None:
    store.write_table(pa.table({"c": [1]}), "room", "foreign.parquet")
    with pytest.raises(StorageError, match=r"foreign\.parquet"):
        store.read_tables(SCHEMA, "room")


def test_a_control_object_changes_only_under_the_version_that_was_read(store: Store) -> None:
    store.put_control(b"1", "c.json", version=None)
    with pytest.raises(ConflictError):
        store.put_control(b"again", "c.json", version=None)
    data, version = store.get_control("c.json") or (b"", "")
    assert data == b"1"
    store.put_control(b"2", "c.json", version=version)
    with pytest.raises(ConflictError, match="another writer"):
        store.put_control(b"3", "c.json", version=version)
    assert (store.get_control("c.json") or (b"",))[0] == b"2"


@pytest.mark.parametrize("exists", [False, True])
def test_of_eight_writers_at_once_exactly_one_wins(store: Store, exists: bool) -> None:
    if exists:
        store.put_control(b"before", "c.json", version=None)
    found = store.get_control("c.json")
    version = found[1] if found else None
    start = Barrier(NUM_WRITERS)

    def write(number: int) -> int | None:
        own = pickle.loads(pickle.dumps(store))  # as another process would have it
        start.wait()
        try:
            own.put_control(f"writer {number}".encode(), "c.json", version=version)
        except ConflictError:
            return None
        return number

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        winners = [number for number in pool.map(write, range(NUM_WRITERS)) if number is not None]
    assert len(winners) == 1
    assert (store.get_control("c.json") or (b"",))[0] == f"writer {winners[0]}".encode()


def test_writers_of_one_object_at_once_leave_it_whole_and_nothing_else(store: Store) -> None:
    payload = b"the same bytes" * 1000
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        list(pool.map(lambda _: store.write_bytes(payload, "images", "x.png"), range(4 * NUM_WRITERS)))
    assert store.read_bytes("images", "x.png") == payload
    assert len(list(store.list_objects())) == 1


def test_a_store_travels_without_its_clients(store: Store) -> None:
    store.write_bytes(b"1", "a")
    other = pickle.loads(pickle.dumps(store))
    assert other == store
    assert other.read_bytes("a") == b"1"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(StorageError):
        Store(str(tmp_path)).write_bytes(b"x", "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nowhere", "file"):
        with pytest.raises(StorageError, match=name):
            Store(str(tmp_path / name)).check()


@pytest.mark.parametrize(
    "uri", ["gs://bucket/x", "http://host/bucket", "s3://", "s3:///prefix", "s3://a bucket/x"]
)
def test_an_address_that_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="expected s3://bucket/prefix"):
        store_of(uri, S3Config())


@pytest.mark.parametrize("uri", ["s3://AKIA:hidden@bucket/x", "s3://bucket/x?secret_key=hidden"])
def test_keys_in_an_address_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as caught:
        store_of(uri, S3Config())
    assert "hidden" not in str(caught.value)


def test_a_slash_at_the_end_and_a_file_scheme_change_nothing(tmp_path: Path) -> None:
    Store(str(tmp_path)).write_bytes(b"1", "a")
    for uri in (f"{tmp_path}/", f"file://{tmp_path}"):
        assert store_of(uri, S3Config()).read_bytes("a") == b"1"
    assert store_of("s3://bucket/x/", S3Config()).path("a") == "bucket/x/a"


def test_a_missing_bucket_is_said_to_be_missing(bucket: str) -> None:
    with pytest.raises(StorageError, match=f"s3://no-{bucket}/x: no such bucket"):
        Store(f"s3://no-{bucket}/x").check()


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "X")]
)
def test_a_wrong_key_is_refused_alike_by_every_door(
    bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    store = Store(f"s3://{bucket}")
    doors = (
        store.check,
        lambda: list(store.list_objects()),
        lambda: store.read_bytes("a"),
        lambda: store.write_bytes(b"x", "a"),
        lambda: store.exists("a"),
        lambda: store.read_tables(SCHEMA, "room"),
        lambda: store.get_control("a"),
        lambda: store.put_control(b"x", "a", version=None),
    )
    for door in doors:
        with pytest.raises(StorageError, match="access refused; check AWS_ACCESS_KEY_ID") as caught:
            door()
        assert value not in str(caught.value).replace("AWS_ACCESS_KEY_ID", "")


def test_without_keys_the_message_names_them(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="no keys; set AWS_ACCESS_KEY_ID"):
        Store(f"s3://{bucket}").check()


@pytest.mark.parametrize("port", [1, 24_034], ids=["closed", "a port that reads like the status 403"])
def test_an_endpoint_that_is_down_is_not_taken_for_a_refusal(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    store = Store("s3://bucket/x", S3Config(endpoint_url=f"http://127.0.0.1:{port}"))
    for door in (store.check, lambda: store.read_bytes("a")):
        with pytest.raises(StorageError, match="endpoint does not answer"):
            door()


def test_an_endpoint_from_the_environment_must_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        Store("s3://bucket").check()


@pytest.mark.parametrize("value", ["localhost:9000", "ftp://host", "http://user:word@host:1", "http://"])
def test_a_configured_endpoint_must_be_an_address_without_keys(value: str) -> None:
    with pytest.raises(ValueError, match="endpoint_url"):
        S3Config(endpoint_url=value)


def test_thousands_of_objects_are_removed_at_once_and_those_that_are_gone_do_no_harm(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonoloop.platform.workspace.KEYS_PER_REMOVAL", 3)
    for number in range(8):
        store.write_bytes(b"x", "folder", f"{number}.txt")
    paths = [store.path("folder", f"{number}.txt") for number in (0, 1, 2, 3, 4, 6, 7, 9)]
    store.remove_paths(paths)
    store.remove_paths([])
    assert [info.uri for info in store.list_objects()] == [store.uri_of("folder", "5.txt")]


def test_an_endpoint_that_hangs_up_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=_hang_up_on_everybody, args=(server,), daemon=True).start()
        store = Store("s3://bucket/x", S3Config(endpoint_url=f"http://127.0.0.1:{server.getsockname()[1]}"))
        with pytest.raises(UnreachableError, match="endpoint does not answer"):
            store.check()


def _hang_up_on_everybody(server: socket.socket) -> None:
    with suppress(OSError):  # the test is over
        while True:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.close()
