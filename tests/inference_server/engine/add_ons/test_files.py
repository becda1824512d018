"""Add-ons' files from volumes, buckets and URLs: what comes, what is refused, and with which sentence."""

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path

import obstore
import pytest
from easel_contract.add_ons import AddOnConfig
from easel_server.engine.add_ons import buckets
from easel_server.engine.add_ons.files import AddOnFiles, Bounds
from easel_server.engine.interface import GatheringError, GenerationError
from easel_server.engine.model_files.hub import Hub
from easel_server.worker.engine_errors import is_engine_error
from easel_server.worker.worker import WorkerSettings
from obstore.store import S3Store

from tests.support.s3_server import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, S3Server

LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass
class WebServer:
    """Answers each path with what it has for it; what isn't there is 404, and a number is a status."""

    address: str = ""
    answers: dict[str, bytes | int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[WebServer]:
    served = WebServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            answer = served.answers.get(self.path, 404)
            self.send_response(answer if isinstance(answer, int) else 200)
            body = b"" if isinstance(answer, int) else answer
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def by_url(web: WebServer, path: str, sha256: str | None = None) -> AddOnConfig:
    return AddOnConfig(
        name="ink",
        source=f"{web.address}{path}",
        sha256=sha256,
        allowed_hosts=("127.0.0.1",),
        allowed_networks=LOOPBACK,
    )


def build(tmp_path: Path, bounds: Bounds | None = None, clock: list[float] | None = None) -> AddOnFiles:
    now = clock if clock is not None else [0.0]
    return AddOnFiles(tmp_path / "cache", Hub(None), bounds, clock=lambda: now[0])


def list_kept(tmp_path: Path) -> list[str]:
    return [file.name for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"]


def test_a_file_that_changes_on_a_volume_has_another_digest_and_is_found_anew(tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"one")
    add_on = AddOnConfig(name="ink", source=str(tmp_path), file="ink.safetensors")
    files = build(tmp_path)
    (first,) = files.gather([add_on])
    assert files.gather([add_on]) == (first,)
    (tmp_path / "ink.safetensors").write_bytes(b"another")
    (second,) = files.gather([add_on])
    assert second.digest != first.digest
    assert files.find(add_on).digest == second.digest


def test_a_link_that_leads_out_of_a_volume_is_refused(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (volume / "ink.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(GenerationError, match="leads out of the volume"):
        build(tmp_path).gather([AddOnConfig(name="ink", source=str(volume), file="ink.safetensors")])


def test_a_file_that_isnt_on_the_volume_is_answered_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "clay.safetensors").write_bytes(b"x")
    with pytest.raises(GenerationError, match=r"ink \(.*has no ink.safetensors; .*beside it are: clay.safetensors"):
        build(tmp_path).gather([AddOnConfig(name="ink", source=str(tmp_path), file="ink.safetensors")])


def test_a_url_is_fetched_once_whoever_asks(tmp_path: Path, web: WebServer) -> None:
    web.answers["/ink.safetensors"] = b"weights"
    add_on, files = by_url(web, "/ink.safetensors"), build(tmp_path)
    askers = [threading.Thread(target=files.gather, args=([add_on],)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert web.asked == ["/ink.safetensors"]
    assert files.find(add_on).path.read_bytes() == b"weights"
    (again,) = build(tmp_path).gather([add_on])  # another process with the same cache
    assert (web.asked, again.digest) == (["/ink.safetensors"], files.find(add_on).digest)


def test_a_bad_url_isnt_asked_again_for_a_while(tmp_path: Path, web: WebServer) -> None:
    clock = [0.0]
    add_on, files = by_url(web, "/gone.safetensors"), build(tmp_path, clock=clock)
    for _ in range(3):
        with pytest.raises(GenerationError, match=r"ink \(http.*answered 404"):
            files.gather([add_on])
    assert web.asked == ["/gone.safetensors"]
    web.answers["/gone.safetensors"] = b"there"
    clock[0] += Bounds().remember_failure_seconds + 1
    assert files.gather([add_on])[0].downloaded_bytes == 5


def test_a_server_in_trouble_may_be_tried_again(tmp_path: Path, web: WebServer) -> None:
    web.answers["/ink.safetensors"] = 503
    clock = [0.0]
    add_on, files = by_url(web, "/ink.safetensors"), build(tmp_path, clock=clock)
    for _ in range(3):  # jobs that come together
        with pytest.raises(OSError, match="answered 503"):
            files.gather([add_on])
    assert web.asked == ["/ink.safetensors"], "a server in trouble is asked once for all of them"
    web.answers["/ink.safetensors"] = b"weights"
    clock[0] += WorkerSettings.gather_pause_seconds  # the next attempt of the same job
    assert files.gather([add_on])[0].downloaded_bytes == 7


def test_a_file_with_another_digest_than_asked_for_is_refused_and_not_kept(tmp_path: Path, web: WebServer) -> None:
    web.answers["/ink.safetensors"] = b"weights"
    with pytest.raises(GenerationError, match="correct sha256"):
        build(tmp_path).gather([by_url(web, "/ink.safetensors", "0" * 64)])
    assert list_kept(tmp_path) == []


def test_a_file_beyond_the_bound_is_refused(tmp_path: Path, web: WebServer) -> None:
    web.answers["/ink.safetensors"] = b"weights"
    with pytest.raises(
        GenerationError, match=r"ink .* 6 bytes allowed; use a smaller one, or raise spec.downloads.maxFi"
    ):
        build(tmp_path, Bounds(max_file_bytes=6)).gather([by_url(web, "/ink.safetensors")])
    assert list_kept(tmp_path) == []


def test_what_was_used_least_lately_makes_room(tmp_path: Path, web: WebServer) -> None:
    files = build(tmp_path, Bounds(max_cache_bytes=10, keep_seconds=60.0))
    for name in ("a", "b", "c"):
        web.answers[f"/{name}.safetensors"] = b"weights"
    first, second, third = (by_url(web, f"/{name}.safetensors") for name in ("a", "b", "c"))
    files.gather([first])
    files.gather([second])
    old = files.find(first).path
    assert old.exists(), "a job may be about to use it"
    os.utime(old, (1.0, 1.0))
    files.gather([third])
    assert not old.exists()
    assert files.find(second).path.exists()


def by_bucket(tmp_path: Path, server: S3Server) -> tuple[AddOnConfig, S3Store]:
    """An add-on in a bucket, and what writes there."""
    secret = tmp_path / "weights-bucket"
    secret.mkdir()
    (secret / "access-key-id").write_text(ACCESS_KEY_ID)
    (secret / "secret-access-key").write_text(f"{SECRET_ACCESS_KEY}\n")
    store = S3Store(
        BUCKET,
        endpoint=server.endpoint,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        config={"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY},
    )
    add_on = AddOnConfig(
        name="ink",
        source=f"s3://{BUCKET}/loras/ink.safetensors",
        endpoint=server.endpoint,
        credentials_directory=str(secret),
    )
    return add_on, store


def test_an_object_of_a_bucket_is_fetched_and_looked_at_again(tmp_path: Path, s3_server: S3Server) -> None:
    add_on, store = by_bucket(tmp_path, s3_server)
    secret = Path(add_on.credentials_directory or "")
    clock = [0.0]
    files = build(tmp_path, clock=clock)
    obstore.put(store, "loras/ink.safetensors", b"one")
    (first,) = files.gather([add_on])
    obstore.put(store, "loras/ink.safetensors", b"another")
    assert files.gather([add_on])[0].digest == first.digest, "it isn't asked for each job"
    clock[0] += Bounds().look_again_seconds + 1
    assert files.gather([add_on])[0].digest != first.digest
    with pytest.raises(GenerationError, match=r"the bucket has no loras/none\.safetensors"):
        files.gather([add_on.model_copy(update={"source": f"s3://{BUCKET}/loras/none.safetensors"})])
    (secret / "secret-access-key").write_text("wrong")
    with pytest.raises(GenerationError, match="access was refused"):
        files.gather([add_on.model_copy(update={"source": f"s3://{BUCKET}/loras/other.safetensors"})])


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("https://me:hunter2@files.example.com/ink.safetensors", "https://files.example.com/ink.safetensors"),
        ("https://files.example.com/ink.safetensors?token=hunter2", "https://files.example.com/ink.safetensors?…"),
        ("https://files.example.com/ink.safetensors#hunter2", "https://files.example.com/ink.safetensors?…"),
        ("https://[hunter2", "https://…"),
        ("s3://bucket/ink.safetensors", "s3://bucket/ink.safetensors"),
        ("someone/ink", "someone/ink"),
    ],
)
def test_no_password_and_no_token_of_an_address_reaches_whoever_asks_for_its_add_on(
    tmp_path: Path, source: str, shown: str
) -> None:
    add_on = AddOnConfig(name="ink", source=source)
    assert add_on.describe() == f"ink ({shown})"
    if source.startswith("https://files"):
        with pytest.raises((GenerationError, OSError)) as caught:
            build(tmp_path).gather([add_on])
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("file", ["x" * 5000, "a\0b", "pipe", "loop"])
def test_a_path_that_can_be_no_file_is_refused_for_good_and_named(tmp_path: Path, file: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(GenerationError, match=r"ink \(.*correct"):
        build(tmp_path).gather([AddOnConfig(name="ink", source=str(tmp_path), file=file)])


def test_a_file_that_is_gone_when_its_job_begins_is_no_fault_of_the_engine(tmp_path: Path) -> None:
    file, files = tmp_path / "ink.safetensors", build(tmp_path)
    file.write_bytes(b"weights")
    add_on = AddOnConfig(name="ink", source=str(file))
    files.gather([add_on])
    file.unlink()
    with pytest.raises(GatheringError, match=r"ink \(.*can't be read") as caught:
        files.find(add_on)
    assert not is_engine_error(caught.value)


def test_a_worker_that_dies_as_an_object_arrives_never_takes_the_former_one_for_it(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_on, store = by_bucket(tmp_path, s3_server)
    obstore.put(store, "loras/ink.safetensors", b"former")
    (former,) = build(tmp_path).gather([add_on])
    obstore.put(store, "loras/ink.safetensors", b"newer")
    with monkeypatch.context() as dying:

        def die(*_: object) -> None:
            raise SystemExit

        dying.setattr(Path, "replace", die)
        with pytest.raises(SystemExit):
            build(tmp_path).gather([add_on])
    (newer,) = build(tmp_path).gather([add_on])
    assert newer.digest != former.digest


def test_a_download_that_the_disk_has_no_room_for_leaves_nothing_on_it(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_on, store = by_bucket(tmp_path, s3_server)
    obstore.put(store, "loras/ink.safetensors", b"weights")

    def fill(_store: object, _key: str, path: Path) -> None:
        path.write_bytes(b"wei")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(buckets, "_write", fill)
    with pytest.raises(OSError, match="became full"):
        build(tmp_path).gather([add_on])
    assert list_kept(tmp_path) == []
